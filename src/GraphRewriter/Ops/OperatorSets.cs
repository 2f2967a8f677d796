using System.Collections.Frozen;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>The operator sets that have an operator, from ONNX's changelog.</summary>
internal static class OperatorSets
{
    /// <summary>The oldest operator set that is understood.</summary>
    public const long Oldest = 7;

    /// <summary>The newest operator set that ONNX Runtime 1.31 accepts.</summary>
    public const long Newest = 26;

    /// <summary>The operators of ai.onnx that came after the oldest set that is read.</summary>
    private static readonly (long Since, string[] Names)[] Additions =
    [
        (8, ["Expand", "Scan"]),
        (
            9,
            [
                "Acosh",
                "Asinh",
                "Atanh",
                "Compress",
                "ConstantOfShape",
                "Cosh",
                "Erf",
                "EyeLike",
                "IsNaN",
                "MaxUnpool",
                "MeanVarianceNormalization",
                "NonZero",
                "OneHot",
                "Scatter",
                "Shrink",
                "Sign",
                "Sinh",
                "TfIdfVectorizer",
                "Where",
            ]
        ),
        (
            10,
            [
                "ConvInteger",
                "DequantizeLinear",
                "IsInf",
                "MatMulInteger",
                "Mod",
                "NonMaxSuppression",
                "QLinearConv",
                "QLinearMatMul",
                "QuantizeLinear",
                "Resize",
                "ReverseSequence",
                "RoiAlign",
                "StringNormalizer",
                "ThresholdedRelu",
            ]
        ),
        (
            11,
            [
                "BitShift",
                "ConcatFromSequence",
                "CumSum",
                "Det",
                "DynamicQuantizeLinear",
                "GatherElements",
                "GatherND",
                "Range",
                "Round",
                "ScatterElements",
                "ScatterND",
                "SequenceAt",
                "SequenceConstruct",
                "SequenceEmpty",
                "SequenceErase",
                "SequenceInsert",
                "SequenceLength",
                "SplitToSequence",
                "Unique",
            ]
        ),
        (
            12,
            ["Celu", "Einsum", "GreaterOrEqual", "LessOrEqual", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"]
        ),
        (14, ["HardSwish", "Trilu"]),
        (15, ["Bernoulli", "CastLike", "Optional", "OptionalGetElement", "OptionalHasElement"]),
        (16, ["GridSample"]),
        (
            17,
            [
                "BlackmanWindow",
                "DFT",
                "HammingWindow",
                "HannWindow",
                "LayerNormalization",
                "MelWeightMatrix",
                "STFT",
                "SequenceMap",
            ]
        ),
        (
            18,
            [
                "BitwiseAnd",
                "BitwiseNot",
                "BitwiseOr",
                "BitwiseXor",
                "CenterCropPad",
                "Col2Im",
                "GroupNormalization",
                "Mish",
            ]
        ),
        (19, ["DeformConv"]),
        (20, ["AffineGrid", "Gelu", "ImageDecoder", "RegexFullMatch", "StringConcat", "StringSplit"]),
        (23, ["Attention", "RMSNormalization", "RotaryEmbedding"]),
        (24, ["Swish", "TensorScatter"]),
        (26, ["BitCast", "CumProd"]),
    ];

    private static readonly FrozenDictionary<string, long> Since = Additions
        .SelectMany(a => a.Names.Select(name => (name, a.Since)))
        .ToFrozenDictionary(a => a.name, a => a.Since, StringComparer.Ordinal);

    /// <summary>Gives the first and the last operator set of a domain that has an operator and is read.</summary>
    public static (long First, long Last) Of(string domain, string op) =>
        domain switch
        {
            "" => (
                Since.GetValueOrDefault(op, Oldest),
                op switch
                {
                    "Upsample" => 9,
                    "Scatter" => 10,
                    _ => Newest,
                }
            ),
            "ai.onnx.ml" => (op == "TreeEnsemble" ? 5 : 1, 5),
            _ => (1, 1),
        };
}
