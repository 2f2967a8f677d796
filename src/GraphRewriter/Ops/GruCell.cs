using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// GRU, with gates in ONNX's order z, r, n: h' = (1 - z) n + z h, where the reset gate r multiplies h before the
/// recurrent product of n, or that product (linear_before_reset).
/// </summary>
internal sealed class GruCell(Node node, int direction) : RecurrentCell(node, direction, "Sigmoid", "Tanh")
{
    /// <summary>Gets whether the reset gate multiplies the product, which is then kept.</summary>
    public bool IsLinearBeforeReset { get; } = node.Attributes.Int("linear_before_reset", 0) != 0;

    public override string Name => "Gru";

    public override int Gates => 3;

    protected override int KeptCount => IsLinearBeforeReset ? 2 : 1;

    public override bool HasKernel(bool hasExtra) => IsPlain && IsLinearBeforeReset;

    public override (Term? Bias, Term? Extra) Operands(Term? bias, Term? peepholes)
    {
        if (bias is not { } both)
        {
            return (null, null);
        }

        if (!IsLinearBeforeReset)
        {
            return (both.Reshape(2, -1).Sum([0], keepDims: false), null);
        }

        var parts = Parts(both, 6);
        return (Joined(parts[0] + parts[3], parts[1] + parts[4], parts[2]), parts[5]);
    }

    public override Term Weights(Term[] gradients, Term hidden, Term[] saved)
    {
        if (IsLinearBeforeReset)
        {
            return base.Weights(gradients, hidden, saved);
        }

        var (d, gates) = (Parts(gradients[0], 3), Parts(saved[1], 3));
        return gates[0].B.Concat([Product(Joined(d[0], d[1]), hidden), Product(d[2], gates[1] * hidden)], 0);
    }

    protected override (Term[] Next, Term[] Kept) Step(Term p, Term[] states, Term r, Term? extra)
    {
        var h = states[0];
        if (IsLinearBeforeReset)
        {
            var (x, products) = (Parts(p, 3), Parts(h.Op("MatMul", r), 3));
            var product = extra is { } bias ? products[2] + bias : products[2];
            var (xZ, xR) = (x[0] + products[0], x[1] + products[1]);
            var (z, reset) = (Activate(0, xZ), Activate(0, xR));
            var xN = x[2] + (reset * product);
            var n = Activate(1, xN);
            return ([Next(z, n)], WithInputs([Joined(z, reset, n), product], xZ, xR, xN));
        }
        else
        {
            var (x, weights) = (Parts(p, 3), Parts(r, 3));
            var (xZ, xR) = (x[0] + h.Op("MatMul", weights[0]), x[1] + h.Op("MatMul", weights[1]));
            var (z, reset) = (Activate(0, xZ), Activate(0, xR));
            var xN = x[2] + (reset * h).Op("MatMul", weights[2]);
            var n = Activate(1, xN);
            return ([Next(z, n)], WithInputs([Joined(z, reset, n)], xZ, xR, xN));
        }

        Term Next(Term z, Term n) => ((1 - z) * n) + (z * h);
    }

    protected override (Term[] Before, Term[] Gradients) Back(
        Term[] gradients,
        Term[] before,
        Term[] saved,
        Term r,
        Term? extra
    )
    {
        var (dH, h, x, gates) = (gradients[0], before[0], Inputs(saved), Parts(saved[1], 3));
        var (z, reset, n) = (gates[0], gates[1], gates[2]);
        var dZ = Through(0, dH * (h - n), x[0], z);
        var dN = Through(1, dH * (1 - z), x[2], n);
        if (IsLinearBeforeReset)
        {
            var dR = Through(0, dN * saved[2], x[1], reset);
            var dProducts = Joined(dZ, dR, dN * reset);
            return ([(dH * z) + dProducts.Op("MatMul", r)], [Joined(dZ, dR, dN), dProducts]);
        }
        else
        {
            var weights = r.B.Node("Split", "", [r, r.B.Int64s(2 * Hidden, Hidden)], 2, Attr.Int("axis", 0)).Outputs;
            var dReset = dN.Op("MatMul", weights[1]);
            var dR = Through(0, dReset * h, x[1], reset);
            var dBefore = (dH * z) + (dReset * reset) + Joined(dZ, dR).Op("MatMul", weights[0]);
            return ([dBefore], [Joined(dZ, dR, dN)]);
        }
    }
}
