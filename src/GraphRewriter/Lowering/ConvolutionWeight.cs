using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>
/// The weight gradient of a convolution: dW[m, c, tap] = sum over samples n and windows p of dY[n, m, p] * X[n, c,
/// position(p, tap)].
/// </summary>
/// <remarks>
/// It is a matrix product of dY with the <em>columns</em> of X (what each tap of each window sees), and the only
/// question is how stock
/// operators make the columns. Notation: N samples, C channels of X, M of dY, P windows, K taps. The choice among them
/// was measured on two cores.
/// </remarks>
internal static class ConvolutionWeight
{
    /// <summary>More column elements a sample than this (4 MiB) are not made at once.</summary>
    private const long MostColumns = 1 << 20;

    /// <summary>One-hot kernels cost the square of the number of taps: from 5x5 on they do not pay.</summary>
    private const long MostOneHotTaps = 25;

    public static Term Gradient(Term dY, Term x, Windows windows, long group)
    {
        var (m, c) = (dY.V.KnownShape[1].Size, x.V.KnownShape[1].Size);
        var sizes = dY.V.KnownShape.Dims.Concat(x.V.KnownShape.Dims).Where((_, i) => i % (windows.Rank + 2) >= 2);
        var isStatic = sizes.All(d => d.IsStatic);
        var p = isStatic ? dY.V.KnownShape.Dims.Skip(2).Aggregate(1L, (n, d) => n * d.Size) : 0;
        var isLarge = (double)windows.Taps * c * p > MostColumns;
        var isOneHot = !isStatic || (windows.Taps <= MostOneHotTaps && !isLarge);
        return (windows.IsPointwise, group) switch
        {
            (true, 1) when isStatic && m * c > (m + c) * p => ByTaps(dY, x, windows, m, c, oneByOne: false),
            (true, _) => BySample(dY, Subsampled(x, windows), windows, m, c, group),
            (_, 1) when isStatic && !isLarge && c >= (windows.IsStrided ? 32 : 64) => ByRows(dY, x, windows, m, c),
            (_, 1) when isStatic && !isOneHot => ByTaps(dY, x, windows, m, c, oneByOne: isLarge),
            _ when isOneHot => BySample(dY, OneHotColumns(x, windows, c), windows, m, c, group),
            _ => BySwappedRoles(dY, x, windows, m, c, group),
        };
    }

    /// <summary>
    /// Columns [N, C*K, P]: a product for each sample and group, then the sum over the samples. No layout changes.
    /// </summary>
    private static Term BySample(Term dY, Term columns, Windows windows, long m, long c, long group)
    {
        var rows = dY.Reshape(0, group, m / group, -1);
        var product = rows.MatMul(columns.Reshape(0, group, c / group * windows.Taps, -1), transposeOther: true);
        return product.Sum([0], keepDims: false).Reshape([m, c / group, .. windows.Kernel]);
    }

    /// <summary>
    /// A depthwise convolution with one-hot kernels copies each tap to a channel of its own, with all threads and any
    /// padding.
    /// </summary>
    private static Term OneHotColumns(Term x, Windows windows, long c)
    {
        var taps = windows.Taps;
        var oneHot = new float[checked(c * taps * taps)];
        for (var i = 0L; i < c * taps; i++)
        {
            oneHot[(i * taps) + (i % taps)] = 1;
        }

        var weights = x.B.Constant(Ir.Tensor.From<float>([c * taps, 1, .. windows.Kernel], oneHot));
        return x.Op("Conv", weights, windows.Attributes(Int("group", c)));
    }

    /// <summary>
    /// Channels last, the columns are whole rows of X: one Gather makes them [N*P, K*C], and one product contracts all
    /// samples.
    /// </summary>
    private static Term ByRows(Term dY, Term x, Windows windows, long m, long c)
    {
        var big = x.V.KnownShape.Dims.Skip(2).Select(d => d.Size).ToArray();
        var small = dY.V.KnownShape.Dims.Skip(2).Select(d => d.Size).ToArray();
        var count = Ir.Tensor.CountOf(big);
        var positions = windows.Positions(big, small);
        var rows = x.Transpose([0, .. Enumerable.Range(2, windows.Rank).Select(a => (long)a), 1]).Reshape(0, count, c);
        if (positions.Any(i => i < 0))
        {
            // A row of zeros behind the others stands for the padding.
            rows = rows.Op("Pad", x.B.Int64s(0, 0, 0, 0, 1, 0));
        }

        var gathered = rows.Op("Gather", x.B.Int64s([.. positions.Select(i => i < 0 ? count : i)]), Int("axis", 1));
        return FromTapsFirst(
            ChannelsByAll(dY, m, windows.Rank).MatMul(gathered.Reshape(-1, windows.Taps * c)),
            windows,
            m,
            c
        );
    }

