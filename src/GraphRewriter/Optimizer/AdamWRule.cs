using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// AdamW (arXiv 1711.05101): m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g^2,
/// theta' = theta - lr (m' / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + epsilon), t the updates from 1.
/// </summary>
internal sealed class AdamWRule(bool isDecoupled) : UpdateRule(isDecoupled)
{
    public override string OpType => "AdamWUpdate";

    public override string[] States => ["exp_avg", "exp_avg_sq"];

    public override (string Name, string Formula)[] Scalars =>
        [
            ("learning_rate", "learning_rate"),
            ("weight_decay", "weight_decay"),
            ("beta1", "beta1"),
            ("beta2", "beta2"),
            ("step_size", "learning_rate / (1 - beta1 ^ step)"),
            ("second_moment_scale", "(1 - beta2 ^ step) ^ -0.5"),
            ("epsilon", "epsilon"),
        ];

    public override Value[] Emit(UpdateStep step, Func<Term, Term> precondition)
    {
        var preconditioned = step with { Gradient = precondition(step.Gradient) };
        var (gradient, theta) = Decayed(preconditioned);
        var (first, second) = Averages(step, gradient);
        var deviation = (second.Sqrt() * step.Scalar("second_moment_scale")) + step.Scalar("epsilon");
        return [theta - (step.Scalar("step_size") * (first / deviation)), first, second];
    }
}
