using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// The diagonal of A: G' = G diag(s + rho)^-1, s the moving average of the mean square of each input, 1 for the bias.
/// </summary>
/// <param name="Layer">The layer, whose units all see the same input rows.</param>
internal sealed record DiagonalBlock(Layer Layer) : CurvatureBlock(Layer)
{
    private string _average = "";
    private string _cached = "";

    public override string Name => "diagonal";

    public override IEnumerable<Statistic> Statistics => [MeanSquare];

    private Statistic MeanSquare =>
        new($"{Layer.Weight.Name}.mean_square", Layer.Node, [1, Layer.In], Key: null, (b, _) => Emit(b));

    public override void Declare(BufferTable buffers)
    {
        string State(string suffix) =>
            buffers.Add($"{Layer.Weight.Name}.{suffix}", BufferRole.State, ElementType.Float, [1, Layer.In]);
        (_average, _cached) = (State("running_square"), State("square"));
    }

    public override void Update(BoundGraph g, MovingAverage average, Func<Statistic, Term> statistic) =>
        average.Update(g, _average, _cached, statistic(MeanSquare));

    public override (Term Weight, Term? Bias) Precondition(BoundGraph g, Term weight, Term? bias)
    {
        var (square, damping) = (g.Read(_cached), g.Scalar("damping"));
        var scale = (Layer.OutputFirst ? square : square.Reshape(Layer.In, 1)) + damping;
        return ((Layer.Matrix(weight) / scale).ReshapeTo(Layer.Weight.Value), bias / (1 + damping));
    }

    private Term Emit(GraphBuilder b)
    {
        var rows = Layer.Rows(new(b, Layer.Input)).Cast(ElementType.Float);
        return (rows * rows).Mean([0]);
    }
}
