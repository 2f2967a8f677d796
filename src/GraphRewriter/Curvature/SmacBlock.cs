using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// SMAC, the variant of MAC with statistics of gradients (the authors' code, arXiv 2506.08464): G' = diag(z + rho)^-1
/// M(G), where M is MAC and z the unbiased moving average of the mean of (dL/dy)^2 of each unit, L the mean loss.
/// </summary>
/// <param name="Mac">MAC, of a layer of any kind.</param>
/// <remarks>The authors' code keeps MAC's factor 1 / rho too; here, as for MAC, it is an option.</remarks>
internal sealed record SmacBlock(MacBlock Mac) : CurvatureBlock(Mac.Layer)
{
    private readonly Statistic _square = Moments.MeanSquaredGradient(Mac.Layer);
    private string _average = "";
    private string _cached = "";

    public override string Name => "SMAC";

    public override IEnumerable<Statistic> Statistics => [.. Mac.Statistics, _square];

    public override void Declare(BufferTable buffers)
    {
        Mac.Declare(buffers);
        string State(string suffix) =>
            buffers.Add($"{Layer.Weight.Name}.{suffix}", BufferRole.State, ElementType.Float, [1, Layer.Out]);
        (_average, _cached) = (State("running_gradient_square"), State("smac_z"));
    }

    public override void Update(BoundGraph g, MovingAverage average, Func<Statistic, Term> statistic)
    {
        Mac.Update(g, average, statistic);
        average.Update(g, _average, _cached, statistic(_square));
    }

    public override (Term Weight, Term? Bias) Precondition(BoundGraph g, Term weight, Term? bias)
    {
        var (matrix, column) = Mac.Precondition(g, weight, bias);
        var scale = g.Read(_cached) + g.Scalar("damping");
        var units = Layer.OutputFirst ? scale.Reshape(Layer.Out, 1) : scale;
        return (
            (Layer.Matrix(matrix) / units).ReshapeTo(Layer.Weight.Value),
            column is { } db ? db / scale.ReshapeTo(Layer.Bias!.Value) : null
        );
    }
}
