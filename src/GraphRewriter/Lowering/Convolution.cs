namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>The gradients of convolutions.</summary>
internal static class Convolution
{
    public static IEnumerable<(string OpType, LoweringRule Rule)> Rules { get; } = [];
}
