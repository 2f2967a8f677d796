using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// How a convolution with three columns at stride 1, or its data gradient, is one product of matrices for each of six
/// transformed columns: Winograd's F(4, 3), 6 multiplications instead of 12 for four outputs of a row.
/// </summary>
/// <remarks>
/// A tile of four outputs is y = A' [(G w) * (B' x)], x its six inputs, summed over channels and rows of the kernel
/// before A'; the matrices are those of the points 0, 1, -1, 2, -2 and infinity (Lavin and Gray, 2016). In one
/// dimension, transformed rows serve every row of the kernel, and rounding errors are about twice those of plain sums.
/// Vectors run along tiles, which are numbered through the rows of a band. Bands are transformed some at a time: the
/// result stays in the cache for all output channels.
/// </remarks>
internal sealed unsafe class WinogradPlan : ConvolutionPlan
{
    private const long FloatsOfCache = 65536,
        MostFloats = 1 << 20;

    private readonly int[] _offsets;
    private readonly Winograd _winograd;

    private WinogradPlan(ConvShape shape, bool isForward, int band)
    {
        checked
        {
            var lanes = Simd.Width / 32;
            var (row, column) = (shape.Row, shape.Column);
            var (inputs, outputs) = isForward ? (shape.Channels, shape.Filters) : (shape.Filters, shape.Channels);
            var (height, width) = isForward ? (row.Outputs, column.Outputs) : (row.Size, column.Size);
            var (tiles, bandTiles, halo) = (
                (outputs + 7) / 8,
                (int)((width + 3) / 4),
                (int)((row.Kernel - 1) * row.Dilation)
            );
            var pitch = (((band + halo) * bandTiles) + lanes + 15) / 16 * 16;
            _offsets = Pinned.Array(
                from c in Enumerable.Range(0, inputs)
                from u in Enumerable.Range(0, (int)row.Kernel)
                select (c * pitch) + (u * (int)row.Dilation * bandTiles)
            );
            _winograd = new Winograd
            {
                Batch = shape.Batch,
                Groups = shape.Groups,
                Inputs = inputs,
                Outputs = outputs,
                OutputTiles = tiles,
                KernelRows = (int)row.Kernel,
                Halo = halo,
                Columns = bandTiles,
                Band = band,
                Bands = (int)((height + band - 1) / band),
                Pitch = pitch,
                // Some more: powers of two would put all six columns at one place of the cache.
                Position = (inputs * pitch) + 16,
                SourceHeight = isForward ? row.Size : row.Outputs,
                SourceWidth = isForward ? column.Size : column.Outputs,
                TargetHeight = height,
                TargetWidth = width,
                FirstRow = isForward ? -row.Begin : row.Begin - halo,
                FirstColumn = isForward ? -column.Begin : column.Begin - 2,
                IsMirrored = !isForward,
                GroupStride = (long)shape.Filters * shape.Channels * shape.Taps,
                OutputStride = isForward ? (long)shape.Channels * shape.Taps : shape.Taps,
                InputStride = isForward ? shape.Taps : (long)shape.Channels * shape.Taps,
                WeightCount = 6L * shape.Groups * tiles * inputs * row.Kernel * 8,
                Work = shape.Work,
                Offsets = Pinned.Address(_offsets),
                Body = Simd.Width switch
                {
                    512 => &Winograd.Run<Simd512, Vector512<float>>,
                    256 => &Winograd.Run<Simd256, Vector256<float>>,
                    _ => &Winograd.Run<Simd128, Vector128<float>>,
                },
            };
        }
    }

