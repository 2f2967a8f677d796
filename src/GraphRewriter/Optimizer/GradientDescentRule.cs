using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>Gradient descent without state: theta' = theta - lr g. ONNX Runtime's SGDOptimizerV2.</summary>
internal sealed class GradientDescentRule() : UpdateRule(isDecoupled: false)
{
    public override string OpType => "GradientDescentUpdate";

    public override string[] States => [];

    public override (string Name, string Formula)[] Scalars => [("learning_rate", "learning_rate")];

    public override Value[] Emit(UpdateStep step, Func<Term, Term> precondition) =>
        [step.Theta - (step.Scalar("learning_rate") * precondition(step.Gradient))];
}
