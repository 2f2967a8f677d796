using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>
/// The gradients of convolutions: the data gradient here, the weight gradient in <see cref="ConvolutionWeight"/>.
/// </summary>
internal static class ConvolutionLowering
{
    public static IEnumerable<(string OpType, LoweringRule Rule)> Rules { get; } =
    [
        (
            "ConvDataGrad",
            (b, node) =>
                [
                    DataGradient(
                        new(b, node.Inputs[0]!),
                        node.Inputs[1]!,
                        node.Inputs[2]!,
                        Windows.Of(node),
                        node.Attributes.Int("group", 1)
                    ),
                ]
        ),
        (
            "ConvWeightGrad",
            (b, node) =>
                [
                    ConvolutionWeight.Gradient(
                        new(b, node.Inputs[0]!),
                        new(b, node.Inputs[1]!),
                        Windows.Of(node),
                        node.Attributes.Int("group", 1)
                    ),
                ]
        ),
    ];

    private static Term DataGradient(Term small, Value weights, Value big, Windows windows, long group) =>
        group == 1 && !windows.IsStrided && IsFlipBetter(weights.KnownShape, windows)
            ? Flipped(small, new(small.B, weights), windows)
            : Spread(small, weights, big, windows, group);

    /// <summary>
    /// ONNX Runtime's ConvTranspose hardly uses more than one thread on few channels, and is no slower than Conv on
    /// many; below 16
    /// channels its single thread still wins. (Measured on two cores.)
    /// </summary>
    private static bool IsFlipBetter(Shape weights, Windows windows) =>
        Enumerable.Range(0, windows.Rank).All(a => windows.Extent(a) > Math.Max(windows.Begin[a], windows.End[a]))
        && (windows.Taps == 1 || Math.Min(weights[0].Size, weights[1].Size) is >= 16 and < 128);

    /// <summary>
    /// At stride 1 the adjoint of a convolution is one with the kernel mirrored and the channels swapped.
    /// </summary>
    private static Term Flipped(Term small, Term weights, Windows windows)
    {
        if (windows.Taps > 1)
        {
            var axes = Enumerable.Range(2, windows.Rank).Select(a => (long)a).ToArray();
            var back = Enumerable.Repeat(-1L, windows.Rank).ToArray();
            weights = new(
                small.B,
                small.B.Op(
                    "Slice",
                    [
                        weights,
                        small.B.Int64s(back),
                        small.B.Int64s([.. windows.Kernel.Select(k => -k - 1)]),
                        small.B.Int64s(axes),
                        small.B.Int64s(back),
                    ]
                )
            );
        }

        var mirrored = windows with
        {
            Begin = [.. windows.Begin.Select((p, a) => windows.Extent(a) - 1 - p)],
            End = [.. windows.End.Select((p, a) => windows.Extent(a) - 1 - p)],
        };
        return small.Op("Conv", weights.Transpose(SwapFirst(windows.Rank)), mirrored.Attributes());
    }

    /// <summary>
    /// Adds every element of the small tensor, times the weights, to the positions of its window: ConvTranspose, to the
    /// big tensor's size.
    /// </summary>
    /// <remarks>Where the size is dynamic the result is made too long (by less than a stride) and cut.</remarks>
    public static Term Spread(Term small, Value weights, Value big, Windows windows, long group)
    {
        var rest = Enumerable
            .Range(0, windows.Rank)
            .Select(a => windows.Rest(a, big.KnownShape, small.V.KnownShape))
            .ToArray();
        var isExact = rest.All(r => r is not null);
        var end = windows.End.Select((p, a) => isExact ? p - Math.Min(rest[a]!.Value, 0) : 0);
        var more = windows.Strides.Select((s, a) => isExact ? Math.Max(rest[a]!.Value, 0) : s - 1);
        var result = small.Op(
            "ConvTranspose",
            weights,
            (windows with { End = [.. end] }).Attributes(Ints("output_padding", [.. more]), Int("group", group))
        );
        return isExact ? result : CutTo(result, big, windows.Rank);
    }

    /// <summary>Gives the permutation that swaps the first two axes.</summary>
    public static long[] SwapFirst(int spatialRank) => [1, 0, .. Enumerable.Range(2, spatialRank).Select(a => (long)a)];

    private static Term CutTo(Term term, Value like, int spatialRank)
    {
        var axes = Enumerable.Range(2, spatialRank).Select(a => (long)a).ToArray();
        var sizes = new Term(term.B, like).Op("Shape", Int("start", 2));
        return new(
            term.B,
            term.B.Op("Slice", [term, term.B.Int64s(new long[spatialRank]), sizes, term.B.Int64s(axes)])
        );
    }
}
