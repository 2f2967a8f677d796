using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Products =>
        [
            new("Gemm", X(2, 3), X(3, 4), X(4)),
            new("Gemm", Batch(2, 3), X(3, 4), X(4)),
            new("Gemm", X(2, 3), X(3, 4)),
            new("Gemm", X(2, 3), X(3, 4), X(2, 1)),
            new("Gemm", X(2, 3), X(3, 4), X()),
            new("Gemm", X(2, 3), X(3, 4), X(2, 4)),
            new("Gemm", X(2, 3), X(3, 4).Fixed, X(1, 4)),
            .. Transposes.Select(t => new GradientCase("Gemm", Matrix(2, 3, t.A), Matrix(3, 4, t.B), X(4))
            {
                Attributes = Attributes(
                    Int("transA", t.A ? 1 : 0),
                    Int("transB", t.B ? 1 : 0),
                    Float("alpha", 0.5),
                    Float("beta", -2)
                ),
            }),
            .. AtOpsets(new("Gemm", X(2, 3), X(3, 4), X(4)), 13, 23),
            .. new[] { 0, 1 }.SelectMany(interleaved =>
                new GradientCase[]
                {
                    new(
                        "RotaryEmbedding",
                        X(2, 3, 4, 6),
                        X(4, 3).Fixed,
                        X(4, 3).Fixed,
                        Data([2, 4], new[] { 0L, 1, 2, 3, 3, 1, 0, 2 })
                    )
                    {
                        Opset = 23,
                        Type = ElementType.Float,
                        Attributes = Attributes(Int("interleaved", interleaved)),
                    },
                    new("RotaryEmbedding", X(2, 4, 12), X(2, 4, 2).Fixed, X(2, 4, 2).Fixed)
                    {
                        Opset = 23,
                        Type = ElementType.Float,
                        Attributes = Attributes(
                            Int("interleaved", interleaved),
                            Int("num_heads", 2),
                            Int("rotary_embedding_dim", 4)
                        ),
                    },
                    new(
                        "RotaryEmbedding",
                        X(2, 4, 12),
                        Data([2, 4], new[] { 0L, 1, 2, 3, 3, 1, 0, 2 }),
                        X(4, 3).Fixed,
                        X(4, 3).Fixed
                    )
                    {
                        Domain = "com.microsoft",
                        Type = ElementType.Float,
                        Attributes = Attributes(Int("interleaved", interleaved)),
                    },
                }
            ),
            new("MatMul", X(2, 3), X(3, 4)),
            new("MatMul", X(3), X(3)),
            new("MatMul", X(3), X(3, 4)),
            new("MatMul", X(2, 3), X(3)),
            new("MatMul", X(2, 5, 3), X(3, 4)),
            new("MatMul", Batch(2, 5, 3), X(3, 4)),
            .. AtOpsets(new("MatMul", X(2, 5, 3), X(3, 4)), 13, 23),
            .. new[] { ElementType.Float, ElementType.Double }.SelectMany(type =>
                new GradientCase[]
                {
                    new("MatMul", X(2, 5, 3), X(2, 3, 4)) { Type = type },
                    new("MatMul", Batch(2, 5, 3), Batch(2, 3, 4)) { Type = type },
                    new("MatMul", Batch(2, 5, 3), X(1, 3, 4)) { Type = type },
                    new("MatMul", X(2, 1, 5, 3), X(6, 3, 4)) { Type = type },
                    new("MatMul", X(5, 3), X(2, 3, 4)) { Type = type },
                    new("MatMul", X(3), X(2, 3, 4)) { Type = type },
                    new("MatMul", X(2, 5, 3), X(3)) { Type = type },
                }
            ),
            .. Transposes.SelectMany(t =>
                new (CaseInput A, CaseInput B)[]
                {
                    (Matrix(2, 3, t.A), Matrix(3, 4, t.B)),
                    (Matrix(2, 3, t.A, 2), Matrix(3, 4, t.B)),
                    (Matrix(2, 3, t.A, 2, 1), Matrix(3, 4, t.B, 3)),
                }.Select(p => new GradientCase("FusedMatMul", p.A, p.B)
                {
                    Domain = "com.microsoft",
                    Attributes = Attributes(
                        Int("transA", t.A ? 1 : 0),
                        Int("transB", t.B ? 1 : 0),
                        Float("alpha", 0.5)
                    ),
                    Type = ElementType.Float,
                })
            ),
            .. new (string Equation, CaseInput[] Operands)[]
            {
                ("ij,jk->ik", [X(2, 3), X(3, 4)]),
                ("ij,jk", [X(2, 3), X(3, 4)]),
                ("bhqd,bhkd->bhqk", [Batch(2, 2, 3, 2), Batch(2, 2, 4, 2)]),
                ("bij,kj->bik", [X(2, 3, 4), X(5, 4)]),
                ("ij->ji", [X(2, 3)]),
                ("ijk->j", [X(2, 3, 4)]),
                ("ij,ij->", [X(2, 3), X(2, 3)]),
                ("i,j->ij", [X(2), X(3)]),
                ("ij,kl->il", [X(2, 3), X(2, 4)]),
                ("a,ab,bc->c", [X(2), X(2, 3), X(3, 4)]),
                ("...ij,jk->...ik", [X(2, 3, 4), X(4, 2)]),
                ("...i,...i", [X(2, 3, 4), X(2, 3, 4)]),
                ("...ij->...", [X(2, 3, 4)]),
                ("b n d, e d -> b n e", [X(2, 3, 4), X(2, 4)]),
            }.Select(e => new GradientCase("Einsum", e.Operands)
            {
                Attributes = Attributes(Text("equation", e.Equation)),
            }),
        ];

    private static (bool A, bool B)[] Transposes => [(false, false), (true, false), (false, true), (true, true)];

    private static CaseInput Matrix(long rows, long columns, bool transposed, params long[] batch) =>
        transposed ? X([.. batch, columns, rows]) : X([.. batch, rows, columns]);
}
