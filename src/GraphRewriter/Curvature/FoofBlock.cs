using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// FOOF (Benzing 2022, arXiv 2201.12250): G' = G (A + rho I)^-1, where G = [dW | db] is [out, in + 1] and A the
/// unbiased moving average of the mean of a a^T over the input rows a, which end in a 1 where there is a bias.
/// </summary>
/// <param name="Layer">The layer, whose units all see the same input rows.</param>
/// <param name="IsExact">
/// Whether A is the mean over all training data in inference mode instead, computed before the first step: MAC's choice
/// for the first layer (arXiv 2506.08464).
/// </param>
/// <remarks>
/// The paper's own average starts from the first batch; here it is the one of all blocks. For a convolution the mean is
/// over samples and positions. The host inverts.
/// </remarks>
internal sealed record FoofBlock(Layer Layer, bool IsExact) : CurvatureBlock(Layer)
{
    private readonly MovingInverse _input = new($"{Layer.Weight.Name}.input", Layer.RowSize);
    private readonly Statistic _moment = Moments.OfInput(Layer);
    private string _damping = "";
    private DataPass? _pass;

    public override string Name => IsExact ? "MAC" : "FOOF";

    public override string Remark => IsExact ? "Preconditioned by the exact second moment of its input." : "";

    public override IEnumerable<Statistic> Statistics => IsExact ? [] : [_moment];

    public override IEnumerable<HostRefresh> HostRefreshes => [_input.Refresh(_damping, _pass)];

    public override void Declare(BufferTable buffers)
    {
        if (IsExact)
        {
            var samples = buffers.Add(
                $"{Layer.Weight.Name}.input_samples",
                BufferRole.State,
                ElementType.Float,
                [],
                BufferPlace.Host
            );
            _pass = new(PackageFiles.FirstLayer, samples);
            _input.DeclareInverse(buffers);
        }
        else
        {
            _input.Declare(buffers);
        }

        _damping = buffers.Scalar("damping", "damping");
    }

    public override void Update(BoundGraph g, MovingAverage average, Func<Statistic, Term> statistic)
    {
        if (!IsExact)
        {
            _input.Update(g, average, statistic(_moment));
        }
    }

    public override (Term Weight, Term? Bias) Precondition(BoundGraph g, Term weight, Term? bias)
    {
        var (inverse, joined) = (_input.Read(g), Layer.Joined(weight, bias));
        return Layer.Parted(Layer.OutputFirst ? joined.Op("MatMul", inverse) : inverse.Op("MatMul", joined));
    }

    /// <summary>
    /// Turns a graph of the forward pass into one that computes A of a batch from the model's inputs.
    /// </summary>
    /// <param name="graph">The forward pass in inference mode, with shapes.</param>
    /// <param name="buffers">The buffers of the package.</param>
    public BoundGraph BuildDataPass(Graph graph, BufferTable buffers)
    {
        var g = new BoundGraph(PackageFiles.FirstLayer, graph, buffers);
        var b = g.B;
        (b.Origin, b.Prefix) = ($"second moment {Layer.Node}", "second_moment/");

        // Dropout, which only the training graph has, may lie before the layer: its product is found by its output.
        var product = graph.Nodes.First(n => n.Outputs.Any(o => o.Name == Layer.Node.Outputs[0].Name));
        var moment = Moments.OfRows(Layer, Layer.Rows(new(b, product.Inputs[0]!)));
        graph.Outputs.Clear();
        g.Write(_input.Refresh(_damping).Source, moment, "second_moment");
        g.Finish();
        g.Prune();
        graph.Inputs.RemoveAll(i => !graph.Nodes.Any(n => n.Reads.Contains(i)));
        return g;
    }
}
