using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// Builds the graph of a layer's exact curvature: the mean over a batch's input rows of a a^T, a with a final 1 where
/// there is a bias.
/// </summary>
internal static class SecondMoment
{
    /// <summary>
    /// Turns a graph of the forward pass into one that computes [size, size] from the model's inputs.
    /// </summary>
    /// <param name="graph">The forward pass in inference mode, with shapes.</param>
    /// <param name="layer">The layer, of the training graph: its input is found by name.</param>
    public static Graph Build(Graph graph, Layer layer)
    {
        var b = new GraphBuilder(graph) { Origin = $"second moment {layer.Node}", Prefix = "second_moment/" };
        var input = graph.Inputs.Concat(graph.Nodes.SelectMany(n => n.Outputs)).First(v => v.Name == layer.Input.Name);
        var rows = (layer.Kind == "dense" ? DenseRows(new(b, input), layer) : Patches(new(b, input), layer)).Cast(
            ElementType.Float
        );
        if (layer.Bias is not null)
        {
            rows = new(b, b.Op("Pad", [rows.V, b.Int64s(0, 0, 0, 1), b.Scalar(1, ElementType.Float)]));
        }

        var count = rows.Op("Shape", Int("start", 0), Int("end", 1)).Cast(ElementType.Float);
        var moment = new Term(b, b.Op("Gemm", [rows.V, rows.V], Int("transA", 1))) / count;
        graph.Outputs.Clear();
        graph.Outputs.Add(b.Named(moment, TrainingOutput));
        graph.Prune();
        graph.Inputs.RemoveAll(i => !graph.Nodes.Any(n => n.Reads.Contains(i)));
        return graph;
    }

    /// <summary>The name of the graph's output.</summary>
    public const string TrainingOutput = "second_moment";

    private static Term DenseRows(Term x, Layer layer) =>
        layer.Node.Attributes.Int("transA", 0) != 0 ? x.Transpose(1, 0)
        : x.V.Rank == 2 ? x
        : x.Reshape(-1, layer.In);

    /// <summary>
    /// The zero-padded patch at every output position: a convolution with one one-hot kernel for each element of the
    /// patch.
    /// </summary>
    private static Term Patches(Term x, Layer layer)
    {
        var size = (int)layer.In;
        var identity = new float[size * size];
        for (var i = 0; i < size; i++)
        {
            identity[(i * size) + i] = 1;
        }

        var kernel = x.B.Constant(
            Ir.Tensor.From<float>([size, .. layer.Weight.Value.KnownShape.Dims.Skip(1).Select(d => d.Size)], identity)
        );
        var patches = x.Op(
            "Conv",
            kernel,
            [.. layer.Node.Attributes.All.Where(a => a.Name is "pads" or "strides" or "dilations")]
        );
        return patches.Reshape(0, size, -1).Transpose(0, 2, 1).Reshape(-1, size);
    }
}
