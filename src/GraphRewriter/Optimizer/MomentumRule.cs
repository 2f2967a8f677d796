using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// SGD with momentum: v' = mu v + g, theta' = theta - lr v', or Nesterov's theta' = theta - lr (g + mu v').
/// </summary>
internal sealed class MomentumRule(bool isDecoupled, bool isNesterov) : UpdateRule(isDecoupled)
{
    public override string OpType => "MomentumUpdate";

    public override string[] States => ["momentum"];

    public override (string Name, string Formula)[] Scalars =>
        [("learning_rate", "learning_rate"), ("momentum", "momentum"), ("weight_decay", "weight_decay")];

    public override Attr[] Attributes => [.. base.Attributes, Int("nesterov", isNesterov)];

    public override Value[] Emit(UpdateStep step, Func<Term, Term> precondition)
    {
        // The subtraction comes last: it is then the only pass over the matrix that a correction adds to SGD.
        var (lr, mu) = (step.Scalar("learning_rate"), step.Scalar("momentum"));
        var (gradient, theta) = Decayed(step);
        var old = mu * step.States[0];
        var next = precondition(old + gradient);
        return [theta - (lr * (isNesterov ? (next - old) + (mu * next) : next)), next];
    }
}
