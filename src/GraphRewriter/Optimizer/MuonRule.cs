using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// Muon (Jordan et al. 2024) as Moonlight scales it (arXiv 2502.16982), so that one learning rate and one weight decay
/// fit it and AdamW: v' = mu v + g, theta' = theta - 0.2 sqrt(max(m, n)) lr O(g + mu v') for a matrix [m, n]; a kernel
/// is [out, the rest].
/// </summary>
/// <remarks>
/// O is five steps of X' = 3.4445 X - 4.7750 (X X^T) X + 2.0315 (X X^T)^2 X from X / |X|: for X = U S V^T it comes near
/// U V^T, its singular values between 0.7 and 1.2. The original computes in bfloat16; here it is float.
/// </remarks>
internal sealed class MuonRule(bool isDecoupled) : UpdateRule(isDecoupled)
{
    private const int Steps = 5;

    public override string OpType => "MuonUpdate";

    public override string[] States => ["momentum"];

    public override (string Name, string Formula)[] Scalars =>
        [("learning_rate", "learning_rate"), ("momentum", "momentum"), ("weight_decay", "weight_decay")];

    public override Value[] Emit(UpdateStep step, Func<Term, Term> precondition)
    {
        var (lr, mu) = (step.Scalar("learning_rate"), step.Scalar("momentum"));
        var (gradient, theta) = Decayed(step with { Gradient = precondition(step.Gradient) });
        var next = (mu * step.States[0]) + gradient;
        var shape = step.Theta.V.KnownShape.Dims.Select(d => d.Size).ToArray();
        var (rows, columns) = (shape[0], shape[1..].Aggregate(1L, (a, b) => a * b));
        var direction = Orthogonal((gradient + (mu * next)).Reshape(rows, columns), isWide: rows <= columns);
        var scale = lr * (0.2 * Math.Sqrt(Math.Max(rows, columns)));
        return [theta - (scale * direction).Reshape(shape), next];
    }

    /// <summary>Emits O(X). The Gram matrix is that of the shorter side.</summary>
    private static Term Orthogonal(Term x, bool isWide)
    {
        var b = x.B;
        Term Gemm(Term left, Term right, Term? add, double alpha, double beta, params ReadOnlySpan<Attr> attributes) =>
            new(
                b,
                b.Op("Gemm", [left.V, right.V, add?.V], [Float("alpha", alpha), Float("beta", beta), .. attributes])
            );
        x /= x.Op("ReduceSumSquare", Int("keepdims", 0)).Sqrt() + 1e-7;
        for (var i = 0; i < Steps; i++)
        {
            var gram = Gemm(x, x, null, 1, 1, Int(isWide ? "transB" : "transA", 1));
            var polynomial = Gemm(gram, gram, gram, 2.0315, -4.775);
            x = isWide ? Gemm(polynomial, x, x, 1, 3.4445) : Gemm(x, polynomial, x, 1, 3.4445);
        }

        return x;
    }
}
