using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Elementwise =>
    [
        new("Add", X(2, 3), X(3)),
        new("Sub", X(2, 1), X(2, 3)),
        new("Mul", Batch(2, 3), X(3)),
        new("Div", X(2, 3), X(1, 3).In(0.5, 2)),
        new("Neg", X(4)),
        new("Exp", X(4)),
        new("Log", X(4).In(0.5, 2)),
        new("Sqrt", X(4).In(0.5, 2)),
        new("Tanh", X(4)),
        new("Sum", X(2, 3), X(3), X(2, 1)),
        new("Cast", X(4)) { Attributes = Attributes(Int("to", (long)ElementType.Float)), Tolerance = 1e-4 },
    ];
}
