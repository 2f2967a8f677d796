using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// LSTM, with gates in ONNX's order i, o, f, g: c' = f c + i g and h' = o tanh(c'). Peepholes add multiples of c to the
/// pre-activations of i and f, and of c' to that of o.
/// </summary>
internal sealed class LstmCell(Node node, int direction) : RecurrentCell(node, direction, "Sigmoid", "Tanh", "Tanh")
{
    private readonly bool _couplesGates = node.Attributes.Int("input_forget", 0) != 0;

    public override string Name => "Lstm";

    public override int Gates => 4;

    public override int StateCount => 2;

    protected override int KeptCount => 1;

    protected override int Slopes => 2;

    public override bool HasKernel(bool hasExtra) => base.HasKernel(hasExtra) && !_couplesGates;

    public override (Term? Bias, Term? Extra) Operands(Term? bias, Term? peepholes)
    {
        if (bias is not { } both)
        {
            return (null, peepholes);
        }

        var halves = both.Reshape(2, -1).Sum([0], keepDims: false);
        return (halves, peepholes);
    }

    public override Term? Peepholes(Term[] gradients, Term[] before, Term[] saved)
    {
        var d = Parts(gradients[0], 4);
        return Joined(
            (d[0] * before[1]).Sum([0, 1], keepDims: false),
            (d[1] * saved[1]).Sum([0, 1], keepDims: false),
            (d[2] * before[1]).Sum([0, 1], keepDims: false)
        );
    }

    protected override (Term[] Next, Term[] Kept) Step(Term p, Term[] states, Term r, Term? extra)
    {
        var x = Parts(p + states[0].Op("MatMul", r), 4);
        var c = states[1];
        var peepholes = extra is { } weights ? Parts(weights, 3) : null;
        if (peepholes is not null)
        {
            (x[0], x[2]) = (x[0] + (peepholes[0] * c), x[2] + (peepholes[2] * c));
        }

        var (i, g) = (Activate(0, x[0]), Activate(1, x[3]));
        var f = _couplesGates ? 1 - i : Activate(0, x[2]);
        var next = (f * c) + (i * g);
        x[1] = peepholes is null ? x[1] : x[1] + (peepholes[1] * next);
        var o = Activate(0, x[1]);
        return ([o * Activate(2, next), next], WithInputs([Joined(i, o, f, g)], x));
    }

    protected override (Term[] Before, Term[] Gradients) Back(
        Term[] gradients,
        Term[] before,
        Term[] saved,
        Term r,
        Term? extra
    )
    {
        var (dH, dC, next, x) = (gradients[0], gradients[1], saved[1], Inputs(saved));
        var gates = Parts(saved[2], 4);
        var (i, o, f, g) = (gates[0], gates[1], gates[2], gates[3]);
        var peepholes = extra is { } weights ? Parts(weights, 3) : null;
        var y = Activate(2, next);
        var dO = Through(0, dH * y, x[1], o);
        dC += Through(2, dH * o, next, y);
        dC = peepholes is null ? dC : dC + (peepholes[1] * dO);
        var dI = Through(0, dC * (_couplesGates ? g - before[1] : g), x[0], i);
        var dF = _couplesGates ? dI * 0.0 : Through(0, dC * before[1], x[2], f);
        var dG = Through(1, dC * i, x[3], g);
        var dP = Joined(dI, dO, dF, dG);
        var dBefore = dC * f;
        if (peepholes is not null)
        {
            dBefore = dBefore + (peepholes[0] * dI) + (peepholes[2] * dF);
        }

        return ([dP.Op("MatMul", r), dBefore], [dP]);
    }
}
