using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// Eva (Zhang et al., ICLR 2023, arXiv 2308.02123): G' = (G - (b^T G a) / (rho + |a|^2 |b|^2) b a^T) / rho, where G =
/// [dW | db] is [out, in + 1], a the unbiased moving average of the mean input row, with a final 1 for the bias, and b
/// that of the mean of dL/dy, L the mean loss. By the Sherman-Morrison formula this is the inverse of (a a^T) (x) (b
/// b^T) + rho I.
/// </summary>
/// <param name="Layer">The layer, whose units all see the same input rows.</param>
/// <remarks>
/// For a convolution the means are over samples and positions. The paper's clipping of the step by its KL divergence is
/// left out: see <see cref="Hyperparameters.MaxGradientNorm"/>.
/// </remarks>
internal sealed record EvaBlock(Layer Layer) : CurvatureBlock(Layer)
{
    private readonly Statistic _input = Layer.Means[0].Statistics[0];
    private readonly Statistic _gradient = Moments.MeanGradient(Layer);
    private (string Average, string Cached) _a,
        _b;
    private string _scale = "";

    public override string Name => "Eva";

    public override IEnumerable<Statistic> Statistics => [_input, _gradient];

    public override void Declare(BufferTable buffers)
    {
        string State(string suffix, params ReadOnlySpan<long> dims) =>
            buffers.Add($"{Layer.Weight.Name}.{suffix}", BufferRole.State, ElementType.Float, dims);
        _a = (State("running_mean", 1, Layer.In), State("eva_a", 1, Layer.In));
        _b = (State("running_gradient_mean", 1, Layer.Out), State("eva_b", 1, Layer.Out));
        _scale = State("eva_scale", 1, 1);
    }

    public override void Update(BoundGraph g, MovingAverage average, Func<Statistic, Term> statistic)
    {
        var a = average.Update(g, _a.Average, _a.Cached, statistic(_input));
        var b = average.Update(g, _b.Average, _b.Cached, statistic(_gradient));
        var square = (a * a).Sum([1]);
        var product = (Layer.Bias is null ? square : square + 1) * (b * b).Sum([1]);
        g.Write(_scale, -1 / (product + g.Scalar("damping")));
    }

    public override (Term Weight, Term? Bias) Precondition(BoundGraph g, Term weight, Term? bias)
    {
        var (a, b, matrix, rho) = (g.Read(_a.Cached), g.Read(_b.Cached), Layer.Matrix(weight), g.Scalar("damping"));
        Term Gemm(Term left, Term right, bool transposeLeft = false, bool transposeRight = false, Term? add = null) =>
            new(
                left.B,
                left.B.Op(
                    "Gemm",
                    [left.V, right.V, add?.V],
                    Int("transA", transposeLeft),
                    Int("transB", transposeRight)
                )
            );
        var row = Layer.OutputFirst ? Gemm(b, matrix) : Gemm(b, matrix, transposeRight: true);
        var dot = (row * a).Sum([1]);
        if (bias is { } db)
        {
            dot += (db.Reshape(1, Layer.Out) * b).Sum([1]);
        }

        var scaled = b * (dot * g.Read(_scale));
        var result = Layer.OutputFirst
            ? Gemm(scaled, a, transposeLeft: true, add: matrix)
            : Gemm(a, scaled, transposeLeft: true, add: matrix);
        return (
            (result / rho).ReshapeTo(Layer.Weight.Value),
            bias is { } column ? (column + scaled.ReshapeTo(Layer.Bias!.Value)) / rho : null
        );
    }
}
