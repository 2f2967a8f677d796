using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>The gradients of pools.</summary>
internal static class Pooling
{
    public static IEnumerable<(string OpType, LoweringRule Rule)> Rules { get; } =
    [
        ("MaxPoolGrad", (b, node) => [MaxPool(b, node)]),
        ("WindowSpread", (b, node) => [Spread(new(b, node.Inputs[0]!), node.Inputs[1]!, Windows.Of(node))]),
    ];

    /// <summary>A depthwise ConvTranspose of ones.</summary>
    private static Term Spread(Term small, Value big, Windows windows)
    {
        var channels = big.KnownShape[1].Size;
        var ones = new float[checked(channels * windows.Taps)];
        Array.Fill(ones, 1);
        return Convolution.Spread(small, small.B.Constant(Ir.Tensor.From<float>([channels, 1, .. windows.Kernel], ones)), big, windows, channels);
    }

    private static Term MaxPool(GraphBuilder b, Node node)
    {
        var (dY, x, windows) = (new Term(b, node.Inputs[0]!), new Term(b, node.Inputs[1]!), Windows.Of(node));
        return IsTiling(windows, x.V.KnownShape, dY.V.KnownShape) ? ByTiles(dY, x, windows) : ByIndices(dY, x, node);
    }

    private static bool IsTiling(Windows windows, Shape big, Shape small) =>
        !windows.IsPadded && windows.Kernel.SequenceEqual(windows.Strides) && windows.Dilations.All(d => d == 1)
        && big.Dims.Skip(1).All(d => d.IsStatic) && Enumerable.Range(0, windows.Rank).All(a => windows.Rest(a, big, small) >= 0);

    /// <summary>
    /// Windows that do not overlap: with the taps on an axis of their own, ArgMax finds the first maximum, and comparing it with the
    /// tap numbers gives the mask. (A pool with the Indices output takes 20 times as long as one without.)
    /// </summary>
    private static Term ByTiles(Term dY, Term x, Windows windows)
    {
        var rank = windows.Rank;
        var sizes = x.V.KnownShape.Dims.Skip(1).Select(d => d.Size).ToArray();
        var tiles = windows.Kernel.Select((k, a) => sizes[a + 1] / k).ToArray();
        var rest = windows.Kernel.Select((k, a) => sizes[a + 1] % k).ToArray();
        if (rest.Any(r => r > 0))
        {
            var axes = Enumerable.Range(2, rank).Select(a => (long)a).ToArray();
            x = new(x.B, x.B.Op("Slice", [x, x.B.Int64s(new long[rank]), x.B.Int64s([.. tiles.Zip(windows.Kernel, (t, k) => t * k)]), x.B.Int64s(axes)]));
        }

        // [N, C, tiles and taps alternating] to [N, taps, C, tiles] and back.
        var tapAxes = Enumerable.Range(0, rank).Select(a => (long)(3 + (2 * a))).ToArray();
        var tileAxes = Enumerable.Range(0, rank).Select(a => (long)(2 + (2 * a))).ToArray();
        long[] there = [0, .. tapAxes, 1, .. tileAxes];
        var back = there.Select((_, axis) => (long)Array.IndexOf(there, axis)).ToArray();
        var taps = x.Reshape([0, sizes[0], .. tiles.Zip(windows.Kernel, (t, k) => new[] { t, k }).SelectMany(d => d)])
            .Transpose(there).Reshape(0, windows.Taps, -1);
        var first = taps.Op("ArgMax", Int("axis", 1), Int("keepdims", 1));
        var numbers = x.B.Constant(Ir.Tensor.From<long>([1, windows.Taps, 1], [.. Enumerable.Range(0, (int)windows.Taps).Select(i => (long)i)]));
        var mask = first.Op("Equal", numbers).AsNumber(dY.Type);
        var result = (mask * dY.Reshape(0, 1, -1))
            .Reshape([0, .. windows.Kernel, sizes[0], .. tiles])
            .Transpose(back)
            .Reshape([0, sizes[0], .. tiles.Zip(windows.Kernel, (t, k) => t * k)]);
        return rest.Any(r => r > 0) ? result.Op("Pad", x.B.Int64s([.. new long[rank + 4], .. rest])) : result;
    }

    /// <summary>Windows that overlap: the pool once more, for the flat positions of the maxima, and the gradients added there.</summary>
    private static Term ByIndices(Term dY, Term x, Node node)
    {
        var indices = x.B.Node("MaxPool", "", [x], 2, [.. node.Attributes.All]).Outputs[1];
        indices.Type = ElementType.Int64;
        var flat = new Term(x.B, indices).Reshape(-1);
        var zeros = x.Zeros().Reshape(-1);
        return new Term(x.B, x.B.Op("ScatterElements", [zeros, flat, dY.Reshape(-1)], Int("axis", 0), Text("reduction", "add"))).ReshapeTo(x);
    }
}
