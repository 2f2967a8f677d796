namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// Operators with subgraphs. Their gradients are not of inputs alone, so <c>Autodiff/SubgraphGradients</c> emits them.
/// </summary>
internal static class ControlFlow
{
    public static IEnumerable<OpRule> Rules { get; } = [new("If", OfSubgraphs), new("Scan", OfSubgraphs)];

    /// <summary>Stands for a rule: differentiation knows what to do.</summary>
    public static Term?[] OfSubgraphs(GradientContext g) =>
        throw new InvalidOperationException($"{g.Node} is differentiated with its subgraphs.");
}
