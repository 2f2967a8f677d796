using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// K-FAC (Martens and Grosse 2015, arXiv 1503.05671; for convolutions Grosse and Martens 2016, arXiv 1602.01407): G' =
/// (B + sqrt(rho) / pi I)^-1 G (A + pi sqrt(rho) I)^-1 with pi^2 = (tr A / dim A) / (tr B / dim B), where G = [dW | db]
/// is [out, in + 1], A the unbiased moving average of the mean of a a^T over the input rows a, with a final 1 for the
/// bias, and B that of the mean of g g^T over the output rows.
/// </summary>
/// <param name="Layer">The layer, whose units all see the same input rows.</param>
/// <remarks>
/// G is the gradient of the mean loss L, but g that of the summed loss: g = N dL/dy, where N is what the loss is the
/// mean over (elements, or the sum of class weights; the samples where the model computes its loss itself). B is the
/// empirical Fisher matrix: its gradients are those of the targets, not of samples of the model's predictions. The rows
/// of a convolution are its patches, and both means are over samples and positions; the paper's A for convolutions is
/// the sum over positions. The paper's rescaling of the step by a quadratic model, and its clipping by the KL
/// divergence in later codes, are left out. The host inverts.
/// </remarks>
internal sealed record KfacBlock(Layer Layer) : CurvatureBlock(Layer)
{
    private readonly MovingInverse _input = new($"{Layer.Weight.Name}.input", Layer.RowSize);
    private readonly MovingInverse _output = new($"{Layer.Weight.Name}.gradient", Layer.Out);
    private readonly Statistic _inputMoment = Moments.OfInput(Layer);
    private readonly Statistic _gradientMoment = Moments.OfGradient(Layer);
    private string _inputDamping = "";
    private string _outputDamping = "";

    public override string Name => "K-FAC";

    public override IEnumerable<Statistic> Statistics => [_inputMoment, _gradientMoment];

    public override IEnumerable<HostRefresh> HostRefreshes =>
        [_input.Refresh(_inputDamping), _output.Refresh(_outputDamping)];

    public override void Declare(BufferTable buffers)
    {
        _input.Declare(buffers);
        _output.Declare(buffers);
        string Damping(string side) =>
            buffers.Add(
                $"{Layer.Weight.Name}.{side}_damping",
                BufferRole.State,
                ElementType.Float,
                [],
                BufferPlace.Host
            );
        (_inputDamping, _outputDamping) = (Damping("input"), Damping("gradient"));
    }

    public override void Update(BoundGraph g, MovingAverage average, Func<Statistic, Term> statistic)
    {
        var a = MeanOfDiagonal(_input.Update(g, average, statistic(_inputMoment)), Layer.RowSize);
        var sum = statistic(_gradientMoment) * g.Scalar("squared_loss_count", "loss_count ^ 2");
        var b = MeanOfDiagonal(_output.Update(g, average, sum), Layer.Out);

        // A factor that is zero says nothing of the split: both sides then get the same damping.
        var pi = (a / b).Sqrt().Where((a * b).Op("Greater", a.Scalar(0)), a.Scalar(1));
        var root = g.Scalar("root_damping", "damping ^ 0.5");
        g.Write(_inputDamping, pi * root);
        g.Write(_outputDamping, root / pi);
    }

    public override (Term Weight, Term? Bias) Precondition(BoundGraph g, Term weight, Term? bias)
    {
        var (a, b, joined) = (_input.Read(g), _output.Read(g), Layer.Joined(weight, bias));
        var (left, right) = Layer.OutputFirst ? (b, a) : (a, b);
        return Layer.Parted(left.Op("MatMul", joined).Op("MatMul", right));
    }

    private static Term MeanOfDiagonal(Term matrix, long size)
    {
        var (b, flat) = (matrix.B, matrix.Reshape(size * size));
        var ends = new[] { b.Int64s(0), b.Int64s(size * size), b.Int64s(0), b.Int64s(size + 1) };
        return new Term(b, b.Op("Slice", [flat.V, .. ends])).Mean([0], keepDims: false);
    }
}
