namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Operators that passes of <c>Import/</c> replace by others, whose gradients are known.</summary>
internal static class Expanded
{
    /// <summary>The pass that replaces operators on quantized numbers.</summary>
    public const string Dequantization = "Import/Dequantization.cs";

    private const string Quantized =
        "it computes with quantized numbers, which no gradient moves: RewriteOptions.Dequantize makes a float operator "
        + "of it";

    private static readonly (string Domain, string Pass, string[] Names)[] Passes =
    [
        ("", "AttentionExpansion", ["Attention"]),
        ("com.microsoft", "AttentionExpansion", ["Attention", "GroupQueryAttention", "MultiHeadAttention"]),
        ("com.microsoft", "FusedActivations", ["FusedConv", "FusedGemm"]),
        ("com.microsoft", "FusedOperators", ["EmbedLayerNormalization"]),
        ("", "FusedOperators", ["MeanVarianceNormalization", "STFT"]),
        ("", "StraightThrough", ["DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"]),
        ("com.microsoft", "StraightThrough", ["DequantizeLinear", "QuantizeLinear"]),
        ("", "OpsetUpgrade", ["Scatter", "Upsample"]),
    ];

    /// <summary>Operators that the pass replaces only where it is asked to.</summary>
    private static readonly (string Domain, string[] Names)[] OnRequest =
    [
        ("", ["ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"]),
        (
            "com.microsoft",
            [
                "DynamicQuantizeLSTM",
                "DynamicQuantizeMatMul",
                "GatherBlockQuantized",
                "MatMulIntegerToFloat",
                "MatMulNBits",
                "QAttention",
                "QGemm",
                "QLinearAdd",
                "QLinearAveragePool",
                "QLinearConcat",
                "QLinearGlobalAveragePool",
                "QLinearLeakyRelu",
                "QLinearMul",
                "QLinearReduceMean",
                "QLinearSigmoid",
                "QLinearSoftmax",
                "QLinearWhere",
            ]
        ),
    ];

    public static IEnumerable<OpRule> Rules { get; } =
    [
        .. from family in OnRequest
        from name in family.Names
        select new OpRule(name, null, family.Domain, Refused: Quantized, Expanded: Dequantization),
        .. from pass in Passes
        from name in pass.Names
        select new OpRule(name, null, pass.Domain, Expanded: $"Import/{pass.Pass}.cs"),
    ];
}
