using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Layout =>
        [
            new("Reshape", X(2, 3, 4), Const(6, 4)),
            new("Reshape", Batch(2, 3, 4), Const(0, -1)),
            new("Reshape", Batch(2, 3, 4), Const(-1, 2)),
            new("Reshape", X(2, 3), Const(2, 3)) { Attributes = Attributes(Int("allowzero", 1)) },
            new("Reshape", X(1), Const([0], Array.Empty<long>())),
            new("Flatten", X(2, 3, 4)),
            new("Flatten", Batch(2, 3, 4)) { Attributes = Attributes(Int("axis", -1)) },
            new("Squeeze", X(2, 1, 3, 1)),
            new("Squeeze", X(2, 1, 3, 1), Const(1)),
            new("Squeeze", Batch(2, 1, 3), Const(1)),
            new("Unsqueeze", X(2, 3), Const(0, -1)),
            new("Unsqueeze", Batch(2, 3), Const(1)),
            new("Transpose", X(2, 3, 4)),
            new("Transpose", Batch(2, 3, 4)) { Attributes = Attributes(Ints("perm", 2, 0, 1)) },
            new("Concat", X(2, 3), X(2, 1), X(2, 2)) { Attributes = Attributes(Int("axis", -1)) },
            new("Concat", Batch(2, 3), Batch(2, 2)) { Attributes = Attributes(Int("axis", 1)) },
            new("Concat", Batch(2, 3), Batch(2, 3), X(1, 3)) { Attributes = Attributes(Int("axis", 0)) },
            new("Concat", X(2, 3)) { Attributes = Attributes(Int("axis", 0)) },
            new("Split", X(2, 6), Const(1, 2, 3))
            {
                Attributes = Attributes(Int("axis", 1)),
                Outputs = [true, true, true],
            },
            new("Split", X(2, 6), Const(1, 2, 3))
            {
                Attributes = Attributes(Int("axis", 1)),
                Outputs = [true, false, false],
            },
            new("Split", X(5, 2)) { Attributes = Attributes(Int("num_outputs", 2)), Outputs = [true, true] },
            new("Split", X(4, 2)) { Outputs = [true, true], Opset = 13 },
            new("Split", X(4, 2), Const(3, 1)) { Outputs = [false, true], Opset = 13 },
            new("Split", Batch(2, 6), Const(4, 2)) { Attributes = Attributes(Int("axis", -1)), Outputs = [true, true] },
            new("Split", Batch(2, 6), Const(4, 2))
            {
                Attributes = Attributes(Int("axis", -1)),
                Outputs = [false, true],
            },
            new("Expand", X(3, 1), Const(2, 3, 4)),
            new("Expand", X(2, 3), Const(3)),
            new("Expand", Batch(2, 1), Const(1, 3)),
            new("Tile", X(2, 3), Const(2, 3)),
            new("Tile", X(2, 3), Data([2], new[] { 2L, 1 })) { SizeFromData = true },
            new("Tile", Batch(2, 3), Const(1, 2)),
            new("Pad", X(2, 3), Const(1, 0, 0, 2)),
            new("Pad", X(2, 3), Const(0, 1, 1, 0), Const([], new[] { 7.0 })),
            new("Pad", X(3, 4), Const(-1, 0, 1, -2)),
            new("Pad", Batch(2, 3), Const(1, 2), None, Const(-1)),
            new("Pad", X(2, 3), Data([4], new[] { 1L, 0, 0, 2 })) { SizeFromData = true },
            .. new[] { "reflect", "edge", "wrap" }.Select(mode => new GradientCase("Pad", X(3, 4), Const(2, 1, 0, 2))
            {
                Attributes = Attributes(Text("mode", mode)),
            }),
            new("Pad", Batch(2, 4), Const(2, 1), None, Const(1)) { Attributes = Attributes(Text("mode", "reflect")) },
            new("Pad", X(2, 3), Const(1, 0, 0, 2)) { Opset = 13 },
            new("Pad", X(3, 4), Const(2, 1, 0, 2)) { Attributes = Attributes(Text("mode", "reflect")), Opset = 13 },
            new("Trilu", X(3, 4)),
            new("Trilu", X(2, 3, 3), ConstScalar(-1)) { Attributes = Attributes(Int("upper", 0)) },
            .. new[] { (0, 0), (0, 1), (1, 0), (1, 1) }.Select(p => new GradientCase("CumSum", X(3, 4), ConstScalar(1))
            {
                Attributes = Attributes(Int("exclusive", p.Item1), Int("reverse", p.Item2)),
            }),
            .. new[] { "DCR", "CRD" }.Select(mode => new GradientCase("DepthToSpace", Batch(2, 8, 2, 3))
            {
                Attributes = Attributes(Int("blocksize", 2), Text("mode", mode)),
            }),
            new("SpaceToDepth", X(2, 2, 4, 6)) { Attributes = Attributes(Int("blocksize", 2)) },
            new("Dropout", X(2, 3)),
            new("Dropout", X(2, 3), Const([], new[] { 0.4 }), Const([], new[] { false })),
            new("Dropout", X(2, 3), Const([], new[] { 0.4 }), Data([], new[] { false })),
            new("Dropout", X(2, 3), Const([], new[] { 0.0 }), Const([], new[] { true })),
            .. AtOpsets(new("Transpose", X(2, 3)), 13, 23),
        ];
}
