using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>The gradients of pools.</summary>
internal static class PoolingLowering
{
    public static IEnumerable<(string OpType, LoweringRule Rule)> Rules { get; } =
    [
        ("MaxPoolGrad", (b, node) => [MaxPool(b, node)]),
        ("WindowSpread", (b, node) => [Spread(new(b, node.Inputs[0]!), node.Inputs[1]!, Windows.Of(node))]),
    ];

    /// <summary>
    /// Adds each element to the positions of its window: copies by Resize where the windows tile the input, else a
    /// depthwise ConvTranspose of ones.
    /// </summary>
    private static Term Spread(Term small, Value big, Windows windows)
    {
        var b = small.B;
        if (
            IsTiling(windows)
            && Enumerable.Range(0, windows.Rank).All(a => windows.Rest(a, big.KnownShape, small.V.KnownShape) == 0)
        )
        {
            var scales = b.Constant(
                Ir.Tensor.From<float>([windows.Rank + 2], [1, 1, .. windows.Kernel.Select(k => (float)k)])
            );
            return new(
                b,
                b.Op(
                    "Resize",
                    [small, null, scales],
                    Text("mode", "nearest"),
                    Text("coordinate_transformation_mode", "asymmetric"),
                    Text("nearest_mode", "floor")
                )
            );
        }

        var channels = big.KnownShape[1].Size;
        var ones = b.Constant(
            new(
                small.Type,
                [channels, 1, .. windows.Kernel],
                GraphBuilder.Filled(1, small.Type, channels * windows.Taps).Data
            )
        );
        return ConvolutionLowering.Spread(small, ones, big, windows, channels);
    }

    private static bool IsTiling(Windows windows) =>
        !windows.IsPadded && windows.Kernel.SequenceEqual(windows.Strides) && windows.Dilations.All(d => d == 1);

    private static Term MaxPool(GraphBuilder b, Node node)
    {
        var (dY, x, y, windows) = (
            new Term(b, node.Inputs[0]!),
            new Term(b, node.Inputs[1]!),
            new Term(b, node.Inputs[2]!),
            Windows.Of(node)
        );
        var isDisjoint = Enumerable.Range(0, windows.Rank).All(a => windows.Strides[a] >= windows.Extent(a));
        return isDisjoint && x.V.KnownShape.Dims.Skip(2).All(d => d.IsStatic)
            ? ByRank(dY, x, y, windows, node)
            : ByIndices(dY, x, node);
    }

    /// <summary>
    /// Windows that do not overlap: each maximum gets the rank of its place in the window, the first place the highest,
    /// and the winner
    /// is the one whose rank is the window's highest. (A pool with the Indices output takes 20 times as long as one
    /// without.)
    /// </summary>
    private static Term ByRank(Term dY, Term x, Term y, Windows windows, Node node)
    {
        var places = new Term(x.B, x.B.Constant(RankOfPlace(windows, x.V.KnownShape, y.V.KnownShape)));
        var ranks = IsMaximum(x, y) * places.Cast(x.Type);
        var highest = ranks.Op("MaxPool", [.. node.Attributes.All]);
        highest.V.Shape = y.V.Shape;
        return IsMaximum(ranks, highest) * Spread(dY, x, windows);

        Term IsMaximum(Term big, Term small) =>
            new Term(x.B, x.B.Op("Equal", [big, Spread(small, x, windows)])).AsNumber(x.Type);
    }

    /// <summary>
    /// Gives, for every position, the number of places from it to the end of its window, [1, 1, sizes...]; 0 where
    /// there is no window.
    /// </summary>
    private static Ir.Tensor RankOfPlace(Windows windows, Shape big, Shape small)
    {
        var sizes = big.Dims.Skip(2).Select(d => d.Size).ToArray();
        var positions = windows.Positions(sizes, [.. small.Dims.Skip(2).Select(d => d.Size)]);
        var ranks = new float[Ir.Tensor.CountOf(sizes)];
        for (var i = 0L; i < positions.Length; i++)
        {
            if (positions[i] >= 0)
            {
                ranks[positions[i]] = windows.Taps - (i % windows.Taps);
            }
        }

        return Ir.Tensor.From<float>([1, 1, .. sizes], ranks);
    }

    /// <summary>
    /// Windows that overlap: the pool once more, for the flat positions of the maxima, and the gradients added there.
    /// </summary>
    private static Term ByIndices(Term dY, Term x, Node node)
    {
        var indices = x.B.Node("MaxPool", "", [x], 2, [.. node.Attributes.All]).Outputs[1];
        indices.Type = ElementType.Int64;
        var flat = new Term(x.B, indices).Reshape(-1);
        var zeros = x.Zeros().Reshape(-1);
        return new Term(
            x.B,
            x.B.Op("ScatterElements", [zeros, flat, dY.Reshape(-1)], Int("axis", 0), Text("reduction", "add"))
        ).ReshapeTo(x);
    }
}
