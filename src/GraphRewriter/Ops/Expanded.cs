namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Operators that passes of <c>Import/</c> replace by others, whose gradients are known.</summary>
internal static class Expanded
{
    private static readonly (string Domain, string Pass, string[] Names)[] Passes =
    [
        ("", "AttentionExpansion", ["Attention"]),
        ("com.microsoft", "AttentionExpansion", ["Attention", "GroupQueryAttention", "MultiHeadAttention"]),
        ("com.microsoft", "FusedActivations", ["FusedConv", "FusedGemm"]),
        ("com.microsoft", "FusedOperators", ["EmbedLayerNormalization"]),
        ("", "FusedOperators", ["MeanVarianceNormalization", "STFT"]),
        ("", "OpsetUpgrade", ["Scatter", "Upsample"]),
    ];

    public static IEnumerable<OpRule> Rules { get; } =
    [
        .. from pass in Passes
        from name in pass.Names
        select new OpRule(name, null, pass.Domain, Expanded: $"Import/{pass.Pass}.cs"),
    ];
}
