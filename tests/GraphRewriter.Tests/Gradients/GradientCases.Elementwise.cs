using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Elementwise =>
        [
            .. Broadcast("Add", X(2, 3), X(2, 3)),
            .. Broadcast("Sub", X(2, 3), X(2, 3)),
            .. Broadcast("Mul", X(2, 3), X(2, 3)),
            .. Broadcast("Div", X(2, 3), X(2, 3).In(0.5, 2)),
            .. Broadcast("Max", X(2, 3), X(2, 3)),
            .. Broadcast("Min", X(2, 3), X(2, 3)),
            .. Broadcast("Pow", X(2, 3).In(0.5, 2), X(2, 3).In(-2, 3)),
            .. Broadcast("Mod", X(2, 3).In(-4, 4), X(2, 3).In(0.7, 1.9))
                .Select(c => c with { Attributes = Attributes(Int("fmod", 1)) }),
            new("Div", X(2, 3), X(2, 3).In(-2, -0.5)),
            new("Mul", Batch(2, 3), X(3)),
            new("Add", Batch(2, 3), Batch(2, 1)),
            new("Pow", X(2, 3), Data([2, 3], new[] { 0.0, 1, 2, 3, 4, 5 })),
            new("Pow", Data([3], new[] { 0.0, 0.5, 2 }), X(3).In(1, 3)),
            .. new[] { 0, 0.5, 1, 2, 3, -1.5 }.Select(e => new GradientCase(
                "Pow",
                X(2, 3).In(0.5, 2),
                Const([], new[] { e })
            )),
            new("Pow", X(2, 3), Const([1, 1, 1], new[] { 2.0 })),
            new("Pow", X(2, 3), Const([1], new[] { 4L })),
            new("Pow", X(2, 3), Data([3], new[] { 0L, 2, 3 })),
            new("Sum", X(2, 3), X(3), X(2, 1)),
            new("Sum", X(2, 3)),
            new("Mean", X(2, 3), X(3), X(2, 1)) { Type = ElementType.Float },
            new("Max", X(2, 3), X(3), X(2, 1)),
            new("Max", X(4) with { Values = new[] { 1.0, 2, 3, 4 } }, X(4) with { Values = new[] { 1.0, 3, 3, 0 } }),
            new("Min", X(2, 3)),
            new("Where", Data([2, 3], new[] { true, false, true, true, false, false }), X(2, 3), X(2, 3)),
            new("Where", Data([3], new[] { true, false, true }), X(2, 1), X()),
            new("Clip", X(2, 5), Const([], new[] { -0.5 }), Const([], new[] { 0.4 })),
            new("Clip", X(2, 5), None, Const([], new[] { 0.4 })),
            new("Clip", X(2, 5), Const([], new[] { 0.1 })),
            new("Clip", X(2, 5)),
            new("Clip", X(2, 5), X().In(-0.6, -0.4), X().In(0.3, 0.5)),
            new("Neg", X(2, 3)),
            new("Abs", X(2, 3)),
            new("Reciprocal", X(2, 3).In(0.5, 2)),
            new("Sqrt", X(2, 3).In(0.5, 2)),
            new("Exp", X(2, 3)),
            new("Log", X(2, 3).In(0.5, 2)),
            new("Erf", X(2, 3).In(-2, 2)) { Type = ElementType.Float },
            new("Sin", X(2, 3).In(-3, 3)),
            new("Cos", X(2, 3).In(-3, 3)),
            new("Tan", X(2, 3)) { Type = ElementType.Float },
            new("Asin", X(2, 3).In(-0.8, 0.8)) { Type = ElementType.Float },
            new("Acos", X(2, 3).In(-0.8, 0.8)) { Type = ElementType.Float },
            new("Atan", X(2, 3).In(-2, 2)) { Type = ElementType.Float },
            new("Sinh", X(2, 3)) { Type = ElementType.Float },
            new("Cosh", X(2, 3)) { Type = ElementType.Float },
            new("Asinh", X(2, 3)) { Type = ElementType.Float },
            new("Acosh", X(2, 3).In(1.5, 3)) { Type = ElementType.Float },
            new("Atanh", X(2, 3).In(-0.8, 0.8)) { Type = ElementType.Float },
            new("Identity", X(2, 3)),
            new("Cast", X(4)) { Attributes = Attributes(Int("to", (long)ElementType.Float)), Tolerance = FloatInside },
            new("Cast", X(4))
            {
                Attributes = Attributes(Int("to", (long)ElementType.Double)),
                Type = ElementType.Float,
            },
            new("CastLike", X(4), Data([1], new[] { 1f })) { Tolerance = FloatInside },
            .. AtOpsets(new("Mul", X(2, 3), X(3)), 13, 17, 23),
            .. AtOpsets(new("Pow", X(2, 3), Const([], new[] { 2L })), 13, 23),
            .. AtOpsets(new("Clip", X(2, 5), Const([], new[] { -0.5 }), Const([], new[] { 0.4 })), 13, 23),
        ];

    /// <summary>A double whose value passes through float: eps of float over the step of double is 1e-4.</summary>
    private const double FloatInside = 1e-3;

    /// <summary>A binary operator with each side broadcast in turn.</summary>
    private static IEnumerable<GradientCase> Broadcast(string op, CaseInput a, CaseInput b) =>
        new (long[] A, long[] B)[]
        {
            ([2, 3], [2, 3]),
            ([2, 3], [3]),
            ([2, 1], [2, 3]),
            ([], [2, 3]),
            ([2, 1, 4], [3, 1]),
            ([1], [1, 1]),
        }.Select(dims => new GradientCase(op, a with { Dims = dims.A }, b with { Dims = dims.B }));
}
