using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>AdaGrad: s' = s + g^2, theta' = theta - lr g / (sqrt(s') + epsilon).</summary>
internal sealed class AdaGradRule(bool isDecoupled) : UpdateRule(isDecoupled)
{
    public override string OpType => "AdaGradUpdate";

    public override string[] States => ["square_sum"];

    public override (string Name, string Formula)[] Scalars =>
        [("learning_rate", "learning_rate"), ("weight_decay", "weight_decay"), ("epsilon", "epsilon")];

    public override Value[] Emit(UpdateStep step, Func<Term, Term> precondition)
    {
        var (gradient, theta) = Decayed(step with { Gradient = precondition(step.Gradient) });
        var sum = step.States[0] + (gradient * gradient);
        return [theta - (step.Scalar("learning_rate") * gradient / (sum.Sqrt() + step.Scalar("epsilon"))), sum];
    }
}