    /// <summary>Gives a plan of Y from X and W, or of dX from dY and W; null where another way is better.</summary>
    public static WinogradPlan? Of(ConvShape shape, bool isForward)
    {
        if (
            shape.Column is not { Kernel: 3, Stride: 1, Dilation: 1 }
            || shape.Row.Stride != 1
            || Math.Min(shape.Channels, shape.Filters) < 8
        )
        {
            return null;
        }

        var (height, width) = isForward
            ? (shape.Row.Outputs, shape.Column.Outputs)
            : (shape.Row.Size, shape.Column.Size);
        if (height == 0 || width == 0)
        {
            return null;
        }

        var inputs = isForward ? shape.Channels : shape.Filters;
        var halo = (shape.Row.Kernel - 1) * shape.Row.Dilation;
        var columns = (width + 3) / 4;
        var lanes = Simd.Width / 32;
        var band = Math.Min(height, Math.Max((FloatsOfCache / (6 * inputs * columns)) - halo, Math.Max(4, 2 * halo)));

        // Vectors that run beyond the last row, and columns beyond the last, are computed for nothing.
        var whole = ((band * columns) + lanes - 1) / lanes * lanes * 4;
        return whole * 2 < band * width * 3 && 6.0 * inputs * (((band + halo) * columns) + 32) < MostFloats
            ? new(shape, isForward, (int)band)
            : null;
    }

    /// <inheritdoc/>
    public override void Run(KernelContext context, float* x, float* weights, float* bias, float* y)
    {
        var work = _winograd;
        var bands = (long)work.Batch * work.Groups * work.Bands;
        if (bands == 0)
        {
            return;
        }

        work.X = x;
        work.Weights = weights;
        work.Bias = bias;
        work.Y = y;
        work.PackedWeights = Scratch.OfCall(work.WeightCount);
        var units = work.Groups * work.OutputTiles;
        context.ParallelFor(
            units,
            KernelContext.Parts(units, work.WeightCount / units),
            &Winograd.PackWeights,
            ref work
        );

        // Few bands: their output channels are shared out too, and each part transforms the band for itself.
        work.Slices = (int)Math.Clamp(8 / bands, 1, work.OutputTiles);
        work.AtOnce = (int)Math.Clamp(FloatsOfCache / (6L * work.Position), 1, 8);
        var items = bands * work.Slices;
        var parts = (int)Math.Clamp(work.Work / 500_000, 1, Math.Min(items, 16));
        context.ParallelFor(items, parts, work.Body, ref work);
    }
}

/// <summary>One call of a <see cref="WinogradPlan"/>.</summary>
internal unsafe struct Winograd
{
    public int Batch,
        Groups,
        Inputs,
        Outputs,
        OutputTiles,
        Slices,
        KernelRows,
        Halo,
        Columns,
        Band,
        Bands,
        AtOnce,
        Pitch,
        Position;
    public long SourceHeight,
        SourceWidth,
        TargetHeight,
        TargetWidth,
        FirstRow,
        FirstColumn,
        GroupStride,
        OutputStride,
        InputStride,
        WeightCount,
        Work;
    public bool IsMirrored;
    public int* Offsets;

    // csharpier-ignore
    public delegate*<void*, int, long, long, void> Body;
    public float* X,
        Weights,
        PackedWeights,
        Bias,
        Y;

    /// <summary>
    /// Transforms weights, to [group, tile, column, input channel, row of the kernel, output of the tile].
    /// </summary>
    public static void PackWeights(void* data, int part, long from, long to)
    {
        var w = (Winograd*)data;
        var taps = stackalloc float[3 * 8];
        var step = (nint)w->Inputs * w->KernelRows * 8;
        for (var unit = from; unit < to; unit++)
        {
            var (group, first) = (unit / w->OutputTiles, unit % w->OutputTiles * 8);
            var target = w->PackedWeights + (unit * 6 * step);
            for (var c = 0; c < w->Inputs; c++)
            {
                for (var u = 0; u < w->KernelRows; u++, target += 8)
                {
                    for (var k = 0; k < 8; k++)
                    {
                        var source =
                            w->Weights
                            + (group * w->GroupStride)
                            + (Math.Min(first + k, w->Outputs - 1) * w->OutputStride)
                            + (c * w->InputStride)
                            + (3 * (w->IsMirrored ? w->KernelRows - 1 - u : u));
                        (taps[k], taps[8 + k], taps[16 + k]) = w->IsMirrored
                            ? (source[2], source[1], source[0])
                            : (source[0], source[1], source[2]);
                    }

                    WinogradTransforms.Weights(taps, target, step);
                }
            }
        }
    }

