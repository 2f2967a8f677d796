using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// The exact curvature of a layer: G' = G (A + rho I)^-1, where A is the mean over the training data of a a^T, a an
/// input row with a final 1 where there is a bias. The data are passed over once; the host inverts.
/// </summary>
/// <param name="Layer">The layer, whose units all see the same input rows.</param>
internal sealed record SecondMomentBlock(Layer Layer) : CurvatureBlock(Layer)
{
    private string _moment = "";
    private string _inverse = "";
    private string _damping = "";

    public override string Name => "MAC";

    public override string Remark => "Preconditioned by the exact second moment of its input.";

    public override HostRefresh? HostRefresh => new(_moment, _inverse, _damping, PackageFiles.FirstLayer);

    public override void Declare(BufferTable buffers)
    {
        var (name, size) = (Layer.Weight.Name, Layer.RowSize);
        _moment = buffers.Add($"{name}.mac_second_moment", BufferRole.State, ElementType.Float, [size, size]);
        _inverse = buffers.Add($"{name}.mac_inverse", BufferRole.HostResult, ElementType.Float, [size, size]);
        _damping = buffers.Scalar("damping", "damping");
    }

    public override (Term Weight, Term? Bias) Precondition(BoundGraph g, Term weight, Term? bias)
    {
        var (b, inverse) = (g.B, g.Read(_inverse));
        var axis = Layer.OutputFirst ? 1 : 0;
        var matrix = Layer.Matrix(weight);
        if (bias is { } db)
        {
            var column = Layer.OutputFirst ? db.Reshape(Layer.Out, 1) : db.Reshape(1, Layer.Out);
            matrix = b.Concat([matrix, column], axis);
        }

        var result = Layer.OutputFirst ? matrix.Op("MatMul", inverse) : inverse.Op("MatMul", matrix);
        Term Part(long from, long to) =>
            new(b, b.Op("Slice", [result.V, b.Int64s(from), b.Int64s(to), b.Int64s(axis)]));
        return (
            Part(0, Layer.In).ReshapeTo(Layer.Weight.Value),
            Layer.Bias is { } p ? Part(Layer.In, Layer.RowSize).ReshapeTo(p.Value) : null
        );
    }

    /// <summary>
    /// Turns a graph of the forward pass into one that computes A of a batch from the model's inputs.
    /// </summary>
    /// <param name="graph">The forward pass in inference mode, with shapes.</param>
    /// <param name="buffers">The buffers of the package.</param>
    public BoundGraph Build(Graph graph, BufferTable buffers)
    {
        var g = new BoundGraph(PackageFiles.FirstLayer, graph, buffers);
        var b = g.B;
        (b.Origin, b.Prefix) = ($"second moment {Layer.Node}", "second_moment/");

        // Dropout, which only the training graph has, may lie before the layer: its product is found by its output.
        var product = graph.Nodes.First(n => n.Outputs.Any(o => o.Name == Layer.Node.Outputs[0].Name));
        var rows = Layer.Rows(new(b, product.Inputs[0]!)).Cast(ElementType.Float);
        if (Layer.Bias is not null)
        {
            rows = new(b, b.Op("Pad", [rows.V, b.Int64s(0, 0, 0, 1), b.Scalar(1, ElementType.Float)]));
        }

        var count = rows.Op("Shape", Int("start", 0), Int("end", 1)).Cast(ElementType.Float);
        var moment = new Term(b, b.Op("Gemm", [rows.V, rows.V], Int("transA", 1))) / count;
        graph.Outputs.Clear();
        g.Write(_moment, moment, "second_moment");
        g.Finish();
        g.Prune();
        graph.Inputs.RemoveAll(i => !graph.Nodes.Any(n => n.Reads.Contains(i)));
        return g;
    }
}