    /// <summary>
    /// A strided Slice for each tap: all of them concatenated for one product, or, where that takes too much memory, a
    /// product each.
    /// </summary>
    private static Term ByTaps(Term dY, Term x, Windows windows, long m, long c, bool oneByOne)
    {
        var rows = ChannelsByAll(dY, m, windows.Rank);
        var taps = Slices(
                x.Transpose(ConvolutionLowering.SwapFirst(windows.Rank)),
                x.V.KnownShape,
                dY.V.KnownShape,
                windows
            )
            .Select(t => t.Reshape(c, -1))
            .ToArray();
        var product = oneByOne
            ? Concat(x.B, [.. taps.Select(t => rows.MatMul(t, transposeOther: true))], 1)
            : rows.MatMul(Concat(x.B, taps, 0), transposeOther: true);
        return FromTapsFirst(product, windows, m, c);
    }

    /// <summary>
    /// A convolution whose images are the channels of X and whose kernels are those of dY; its strides are the
    /// dilations and the reverse.
    /// </summary>
    private static Term BySwappedRoles(Term dY, Term x, Windows windows, long m, long c, long group)
    {
        // [N, group, C/group, ...] to [C/group, group*N, ...]: each group sees its own channels of every sample.
        var big = x.V.KnownShape.Dims.Skip(2).Select(d => d.Size).ToArray();
        var images = x.Reshape([0, group, c / group, .. big])
            .Transpose([2, 1, 0, .. Enumerable.Range(3, windows.Rank).Select(a => (long)a)])
            .Reshape([c / group, -1, .. big]);
        var kernels = dY.Transpose(ConvolutionLowering.SwapFirst(windows.Rank));
        var result = images.Op(
            "Conv",
            kernels,
            Ints("strides", windows.Dilations),
            Ints("dilations", windows.Strides),
            Ints("pads", [.. windows.Begin, .. windows.End]),
            Int("group", group)
        );

        // What lies behind the last window shows up as taps too many.
        return Cut(result, new long[windows.Rank], windows.Kernel, null)
            .Transpose(ConvolutionLowering.SwapFirst(windows.Rank));
    }

    /// <summary>Gives what each tap sees, [C, N, windows...], of X with the channels first.</summary>
    private static IEnumerable<Term> Slices(Term x, Shape big, Shape small, Windows windows)
    {
        // The end needs no more padding than the last window reaches.
        var last = Enumerable
            .Range(0, windows.Rank)
            .Select(a => (small[a + 2].Size - 1) * windows.Strides[a])
            .ToArray();
        var end = last.Select((l, a) => Math.Max(0, l + windows.Extent(a) - windows.Begin[a] - big[a + 2].Size))
            .ToArray();
        if (windows.Begin.Concat(end).Any(p => p > 0))
        {
            x = x.Op("Pad", x.B.Int64s([0, 0, .. windows.Begin, 0, 0, .. end]));
        }

        for (var tap = 0L; tap < windows.Taps; tap++)
        {
            var (start, rest) = (new long[windows.Rank], tap);
            for (var a = windows.Rank - 1; a >= 0; a--)
            {
                (rest, start[a]) = Math.DivRem(rest, windows.Kernel[a]);
                start[a] *= windows.Dilations[a];
            }

            yield return Cut(x, start, [.. start.Zip(last, (s, l) => s + l + 1)], windows.Strides);
        }
    }

    private static Term Subsampled(Term x, Windows windows) =>
        windows.IsStrided
            ? Cut(x, new long[windows.Rank], [.. windows.Kernel.Select(_ => long.MaxValue)], windows.Strides)
            : x;

    private static Term Cut(Term x, long[] start, long[] end, long[]? steps)
    {
        var axes = x.B.Int64s([.. Enumerable.Range(2, start.Length).Select(a => (long)a)]);
        return new(
            x.B,
            x.B.Op(
                "Slice",
                [
                    x,
                    x.B.Int64s(start),
                    x.B.Int64s(end),
                    axes,
                    steps is null || steps.All(s => s == 1) ? null : x.B.Int64s(steps),
                ]
            )
        );
    }

    private static Term ChannelsByAll(Term dY, long m, int rank) =>
        dY.Transpose(ConvolutionLowering.SwapFirst(rank)).Reshape(m, -1);

    private static Term Concat(GraphBuilder b, Term[] terms, long axis) =>
        terms.Length == 1 ? terms[0] : new(b, b.Op("Concat", [.. terms.Select(t => t.V)], Int("axis", axis)));

    /// <summary>Gives [M, K*C] the layout of the weights, [M, C, kernel].</summary>
    private static Term FromTapsFirst(Term product, Windows windows, long m, long c) =>
        (windows.Taps > 1 && c > 1 ? product.Reshape(m, windows.Taps, c).Transpose(0, 2, 1) : product).Reshape([
            m,
            c,
            .. windows.Kernel,
        ]);
}