    /// <summary>Computes some bands, each of one group and for some of its output channels.</summary>
    public static void Run<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        var w = (Winograd*)data;
        var size = 6L * w->Position;
        var (sums, plane) = (6 * 8 * 3 * S.Lanes, (w->Band + w->Halo) * ((4L * w->Columns) + 2));
        var scratch = Scratch.OfPart((w->AtOnce * size) + sums + plane + (8 * S.Lanes));
        var transformed = scratch + sums;
        var bands = (long)w->Batch * w->Bands;
        var item = from;
        while (item < to)
        {
            var (run, first) = Math.DivRem(item, bands);
            var (group, slice) = Math.DivRem(run, w->Slices);
            var count = (int)Math.Min(Math.Min(w->AtOnce, bands - first), to - item);
            for (var i = 0; i < count; i++)
            {
                w->Transform<S, V>(group, first + i, transformed + (i * size), transformed + (w->AtOnce * size));
            }

            // The bands share the weights while these are in the cache.
            for (
                var tile = w->OutputTiles * (int)slice / w->Slices;
                tile < w->OutputTiles * (slice + 1) / w->Slices;
                tile++
            )
            {
                w->Multiply<S, V>(group, tile, first, count, transformed, scratch);
            }

            item += count;
        }
    }

    /// <summary>Gives B' x of a band, as [column, input channel, tile].</summary>
    private readonly void Transform<S, V>(long group, long band, float* target, float* plane)
        where S : struct, ISimd<V>
        where V : struct
    {
        var (image, top) = Math.DivRem(band, Bands);
        top *= Band;
        var rows = (int)Math.Min(Band, TargetHeight - top) + Halo;
        var width = (4 * Columns) + 2;
        var source = X + (((image * Groups) + group) * Inputs * SourceHeight * SourceWidth);
        for (var c = 0; c < Inputs; c++, target += Pitch, source += SourceHeight * SourceWidth)
        {
            Planes.Copy(source, SourceHeight, SourceWidth, (top + FirstRow, FirstColumn), (1, 1), (rows, width), plane);

            // No wider than a row: what is computed beyond it is lost.
            if (Columns <= 4 || S.Lanes == 4)
            {
                WinogradTransforms.Inputs<Simd128, Vector128<float>>(plane, rows, Columns, target, Position);
            }
            else if (Columns <= 8 || S.Lanes == 8)
            {
                WinogradTransforms.Inputs<Simd256, Vector256<float>>(plane, rows, Columns, target, Position);
            }
            else
            {
                WinogradTransforms.Inputs<S, V>(plane, rows, Columns, target, Position);
            }
        }
    }

    /// <summary>Computes eight output channels of some bands.</summary>
    private readonly void Multiply<S, V>(
        long group,
        int tile,
        long firstBand,
        int bands,
        float* transformed,
        float* sums
    )
        where S : struct, ISimd<V>
        where V : struct
    {
        var (taps, stride, size) = ((nint)Inputs * KernelRows, 3 * S.Lanes, 6L * Position);
        var (channel, count) = (tile * 8, Math.Min(8, Outputs - (tile * 8)));
        var weights = PackedWeights + (((group * OutputTiles) + tile) * 6 * taps * 8);
        var zeros = stackalloc float[8];
        var vectors = ((Band * Columns) + S.Lanes - 1) / S.Lanes;
        for (var v = 0; v < bands * vectors; v += 3)
        {
            var several = Math.Min(3, (bands * vectors) - v);
            float* x0 = transformed + (v / vectors * size) + (v % vectors * S.Lanes),
                x1 = transformed + ((v + 1) / vectors * size) + ((v + 1) % vectors * S.Lanes),
                x2 = transformed + ((v + 2) / vectors * size) + ((v + 2) % vectors * S.Lanes);
            for (var position = 0; position < 6; position++)
            {
                float* w = weights + (position * taps * 8),
                    to = sums + (position * 8 * stride);
                if (several == 3 && Simd.HasManyRegisters)
                {
                    InnerLoops<S, V, No>.Three(x0, x1, x2, 0, Offsets, taps, w, zeros, to, stride, 8);
                }
                else
                {
                    InnerLoops<S, V, No>.One(x0, 0, Offsets, taps, w, zeros, to, stride, 8);
                    if (several > 1)
                    {
                        InnerLoops<S, V, No>.One(x1, 0, Offsets, taps, w, zeros, to + S.Lanes, stride, 8);
                    }

                    if (several > 2)
                    {
                        InnerLoops<S, V, No>.One(x2, 0, Offsets, taps, w, zeros, to + (2 * S.Lanes), stride, 8);
                    }
                }

                x0 += Position;
                x1 += Position;
                x2 += Position;
            }

            for (var i = 0; i < several; i++)
            {
                var (band, vector) = Math.DivRem(v + i, vectors);
                Write<S, V>(sums + (i * S.Lanes), stride, group, firstBand + band, vector, channel, count);
            }
        }
    }

    /// <summary>Writes a vector's tiles of some output channels.</summary>
    private readonly void Write<S, V>(
        float* sums,
        int stride,
        long group,
        long band,
        int vector,
        int channel,
        int count
    )
        where S : struct, ISimd<V>
        where V : struct
    {
        var (image, top) = Math.DivRem(band, Bands);
        top *= Band;
        var plane = TargetHeight * TargetWidth;
        var y = Y + ((((image * Groups) + group) * Outputs) + channel) * plane + (top * TargetWidth);
        var tiles = (int)Math.Min(Band, TargetHeight - top) * Columns;
        var line = stackalloc float[4 * S.Lanes];
        var first = vector * S.Lanes;
        var length = Math.Min(S.Lanes, tiles - first);
        var isWhole = TargetWidth == 4 * Columns;
        for (var k = 0; k < count && length > 0; k++, sums += stride, y += plane)
        {
            var bias = Bias == null ? 0 : Bias[(group * Outputs) + channel + k];
            if (isWhole && length == S.Lanes)
            {
                WinogradTransforms.Outputs<S, V>(sums, 8 * stride, bias, y + (4 * first));
                continue;
            }

            WinogradTransforms.Outputs<S, V>(sums, 8 * stride, bias, line);
            if (isWhole)
            {
                VectorMath.Copy(line, y + (4 * first), 4 * length);
                continue;
            }

            var i = 0;
            while (i < length)
            {
                var (row, column) = Math.DivRem(first + i, Columns);
                var piece = Math.Min(length - i, Columns - column);
                VectorMath.Copy(
                    line + (4 * i),
                    y + (row * TargetWidth) + (4 * column),
                    Math.Min(4 * piece, TargetWidth - (4 * column))
                );
                i += piece;
            }
        }
    }
}

