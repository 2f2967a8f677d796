using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>Subtracts the running mean before a batch normalization in inference mode instead of inside it.</summary>
/// <remarks>
/// ONNX Runtime computes x k + (b - mean k), whose rounding error grows with the mean; at the kink of an activation
/// that turns the
/// gradient of an element on or off. With the mean taken off first the error is that of (x - mean) k + b, as other
/// frameworks compute it.
/// </remarks>
internal static class FrozenBatchNorm
{
    public static void Apply(Graph graph)
    {
        foreach (
            var node in graph
                .Nodes.Where(n =>
                    n.Is("BatchNormalization") && n.Origin.Length == 0 && n.Attributes.Int("training_mode", 0) == 0
                )
                .ToArray()
        )
        {
            var b = new GraphBuilder(graph)
            {
                Before = node,
                Origin = $"lowering {node}",
                Prefix = $"{node.Outputs[0].Name}/",
            };
            var (x, mean) = (new Term(b, node.Inputs[0]!), new Term(b, node.Inputs[3]!));
            var centered = x - mean.Reshape([-1, .. Enumerable.Repeat(1L, x.V.Rank - 2)]);
            centered.V.Shape = x.V.Shape;
            node.SetInput(0, centered);
            node.SetInput(3, mean.Zeros());
        }
    }
}
