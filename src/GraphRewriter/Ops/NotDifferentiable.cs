namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// Operators through which nothing flows back: piecewise constant ones, comparisons, shapes, indices and random
/// numbers, texts.
/// </summary>
internal static class NotDifferentiable
{
    private static readonly string[] Names =
    [
        "Sign",
        "Floor",
        "Ceil",
        "Round",
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
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "BitwiseNot",
        "Shape",
        "Size",
        "Range",
        "ConstantOfShape",
        "EyeLike",
        "OneHot",
        "NonZero",
        "ArgMax",
        "ArgMin",
        "Hardmax",
        "NonMaxSuppression",
        "Unique",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
        "HannWindow",
        "HammingWindow",
        "BlackmanWindow",
        "MelWeightMatrix",
        "BitCast",
        "Constant",
        "ImageDecoder",
        "OptionalHasElement",
        "SequenceLength",
        "RegexFullMatch",
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
        .. Names.Select(name => new OpRule(name, null)),
        .. Traditional.Select(name => new OpRule(name, null, "ai.onnx.ml")),
    ];
}
