using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Reductions =>
    [
        new("ReduceSum", X(2, 3, 4)),
        new("ReduceSum", X(2, 3, 4), Const(0, -1)) { Attributes = Attributes(Int("keepdims", 0)) },
    ];
}
