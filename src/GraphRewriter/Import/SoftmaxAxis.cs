using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Turns a softmax between Flatten and Reshape, as operator sets before 13 define it, into one over a single axis where
/// all other axes that it covers have size 1. Attention is recognized by its softmax.
/// </summary>
internal static class SoftmaxAxis
{
    /// <summary>Simplifies every such softmax; needs shapes.</summary>
    public static void Apply(Graph graph)
    {
        var readers = graph.Readers();
        foreach (var node in graph.Nodes.Where(n => n.Is("Softmax") || n.Is("LogSoftmax") || n.Is("Hardmax")).ToArray())
        {
            if (
                node.Inputs[0] is { Producer: { } flatten } rows
                && flatten.Is("Flatten")
                && flatten.Inputs[0] is { Shape: { } shape } x
                && node.Attributes.Int("axis", -1) is -1 or 1
                && readers[node.Outputs[0]].ToArray() is [var reshape]
                && reshape.Is("Reshape")
                && reshape.Outputs[0].Shape is { } result
                && result.SameAs(shape)
                && !graph.Outputs.Contains(node.Outputs[0])
                && rows.Rank == 2
            )
            {
                var first = shape.Axis(flatten.Attributes.Int("axis", 1));
                int[] covered = [.. Enumerable.Range(first, shape.Rank - first).Where(a => !shape[a].SameAs(1))];
                if (covered.Length <= 1)
                {
                    var axis = covered is [var only] ? only : shape.Rank - 1;
                    var made = new Node(node.OpType, "", node.Name, [x], [Int("axis", axis)], reshape.Outputs)
                    {
                        Origin = $"upgrade {node}",
                    };
                    graph.Replace(reshape, made);
                }
            }
        }

        graph.Prune();
    }
}
