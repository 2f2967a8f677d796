using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// ONNX Runtime's AdamWOptimizer: m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g^2, then by its mode.
/// </summary>
/// <remarks>
/// Mode 0, as in PyTorch: theta1 = theta (1 - lr d), theta' = theta1 - lr (m' / c1) / (sqrt(v' / c2) + epsilon). Mode
/// 1, as in Hugging Face's transformers: theta1 = theta - lr (sqrt(c2) / c1) m' / (sqrt(v') + epsilon), theta' = theta1
/// (1 - lr d). c1 = 1 - b1^t and c2 = 1 - b2^t, t the updates from 1; without bias correction both are 1. Every
/// parameter decays.
/// </remarks>
/// <param name="mode">The mode, 0 or 1.</param>
/// <param name="correction">The correction of the averages for their start at zero.</param>
internal sealed class OrtAdamWRule(long mode, BiasCorrection correction) : UpdateRule(isDecoupled: true)
{
    public override string OpType => "OrtAdamWUpdate";

    public override string[] States => ["exp_avg", "exp_avg_sq"];

    public override bool DecaysAll => true;

    /// <inheritdoc/>
    /// <remarks>Formulas differ, so that the operator's inputs do.</remarks>
    public override (string Name, string Formula)[] Scalars =>
        [
            ("learning_rate", "learning_rate"),
            ("weight_decay", "weight_decay"),
            ("beta1", "beta1"),
            ("beta2", "beta2"),
            ("step_size", StepSize),
            ("second_moment_scale", CorrectsBias && mode == 0 ? $"{C2} ^ -0.5" : "1"),
            ("epsilon", "epsilon"),
        ];

    private bool CorrectsBias => correction != BiasCorrection.None;

    private string C1 => correction.Of("beta1");

    private string C2 => correction.Of("beta2");

    private string StepSize =>
        !CorrectsBias ? "learning_rate * 1"
        : mode == 0 ? $"learning_rate / {C1}"
        : $"learning_rate * {C2} ^ 0.5 / {C1}";

    public override Value[] Emit(UpdateStep step, Func<Term, Term> precondition)
    {
        var (first, second) = Averages(step, precondition(step.Gradient));
        var deviation = (second.Sqrt() * step.Scalar("second_moment_scale")) + step.Scalar("epsilon");
        var change = step.Scalar("step_size") * (first / deviation);
        var theta = mode == 0 ? Decay(step.Theta) - change : Decay(step.Theta - change);
        return [theta, first, second];

        Term Decay(Term value) =>
            step.Decays ? value * (1 - (step.Scalar("learning_rate") * step.Scalar("weight_decay"))) : value;
    }
}
