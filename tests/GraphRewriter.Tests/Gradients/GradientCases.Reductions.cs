using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Reductions =>
        [
            .. Reduction("ReduceSum", X(2, 3, 4)),
            .. Reduction("ReduceMean", X(2, 3, 4)),
            .. Reduction("ReduceMax", X(2, 3, 4)),
            .. Reduction("ReduceMin", X(2, 3, 4)),
            .. Reduction("ReduceL1", X(2, 3, 4)),
            .. Reduction("ReduceL2", X(2, 3, 4)),
            .. Reduction("ReduceProd", X(2, 3, 4).In(-2, 2)),
            .. Reduction("ReduceSumSquare", X(2, 3, 4)),
            .. Reduction("ReduceLogSum", X(2, 3, 4).In(0.5, 2)),
            .. Reduction("ReduceLogSumExp", X(2, 3, 4)),
            new("ReduceProd", X(2, 3) with { Values = new[] { 0.0, 2, 3, 0, 0, 4 } }, Const(1)),
            new("ReduceMax", X(2, 3) with { Values = new[] { 1.0, 2, 2, 4, 0, 4 } }, Const(1)),
            new("ReduceProd", X(2, 3) with { Values = new[] { 1.0, 2, 3, 5, 0, 4 } }),
            new("ReduceSum", X(2, 3), Const(1)) { Opset = 13 },
            .. new[] { 13, 17 }.Select(opset => new GradientCase("ReduceMean", X(2, 3, 4))
            {
                Opset = opset,
                Attributes = Attributes(Ints("axes", 1, -1), Int("keepdims", 0)),
            }),
            new("ReduceMean", X(2, 3, 4), Const(1, -1)) { Opset = 18 },
            new("ReduceMax", X(2, 3, 4), Const(1, -1)) { Opset = 23 },
        ];

    private static IEnumerable<GradientCase> Reduction(string op, CaseInput x) =>
        [
            new(op, x),
            new(op, x) { Attributes = Attributes(Int("keepdims", 0)) },
            new(op, x, Const(1)),
            new(op, x, Const(0, -1)) { Attributes = Attributes(Int("keepdims", 0)) },
            new(op, x, Const(-2)) { Attributes = Attributes(Int("keepdims", 0)) },
            new(op, x with { Dynamic = true }, Const(-1)),
            new(op, x with { Dynamic = true }, Const(0, 2)) { Attributes = Attributes(Int("keepdims", 0)) },
            new(op, x) { Attributes = Attributes(Int("noop_with_empty_axes", 1)) },
        ];
}
