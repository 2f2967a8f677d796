using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Gives recurrent operators whose tensors have the batch first (layout 1), which ONNX Runtime does not compute, the
/// time first and transposes around them.
/// </summary>
internal static class RecurrentLayout
{
    public static void Apply(Graph graph) =>
        GraphBuilder.Expand(
            graph,
            node => Recurrent.Is(node) && node.Attributes.Int("layout", 0) == 1 ? b => Expand(b, node) : null
        );

    private static void Expand(GraphBuilder b, Node node)
    {
        var inputs = node.Inputs.ToArray();
        foreach (var i in new[] { Recurrent.X, Recurrent.H, Recurrent.C })
        {
            if (node.Input(i) is { } value)
            {
                inputs[i] = new Term(b, value).Transpose(1, 0, 2);
            }
        }

        var made = b.Node(
            node.OpType,
            "",
            inputs,
            node.Outputs.Count,
            [.. node.Attributes.All.Where(a => a.Name != "layout")]
        );
        foreach (var (i, output) in node.Outputs.Index().Where(o => o.Item.Name.Length > 0))
        {
            // Y is [T, directions, N, H] for [N, T, directions, H].
            long[] order = i == 0 ? [2, 0, 1, 3] : [1, 0, 2];
            b.Append(new Node("Transpose", "", output.Name, [made.Outputs[i]], [Ints("perm", order)], [output]));
        }
    }
}
