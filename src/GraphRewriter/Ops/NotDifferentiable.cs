using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// Operators through which nothing flows back: piecewise constant ones, comparisons, shapes, indices and random
/// numbers, texts.
/// </summary>
internal static class NotDifferentiable
{
    private static readonly string[] Conditions =
    [
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "And",
        "Or",
        "Xor",
        "Not",
        "IsNaN",
        "IsInf",
        "OptionalHasElement",
        "RegexFullMatch",
    ];

    private static readonly string[] Indices =
    [
        "Shape",
        "Size",
        "NonZero",
        "ArgMax",
        "ArgMin",
        "NonMaxSuppression",
        "SequenceLength",
    ];

    private static readonly string[] RandomNumbers =
    [
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
    ];

    private static readonly string[] Others =
    [
        "Sign",
        "Floor",
        "Ceil",
        "Round",
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "BitwiseNot",
        "Range",
        "EyeLike",
        "Hardmax",
        "Unique",
        "HannWindow",
        "HammingWindow",
        "BlackmanWindow",
        "MelWeightMatrix",
        "BitCast",
        "Constant",
        "ImageDecoder",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "TfIdfVectorizer",
    ];

    /// <summary>Those of ai.onnx.ml: trees, which are piecewise constant, and encoders.</summary>
    private static readonly string[] Traditional =
    [
        "Binarizer",
        "CastMap",
        "CategoryMapper",
        "DictVectorizer",
        "LabelEncoder",
        "OneHotEncoder",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
        "ZipMap",
    ];

    public static IEnumerable<OpRule> Rules { get; } =
    [
        .. Conditions.Select(name => new OpRule(name, null, ResultType: _ => ElementType.Bool)),
        .. Indices.Select(name => new OpRule(name, null, ResultType: _ => ElementType.Int64)),
        .. RandomNumbers.Select(name => new OpRule(name, null, IsRandom: true)),
        new("OneHot", null, ResultType: n => n.Input(2)?.Type ?? ElementType.Undefined),
        new("ConstantOfShape", null, ResultType: n => n.Attributes.Tensor("value")?.Type ?? ElementType.Float),
        .. Others.Select(name => new OpRule(name, null)),
        .. Traditional.Select(name => new OpRule(name, null, "ai.onnx.ml")),
    ];
}
