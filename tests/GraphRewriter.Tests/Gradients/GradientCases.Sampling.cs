using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Sampling =>
        [
            .. from mode in new[] { "linear", "nearest", "cubic" }
            from padding in new[] { "zeros", "border", "reflection" }
            from align in new[] { 0, 1 }
            select new GradientCase(
                "GridSample",
                X(2, 2, 4, 5),
                mode == "nearest" ? X(2, 3, 2, 2).In(-1.3, 1.3).Fixed : X(2, 3, 2, 2).In(-1.3, 1.3)
            )
            {
                Attributes = Attributes(Text("mode", mode), Text("padding_mode", padding), Int("align_corners", align)),
                Tolerance = 1e-6,
                Step = 1e-5,
            },
            new("GridSample", X(1, 2, 3, 4, 3), X(1, 2, 2, 2, 3)) { Tolerance = 1e-6, Step = 1e-5 },
            new("AffineGrid", X(2, 2, 3), Const(2, 1, 3, 4)),
            new("AffineGrid", X(1, 3, 4), Const(1, 1, 2, 3, 4)) { Attributes = Attributes(Int("align_corners", 1)) },
            new("DFT", X(2, 6, 1)) { Type = ElementType.Float },
            new("DFT", X(2, 5, 2)) { Type = ElementType.Float, Attributes = Attributes(Int("inverse", 1)) },
            new("DFT", X(2, 6, 1)) { Type = ElementType.Float, Attributes = Attributes(Int("onesided", 1)) },
            new("Compress", X(4, 3), Data([4], new[] { true, false, true, true }))
            {
                Attributes = Attributes(Int("axis", 0)),
                SizeFromData = true,
            },
            new("CenterCropPad", X(5, 4), Const(3, 7)) { Type = ElementType.Float },
            new("Col2Im", X(1, 8, 6), Const(3, 4), Const(2, 2)) { Type = ElementType.Float },
            new("CumProd", X(2, 4).In(1, 2), ConstScalar(1)) { Type = ElementType.Float, Opset = 26 },
            new("Det", X(2, 3, 3)) { Type = ElementType.Float },
            new("Inverse", X(2, 3, 3)) { Domain = "com.microsoft", Type = ElementType.Float },
            new("GlobalLpPool", X(2, 3, 4)) { Type = ElementType.Float },
            new("MaxUnpool", X(1, 1, 2, 2), Data([1, 1, 2, 2], new[] { 5L, 7, 13, 15 }))
            {
                Type = ElementType.Float,
                Attributes = Attributes(Ints("kernel_shape", 2, 2), Ints("strides", 2, 2)),
            },
        ];
}
