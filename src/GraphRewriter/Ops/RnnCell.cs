using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>RNN: h' = f(p + h R^T).</summary>
internal sealed class RnnCell(Node node, int direction) : RecurrentCell(node, direction, "Tanh")
{
    public override string Name => "Rnn";

    public override int Gates => 1;

    protected override int KeptCount => 0;

    public override (Term? Bias, Term? Extra) Operands(Term? bias, Term? peepholes) =>
        (bias?.Reshape(2, -1).Sum([0], keepDims: false), null);

    protected override (Term[] Next, Term[] Kept) Step(Term p, Term[] states, Term r, Term? extra)
    {
        var x = p + states[0].Op("MatMul", r);
        var next = Activate(0, x);
        return ([next], WithInputs([], x));
    }

    protected override (Term[] Before, Term[] Gradients) Back(
        Term[] gradients,
        Term[] before,
        Term[] saved,
        Term r,
        Term? extra
    )
    {
        var dP = Through(0, gradients[0], NeedsInput ? saved[^1] : null, saved[0]);
        return ([dP.Op("MatMul", r)], [dP]);
    }
}
