using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// Matrix products. With Y = a A' B', where ' may transpose, A' receives a dY B'^T and B' receives a A'^T dY.
/// </summary>
internal static class Linear
{
    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("Gemm", Gemm),
        new("MatMul", g => MatMul(g, new(false, false, 1))),
        new("FusedMatMul", FusedMatMul, "com.microsoft"),
        new("Det", g => [(g.DY() * g.Y()).Unsqueeze(-2, -1) * InverseTransposed(g)]),
        new(
            "Inverse",
            g => [-g.Y().MatMul(g.DY(), transposeThis: true).MatMul(g.Y(), transposeOther: true)],
            "com.microsoft"
        ),
        new("RotaryEmbedding", g => Rotation(g, cos: 1, sin: 2), Flow: Flow.Rows),
        new("RotaryEmbedding", g => Rotation(g, cos: 2, sin: 3), "com.microsoft", Flow: Flow.Rows),
    ];

    private static Term InverseTransposed(GradientContext g)
    {
        var rank = g.ShapeX().Rank;
        return new Term(g.B, g.B.OpIn("com.microsoft", "Inverse", [g.X()])).Transpose([
            .. Enumerable.Range(0, rank - 2).Select(a => (long)a),
            rank - 1,
            rank - 2,
        ]);
    }

    private static Term?[] Gemm(GradientContext g)
    {
        var form = new Form(g.Int("transA", 0) != 0, g.Int("transB", 0) != 0, g.Float("alpha", 1));
        var (a, b) = form.Factors(g, g.X(0), g.X(1), g.DY(), Matrices);
        var beta = g.Float("beta", 1);
        return [a, b, g.Needs(2) ? g.SumTo(2, beta == 1 ? g.DY() : g.DY() * beta, g.ShapeY()) : null];
    }

    private static Term?[] FusedMatMul(GradientContext g)
    {
        if (g.Int("transBatchA", 0) != 0 || g.Int("transBatchB", 0) != 0)
        {
            throw g.Unsupported(
                "transBatchA or transBatchB is set",
                "Export the model from its framework, not from ONNX Runtime's optimizer."
            );
        }

        return MatMul(g, new(g.Int("transA", 0) != 0, g.Int("transB", 0) != 0, g.Float("alpha", 1)));
    }

    /// <summary>Turns the gradient back: the same rotation with the angles' sign changed.</summary>
    private static Term?[] Rotation(GradientContext g, int cos, int sin)
    {
        if (g.Needs(cos) || g.Needs(sin))
        {
            throw g.Unsupported("the tables of cosines and sines train", "Leave them out of RewriteOptions.Trainable.");
        }

        var inputs = g.Node.Inputs.ToArray();
        (inputs[0], inputs[sin]) = (g.DY(), -g.X(sin));
        return [new(g.B, g.B.OpIn(g.Node.Domain, g.Node.OpType, inputs, [.. g.Node.Attributes.All]))];
    }

    private static Term?[] MatMul(GradientContext g, Form form)
    {
        var (a, b, dy) = (g.X(0), g.X(1), g.DY());
        var (rankA, rankB) = (a.V.Rank, b.V.Rank);
        if (rankB == 2 && rankA >= 2 && (rankA == 2 || !form.TransposeA))
        {
            // A weight: one product of matrices over all leading axes.
            var (flatA, flatDY) = (Flat(a), Flat(dy));
            var (ga, gb) = form.Factors(g, flatA, b, flatDY, Matrices);
            return [rankA == 2 ? ga : ga?.ReshapeTo(a), gb];
        }

        // A vector is a matrix of one row on the left, of one column on the right; both sides then share the leading
        // axes.
        var (left, right) = (rankA == 1 ? a.Unsqueeze(0) : a, rankB == 1 ? b.Unsqueeze(1) : b);
        var missing = (rankA == 1 ? new long[] { -2 } : []).Concat(rankB == 1 ? [-1] : []).ToArray();
        var (da, db) = form.Factors(g, left, right, missing.Length > 0 ? dy.Unsqueeze(missing) : dy, Batched);
        var shape = g.ShapeY().Dims;
        var batch = shape[..(shape.Length - 2 + missing.Length)];
        Shape A() => new([.. batch, .. rankA == 1 ? [1, a.V.KnownShape[0]] : a.V.KnownShape.Dims[^2..]]);
        Shape B() => new([.. batch, .. rankB == 1 ? b.V.KnownShape.Dims : b.V.KnownShape.Dims[^2..]]);
        return
        [
            da is { } ta ? g.SumTo(0, ta, A()) : null,
            db is { } tb ? g.SumTo(1, rankB == 1 ? tb.Squeeze(-1) : tb, B()) : null,
        ];
    }

    /// <summary>Folds all axes but the last into one.</summary>
    private static Term Flat(Term x) =>
        x.V.Rank == 2
            ? x
            : x.Reshape(
                -1,
                x.V.KnownShape[-1] is { IsStatic: true } last
                    ? last.Size
                    : throw new Diagnostics.MacOnnxException(
                        "MAC0107",
                        x.V.Name,
                        "Its last dimension is dynamic and is multiplied with a weight.",
                        "Fix the model's dynamic dimensions with RewriteOptions.Dimensions (NAME=SIZE)."
                    )
            );

    private static Term Matrices(Term a, Term b, bool transposeA, bool transposeB, double alpha) =>
        a.Op("Gemm", b, Int("transA", transposeA ? 1 : 0), Int("transB", transposeB ? 1 : 0), Float("alpha", alpha));

    private static Term Batched(Term a, Term b, bool transposeA, bool transposeB, double alpha) =>
        a.MatMul(b, transposeA, transposeB, alpha);

    /// <summary>Which factors are transposed, and what the product is multiplied with.</summary>
    private readonly record struct Form(bool TransposeA, bool TransposeB, double Alpha)
    {
        /// <summary>Gives the gradients of both factors, made with a given way to multiply.</summary>
        public (Term? A, Term? B) Factors(
            GradientContext g,
            Term a,
            Term b,
            Term dy,
            Func<Term, Term, bool, bool, double, Term> multiply
        ) =>
            (
                !g.Needs(0) ? null
                : TransposeA ? multiply(b, dy, TransposeB, true, Alpha)
                : multiply(dy, b, false, !TransposeB, Alpha),
                !g.Needs(1) ? null
                : TransposeB ? multiply(dy, a, true, TransposeA, Alpha)
                : multiply(a, dy, !TransposeA, false, Alpha)
            );
    }
}
