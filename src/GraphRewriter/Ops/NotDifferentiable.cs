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

    public static IEnumerable<OpRule> Rules { get; } = [.. Names.Select(name => new OpRule(name, null))];
}
