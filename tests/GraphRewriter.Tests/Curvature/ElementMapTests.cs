using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Shapes;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Curvature;

public class ElementMapTests : AttentionGraph
{
    /// <summary>Layouts in random order say where ONNX Runtime moves the elements, or that they cannot say.</summary>
    [Fact]
    public void SaysWhatOnnxRuntimeMoves()
    {
        var found = 0;
        for (var seed = 0; seed < 300; seed++)
        {
            var random = new Random(seed);
            var x = B.Input($"x{seed}", ElementType.Float, Shape.Of(random.Next(1, 4), random.Next(2, 5), 6));
            var map = ElementMap.Of([.. x.KnownShape.Dims.Select(d => d.Size)]);
            var count = x.KnownShape.Count;
            var numbers = Tensor.From<float>(
                [.. x.KnownShape.Dims.Select(d => d.Size)],
                [.. Enumerable.Range(0, (int)count).Select(i => (float)i)]
            );
            var (value, expected, nodes) = (x, numbers, new List<Node>());
            for (var n = 0; n < 5; n++)
            {
                var next = Layout(value, random);
                nodes.Add(next.Producer!);
                var known = next.Producer!.Reads.Where(v => v.Constant is not null)
                    .Distinct()
                    .ToDictionary(v => v.Name, v => v.Constant!);
                known[value.Name] = expected;
                expected = SubgraphRun.Run(Graph, [next.Producer!], known, [next.Name])[0];
                next.Shape = Shape.Of(expected.Dims.AsSpan());
                map = map is null
                    ? null
                    : ElementMap.Through(
                        next.Producer!,
                        next,
                        [.. next.Producer!.Inputs.Select(v => v == value ? map : null)],
                        v => [.. v.KnownShape.Dims.Select(d => d.Size)],
                        v => v.Constant?.ToInt64()
                    );
                value = next;
            }

            if (map is null)
            {
                continue;
            }

            found++;
            Assert.Equal(expected.Dims, map.Dims);
            float[] said =
            [
                .. map.Along(Enumerable.Range(0, map.Dims.Length))!
                    .Select(p => p is { } place ? (place.Row * 6) + place.Unit : -1f),
            ];
            var what = $"seed {seed}: {string.Join(", ", nodes.Select(o => o.OpType))}";
            Assert.True(expected.Span<float>().SequenceEqual(said), what);
            foreach (var fixedAxis in Enumerable.Range(0, map.Dims.Length).Cast<int?>().Prepend(null))
            {
                var firsts = said.Index()
                    .Where(s => fixedAxis is not { } a || IndexOf(s.Index, a, map) == First(a, map));
                Assert.Equal(
                    firsts.Select(s => (int)s.Item).Where(i => i >= 0).Select(i => i % 6).Distinct().Order(),
                    map.Distinct(p => p.Unit, fixedAxis).Order()
                );
            }
        }

        Assert.True(found > 200, $"{found} of 300 were followed.");
    }

    /// <summary>What is numbered is an axis at a time: 4096 x 128 x 768 elements would take gigabytes.</summary>
    [Fact]
    public void AttentionOfALargeFixedBatchTakesLittleMemory()
    {
        var x = Input("x", 4096, 128, Width);
        var heads = new Ops.Term(B, x);
        Ops.Term Projected(string name) => Dense(x, name, 768).Reshape(4096, 128, 12, 64).Transpose(0, 2, 1, 3);
        var scores = Projected("q").Op("MatMul", Projected("k").Transpose(0, 1, 3, 2));
        var values = scores.Op("Softmax", Int("axis", -1)).Op("MatMul", Projected("v"));
        Graph.Outputs.Add(values);
        ShapeInference.Apply(Graph, "case");
        var parameters = Graph
            .Constants()
            .Where(v => v.Type.IsFloatingPoint())
            .Select(v => new Parameter(
                v,
                v.Constant!,
                [.. v.Uses.Select(u => new GraphRewriter.Curvature.Use(u.Node, u.Index, false, v))],
                "dense",
                Treatment.Trained,
                ""
            ))
            .ToArray();
        var before = GC.GetAllocatedBytesForCurrentThread();
        var (found, misses) = AttentionFinder.Find(Graph, parameters);
        Assert.Empty(misses);
        var attention = Assert.Single(found);
        Assert.Equal(12, attention.Heads);
        Assert.NotNull(attention.Tokens);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 300 << 20);
    }

    private static int IndexOf(int element, int axis, ElementMap map) =>
        (int)(element / Tensor.CountOf(map.Dims.AsSpan()[(axis + 1)..]) % map.Dims[axis]);

    private static int First(int axis, ElementMap map) => map.Along(axis)!.ToList().FindIndex(p => p is not null);

    /// <summary>Emits a random layout that ONNX Runtime accepts.</summary>
    private Value Layout(Value value, Random random)
    {
        var dims = value.KnownShape.Dims.Select(d => d.Size).ToArray();
        var axis = random.Next(dims.Length);
        switch (random.Next(10))
        {
            case 0:
                var order = Enumerable.Range(0, dims.Length).Select(a => (long)a).ToArray();
                random.Shuffle(order);
                return B.Op("Transpose", [value], Ints("perm", order));
            case 1:
                // Either two neighbours become one axis, or an axis becomes two.
                var split = Enumerable.Range(2, 5).FirstOrDefault(n => dims[axis] % n == 0 && dims[axis] > n);
                long[] other =
                    split > 0 ? [.. dims[..axis], dims[axis] / split, split, .. dims[(axis + 1)..]]
                    : axis + 1 < dims.Length ? [.. dims[..axis], dims[axis] * dims[axis + 1], .. dims[(axis + 2)..]]
                    : [1, .. dims];
                return B.Op("Reshape", [value, B.Int64s(other)]);
            case 2:
                return B.Op("Unsqueeze", [value, B.Int64s(axis)]);
            case 3:
                return dims.Contains(1)
                    ? B.Op("Squeeze", [value, B.Int64s(Array.IndexOf(dims, 1L))])
                    : B.Op("Identity", [value]);
            case 4:
                return B.Op("Split", [value], Int("axis", axis), Int("num_outputs", 1));
            case 5:
                long step = random.Next(2) == 0 ? 1 : -1;
                long[] bounds = step > 0 ? [random.Next((int)dims[axis]), long.MaxValue] : [-1, long.MinValue];
                return B.Op("Slice", [value, B.Int64s(bounds[0]), B.Int64s(bounds[1]), B.Int64s(axis), B.Int64s(step)]);
            case 6:
                return B.Op(
                    "Gather",
                    [
                        value,
                        B.Int64s([
                            .. Enumerable
                                .Range(0, random.Next(1, 4))
                                .Select(_ => random.NextInt64(-dims[axis], dims[axis])),
                        ]),
                    ],
                    Int("axis", axis)
                );
            case 7:
                return B.Op("Expand", [value, B.Int64s([random.Next(1, 3), .. dims])]);
            case 8:
                return B.Op("Tile", [value, B.Int64s([.. dims.Select((_, a) => a == axis ? 2L : 1L)])]);
            default:
                // What comes from elsewhere holds -1.
                var foreign = Graph.AddConstant(
                    Graph.FreshName("foreign"),
                    Tensor.From<float>(
                        [.. dims.Select((d, a) => a == axis ? 1 : d)],
                        [.. Enumerable.Repeat(-1f, (int)(Tensor.CountOf(dims) / dims[axis]))]
                    )
                );
                return B.Op("Concat", random.Next(2) == 0 ? [value, foreign] : [foreign, value], Int("axis", axis));
        }
    }
}