/// <summary>The transformations of F(4, 3).</summary>
internal static unsafe class WinogradTransforms
{
    /// <summary>Gives G w for eight filters, each three numbers eight apart.</summary>
    public static void Weights(float* taps, float* target, nint step)
    {
        Vector256<float> a = Vector256.Load(taps),
            b = Vector256.Load(taps + 8),
            c = Vector256.Load(taps + 16),
            outer = (a + c) * Vector256.Create(-1f / 6),
            inner = b * Vector256.Create(-1f / 6),
            wide = (a + (c * Vector256.Create(4f))) * Vector256.Create(1f / 24),
            middle = b * Vector256.Create(1f / 12);
        (a * Vector256.Create(0.25f)).Store(target);
        (outer + inner).Store(target + step);
        (outer - inner).Store(target + (2 * step));
        (wide + middle).Store(target + (3 * step));
        (wide - middle).Store(target + (4 * step));
        c.Store(target + (5 * step));
    }

    /// <summary>Gives B' x of rows of tiles, each row four numbers a tile and two more.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Inputs<S, V>(float* x, int rows, int tiles, float* target, nint position)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (var row = 0; row < rows; row++, x += (4 * tiles) + 2, target += tiles)
        {
            for (var i = 0; i < tiles; i += S.Lanes)
            {
                var from = x + (4 * i);
                var (even, odd) = S.Unzip(S.Load(from), S.Load(from + S.Lanes));
                var (evens, odds) = S.Unzip(S.Load(from + (2 * S.Lanes)), S.Load(from + (3 * S.Lanes)));
                var (x0, x2) = S.Unzip(even, evens);
                var (x1, x3) = S.Unzip(odd, odds);
                (even, odd) = S.Unzip(S.Load(from + 4), S.Load(from + S.Lanes + 4));
                (evens, odds) = S.Unzip(S.Load(from + (2 * S.Lanes) + 4), S.Load(from + (3 * S.Lanes) + 4));
                var (x4, _) = S.Unzip(even, evens);
                var (x5, _) = S.Unzip(odd, odds);
                Combine<S, V>(x0, x1, x2, x3, x4, x5, target + i, position);
            }
        }
    }

    /// <summary>Gives B' x of vectors.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Combine<S, V>(V x0, V x1, V x2, V x3, V x4, V x5, float* target, nint step)
        where S : struct, ISimd<V>
        where V : struct
    {
        V four = S.Splat(4),
            minusFour = S.Splat(-4),
            even = S.Subtract(x4, x2),
            odd = S.Subtract(x3, x1),
            evens = S.MultiplyAdd(minusFour, x2, x4),
            odds = S.MultiplyAdd(minusFour, x1, x3),
            twice = S.Add(odd, odd);
        S.Store(S.MultiplyAdd(four, S.Subtract(x0, x2), even), target);
        S.Store(S.Add(evens, odds), target + step);
        S.Store(S.Subtract(evens, odds), target + (2 * step));
        S.Store(S.Add(even, twice), target + (3 * step));
        S.Store(S.Subtract(even, twice), target + (4 * step));
        S.Store(S.MultiplyAdd(minusFour, odd, S.Subtract(x5, x3)), target + (5 * step));
    }

    /// <summary>Gives A y of vectors.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Spread<S, V>(V y0, V y1, V y2, V y3, float* target, nint step)
        where S : struct, ISimd<V>
        where V : struct
    {
        V even = S.Add(y0, y2),
            odd = S.Add(y1, y3),
            evens = S.MultiplyAdd(S.Splat(4), y2, y0),
            odds = S.MultiplyAdd(S.Splat(8), y3, S.Add(y1, y1));
        S.Store(y0, target);
        S.Store(S.Add(even, odd), target + step);
        S.Store(S.Subtract(even, odd), target + (2 * step));
        S.Store(S.Add(evens, odds), target + (3 * step));
        S.Store(S.Subtract(evens, odds), target + (4 * step));
        S.Store(y3, target + (5 * step));
    }

    /// <summary>Gives G' s of six rows of sums.</summary>
    public static void Gradients(float* s, nint step, long count, float* target, nint stride)
    {
        for (var i = 0L; i < count; i++, s++, target += stride)
        {
            float low = s[step] + s[2 * step],
                high = s[3 * step] + s[4 * step];
            target[0] = (0.25f * *s) - (low * (1f / 6)) + (high * (1f / 24));
            target[1] = ((s[2 * step] - s[step]) * (1f / 6)) + ((s[3 * step] - s[4 * step]) * (1f / 12));
            target[2] = ((high - low) * (1f / 6)) + s[5 * step];
        }
    }

    /// <summary>Gives A' m of a vector of tiles, four outputs each.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Outputs<S, V>(float* m, nint step, float bias, float* y)
        where S : struct, ISimd<V>
        where V : struct
    {
        V m1 = S.Load(m + step),
            m2 = S.Load(m + (2 * step)),
            m3 = S.Load(m + (3 * step)),
            m4 = S.Load(m + (4 * step)),
            start = S.Splat(bias),
            sum = S.Add(S.Add(m1, m2), start),
            difference = S.Add(S.Subtract(m1, m2), start),
            sums = S.Add(m3, m4),
            differences = S.Subtract(m3, m4),
            y0 = S.Add(S.Add(S.Load(m), sum), sums),
            y1 = S.MultiplyAdd(S.Splat(2), differences, difference),
            y2 = S.MultiplyAdd(S.Splat(4), sums, sum),
            y3 = S.MultiplyAdd(S.Splat(8), differences, S.Add(difference, S.Load(m + (5 * step))));
        var (evenLow, evenHigh) = S.Zip(y0, y2);
        var (oddLow, oddHigh) = S.Zip(y1, y3);
        var (first, second) = S.Zip(evenLow, oddLow);
        S.Store(first, y);
        S.Store(second, y + S.Lanes);
        (first, second) = S.Zip(evenHigh, oddHigh);
        S.Store(first, y + (2 * S.Lanes));
        S.Store(second, y + (3 * S.Lanes));
    }
}
