using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Indexing =>
        [
            new("Slice", X(4, 5), Const(1), Const(3)),
            new("Slice", X(4, 5), Const(1, -3), Const(100, -1), Const(0, -1)),
            new("Slice", X(4, 5), Const(0), Const(1000), Const(1)),
            new("Slice", X(4, 5), Const(0, 1), Const(4, 5), Const(0, 1), Const(2, 3)),
            new("Slice", X(4, 5), Const(-1), Const(-1000), Const(1), Const(-1)),
            new("Slice", X(4, 5), Const(3, 0), Const(0, 3), Const(1, 0), Const(-2, 1)),
            new("Slice", Batch(4, 5), Const(1), Const(4), Const(1)),
            new("Slice", Batch(4, 5), Const(1), Const(3), Const(0)),
            new("Slice", X(4, 5), Data([1], new[] { 1L }), Data([1], new[] { 3L }), Const(1)) { SizeFromData = true },
            new("Slice", X(4, 5), Data([1], new[] { 4L }), Data([1], new[] { 0L }), Const(1), Const(-2))
            {
                SizeFromData = true,
            },
            new("Slice", X(4, 5), Const([1], new[] { 1 }), Const([1], new[] { 3 })) { Opset = 13 },
            new("Gather", X(4, 3), Const([2, 3], new[] { 0L, 3, -1, 3, 1, 0 })),
            new("Gather", X(4, 3), Data([3], new[] { 3L, 0, 3 })),
            new("Gather", X(4, 3), Data([2], new[] { 3, 0 })),
            new("Gather", X(4, 3), Data([], new[] { 2L })),
            new("Gather", X(4), Data([2, 2], new[] { 2L, 0, 2, 2 })),
            new("Gather", X(4, 3), ConstScalar(-2)) { Attributes = Attributes(Int("axis", -1)) },
            new("Gather", X(4, 3), Const(2)) { Attributes = Attributes(Int("axis", 1)) },
            new("Gather", X(4, 3), Const([1, 1], new[] { 2L })) { Attributes = Attributes(Int("axis", 1)) },
            new("Gather", X(2, 4, 3), Data([2, 2], new[] { 3L, 1, 1, 0 })) { Attributes = Attributes(Int("axis", 1)) },
            new("Gather", Batch(2, 4, 3), Const([2, 2], new[] { 3L, 1, 1, 0 }))
            {
                Attributes = Attributes(Int("axis", 1)),
            },
            new("Gather", Batch(2, 4), ConstScalar(1)) { Attributes = Attributes(Int("axis", 1)) },
            new("Gather", Batch(2, 4), ConstScalar(-1)),
            new("Gather", X(6, 3), Data([2, 4], new[] { 5L, 1, 1, 0, 2, 3, 5, 5 }) with { Dynamic = true }),
            .. AtOpsets(new("Gather", X(4, 3), Data([3], new[] { 3L, 0, 3 })), 13, 23),
            new("GatherElements", X(3, 4), Data([2, 4], new[] { 0L, 2, -1, 1, 0, 0, 2, 1 })),
            new("GatherElements", X(3, 4), Data([3, 2], new[] { 0L, 3, -1, 1, 2, 2 }))
            {
                Attributes = Attributes(Int("axis", 1)),
            },
            new("GatherND", X(3, 4), Data([3, 1], new[] { 0L, 2, 2 })),
            new("GatherND", X(3, 4), Data([3, 2], new[] { 0L, 3, -1, 1, 0, 3 })),
            new("GatherND", X(2, 3, 4), Data([2, 2, 1], new[] { 0L, 1, 2, 2 }))
            {
                Attributes = Attributes(Int("batch_dims", 1)),
            },
            .. new[] { "none", "add" }.SelectMany(reduction =>
                new GradientCase[]
                {
                    new("ScatterElements", X(3, 4), Data([2, 3], new[] { 0L, 2, 1, 2, -3, 2 }), X(2, 3))
                    {
                        Attributes = Attributes(Text("reduction", reduction)),
                        Opset = 18,
                    },
                    new("ScatterElements", X(3, 4), Data([3, 2], new[] { 0L, 2, 1, 2, -3, 2 }), X(3, 2))
                    {
                        Attributes = Attributes(Text("reduction", reduction), Int("axis", 1)),
                    },
                    new("ScatterND", X(3, 4), Data([2, 1], new[] { 2L, 0 }), X(2, 4))
                    {
                        Attributes = Attributes(Text("reduction", reduction)),
                    },
                    new("ScatterND", X(3, 4), Data([2, 2], new[] { 2L, 0, -1, 3 }), X(2))
                    {
                        Attributes = Attributes(Text("reduction", reduction)),
                        Opset = 18,
                    },
                }
            ),
            new("ScatterElements", X(3), Data([4], new[] { 0L, 2, 2, 0 }), X(4))
            {
                Attributes = Attributes(Text("reduction", "add")),
            },
            new("ScatterND", X(3, 4), Data([2, 1], new[] { 2L, 0 }), X(2, 4)) { Opset = 13 },
            new("ReverseSequence", X(4, 2, 3), Data([2], new[] { 3L, 2 })),
            new("ReverseSequence", X(2, 4), Data([2], new[] { 3L, 4 }))
            {
                Attributes = Attributes(Int("batch_axis", 0), Int("time_axis", 1)),
            },
            new("TopK", X(2, 5), Const(2)) { Outputs = [true, false] },
            new("TopK", Batch(3, 5), Const(2))
            {
                Attributes = Attributes(Int("axis", 0), Int("largest", 0)),
                Outputs = [true, false],
            },
        ];
}
