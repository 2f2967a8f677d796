using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// How a convolution of small planes, or its data gradient, is computed with vectors along the batch: each output sums
/// the taps that lie inside the plane, and nothing else.
/// </summary>
/// <remarks>
/// X is copied as [channel, position, sample]. Where a plane is smaller than a vector, that is the only axis that fills
/// one. Taps of a row of the kernel that lie side by side in X are one run of the inner loop.
/// </remarks>
internal sealed unsafe class BatchLastPlan : ConvolutionPlan
{
    private const long MostPositions = 256;

    private readonly int[] _offsets;
    private readonly BatchLast _work;

    private BatchLastPlan(ConvShape shape, bool isForward)
    {
        checked
        {
            var lanes = Simd.Width / 32;
            var (inputs, outputs) = isForward ? (shape.Channels, shape.Filters) : (shape.Filters, shape.Channels);
            var samples = (shape.Batch + lanes - 1) / lanes * lanes;
            var (source, target) = isForward ? (shape.XPlane, shape.YPlane) : (shape.YPlane, shape.XPlane);
            var tiles = (outputs + 7) / 8;
            var isRunning = isForward || shape.Column.Stride == 1;
            _offsets = Pinned.Array(
                from v in Enumerable.Range(0, isRunning ? (int)shape.Column.Kernel : 1)
                from c in Enumerable.Range(0, inputs)
                select (int)(((c * source) + ((isForward ? v : -v) * shape.Column.Dilation)) * samples)
            );
            _work = new BatchLast
            {
                Shape = shape,
                IsForward = isForward,
                IsRunning = isRunning,
                Inputs = inputs,
                Outputs = outputs,
                Tiles = tiles,
                Samples = samples,
                Source = source,
                Target = target,
                Vectors = samples / lanes,
                OutputStride = isForward ? (long)shape.Channels * shape.Taps : shape.Taps,
                InputStride = isForward ? shape.Taps : (long)shape.Channels * shape.Taps,
                WeightCount = (long)shape.Groups * tiles * shape.Taps * inputs * 8,
                Offsets = Pinned.Address(_offsets),
                Body = Simd.Width switch
                {
                    512 => &BatchLast.Run<Simd512, Vector512<float>>,
                    256 => &BatchLast.Run<Simd256, Vector256<float>>,
                    _ => &BatchLast.Run<Simd128, Vector128<float>>,
                },
            };
        }
    }

    /// <summary>Gives a plan of Y from X and W, or of dX from dY and W; null where another way is better.</summary>
    public static BatchLastPlan? Of(ConvShape shape, bool isForward)
    {
        var lanes = Simd.Width / 32;
        var samples = (shape.Batch + lanes - 1) / lanes * lanes;
        var (inputs, outputs) = isForward ? (shape.Channels, shape.Filters) : (shape.Filters, shape.Channels);
        var width = isForward ? shape.Column.Outputs : shape.Column.Size / shape.Column.Stride;
        return
            Math.Max(shape.XPlane, shape.YPlane) is > 0 and <= MostPositions
            && width % lanes != 0
            && width * 2 % lanes != 0
            && samples * 2 <= shape.Batch * 3
            && (long)inputs * shape.Taps >= 32
            && outputs >= 4
            && (long)inputs * shape.Groups * shape.XPlane * samples < int.MaxValue / 4
            ? new(shape, isForward)
            : null;
    }

    /// <inheritdoc/>
    public override void Run(KernelContext context, float* x, float* weights, float* bias, float* y)
    {
        var work = _work;
        var channels = work.Shape.Groups * work.Inputs;
        var units = work.Shape.Groups * work.Tiles;
        var size = channels * work.Source * work.Samples;
        work.X = x;
        work.Weights = weights;
        work.Bias = bias;
        work.Y = y;
        work.Packed = Scratch.OfCall(size + work.WeightCount);
        work.PackedWeights = work.Packed + size;
        context.ParallelFor(channels, KernelContext.Parts(channels, size / channels), &BatchLast.Pack, ref work);
        context.ParallelFor(
            units,
            KernelContext.Parts(units, work.WeightCount / units),
            &BatchLast.PackWeights,
            ref work
        );
        var items = (long)units * ((work.Vectors + 2) / 3);
        var parts = (int)Math.Clamp(work.Shape.Work / 500_000, 1, Math.Min(items, 16));
        context.ParallelFor(items, parts, work.Body, ref work);
    }
}

/// <summary>One call of a <see cref="BatchLastPlan"/>.</summary>
internal unsafe struct BatchLast
{
    public ConvShape Shape;
    public bool IsForward,
        IsRunning;
    public int Inputs,
        Outputs,
        Tiles,
        Samples,
        Vectors;
    public long Source,
        Target,
        OutputStride,
        InputStride,
        WeightCount;
    public int* Offsets;

    // csharpier-ignore
    public delegate*<void*, int, long, long, void> Body;
    public float* X,
        Packed,
        Weights,
        PackedWeights,
        Bias,
        Y;

    /// <summary>Copies channels as [position, sample].</summary>
    public static void Pack(void* data, int part, long from, long to)
    {
        var w = (BatchLast*)data;
        long channels = w->Shape.Groups * w->Inputs;
        for (var c = from; c < to; c++)
        {
            var target = w->Packed + (c * w->Source * w->Samples);
            if (w->Samples > w->Shape.Batch)
            {
                new Span<float>(target, checked((int)(w->Source * w->Samples))).Clear();
            }

            Planes.Transpose(
                w->X + (c * w->Source),
                channels * w->Source,
                w->Shape.Batch,
                target,
                w->Samples,
                w->Source
            );
        }
    }

    /// <summary>Weights as [group, tile, tap, input channel, output of the tile].</summary>
    public static void PackWeights(void* data, int part, long from, long to)
    {
        var w = (BatchLast*)data;
        var taps = w->Shape.Taps;
        var row = Scratch.OfPart(8L * taps);
        for (var unit = from; unit < to; unit++)
        {
            var (group, first) = (unit / w->Tiles, unit % w->Tiles * 8);
            var target = w->PackedWeights + (unit * taps * w->Inputs * 8);
            var source = w->Weights + (group * w->Shape.Filters * w->Shape.Channels * taps) + (first * w->OutputStride);
            var count = Math.Min(8, w->Outputs - first);
            new Span<float>(row, 8 * taps).Clear();
            for (var c = 0; c < w->Inputs; c++, source += w->InputStride, target += 8)
            {
                Planes.Transpose(source, w->OutputStride, count, row, 8, taps);
                for (var t = 0; t < taps; t++)
                {
                    Vector256.Load(row + (8 * t)).Store(target + ((long)t * w->Inputs * 8));
                }
            }
        }
    }

    /// <summary>Computes eight output channels of up to three vectors of samples.</summary>
    public static void Run<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        var w = (BatchLast*)data;
        var chunks = (w->Vectors + 2) / 3;
        var sums = Scratch.OfPart(8 * w->Target * 3 * S.Lanes);
        for (var item = from; item < to; item++)
        {
            var (unit, chunk) = Math.DivRem(item, chunks);
            w->Compute<S, V>(unit / w->Tiles, (int)(unit % w->Tiles), (int)chunk * 3, sums);
        }
    }

    private readonly void Compute<S, V>(long group, int tile, int vector, float* sums)
        where S : struct, ISimd<V>
        where V : struct
    {
        var (row, column) = (Shape.Row, Shape.Column);
        var (vectors, count) = (Math.Min(3, Vectors - vector), Math.Min(8, Outputs - (tile * 8)));
        var channel = (group * Outputs) + (tile * 8);
        var start = stackalloc float[8];
        for (var k = 0; k < count && Bias != null; k++)
        {
            start[k] = Bias[channel + k];
        }

        var (height, width, sourceWidth) = IsForward
            ? (row.Outputs, column.Outputs, column.Size)
            : (row.Size, column.Size, column.Outputs);
        var (pitch, stride) = ((nint)vectors * S.Lanes, (nint)Target * vectors * S.Lanes);
        var weights = PackedWeights + (((group * Tiles) + tile) * Shape.Taps * Inputs * 8);
        var x = Packed + (group * Inputs * Source * Samples) + (vector * S.Lanes);
        var y = sums;
        for (var p = 0L; p < height; p++)
        {
            for (var q = 0L; q < width; q++, y += pitch)
            {
                var from = start;
                for (var u = 0L; u < row.Kernel; u++)
                {
                    var i = Place(row, p, u);
                    if (i < 0)
                    {
                        continue;
                    }

                    var v = 0L;
                    while (v < column.Kernel)
                    {
                        var j = Place(column, q, v);
                        if (j < 0)
                        {
                            v++;
                            continue;
                        }

                        var run = 1L;
                        while (IsRunning && v + run < column.Kernel && Place(column, q, v + run) >= 0)
                        {
                            run++;
                        }

                        Sum<S, V>(
                            x + (((i * sourceWidth) + j) * Samples),
                            (nint)run * Inputs,
                            weights + (((u * column.Kernel) + v) * Inputs * 8),
                            from,
                            y,
                            stride,
                            vectors
                        );
                        from = null;
                        v += run;
                    }
                }

                if (from != null)
                {
                    for (var k = 0; k < 8; k++)
                    {
                        new Span<float>(y + (k * stride), (int)pitch).Fill(start[k]);
                    }
                }
            }
        }

        var first = vector * S.Lanes;
        for (var k = 0; k < count; k++)
        {
            Planes.Transpose(
                sums + (k * stride),
                pitch,
                Target,
                Y + (((first * Shape.Groups * Outputs) + channel + k) * Target),
                Shape.Groups * Outputs * Target,
                Math.Min(pitch, Shape.Batch - first)
            );
        }
    }

    /// <summary>Gives where along an axis a tap of an output lies; -1 for outside.</summary>
    private readonly long Place(WindowAxis axis, long output, long tap)
    {
        if (IsForward)
        {
            var at = (output * axis.Stride) - axis.Begin + (tap * axis.Dilation);
            return at >= 0 && at < axis.Size ? at : -1;
        }

        var (window, rest) = Math.DivRem(output + axis.Begin - (tap * axis.Dilation), axis.Stride);
        return rest == 0 && window >= 0 && window < axis.Outputs ? window : -1;
    }

    private readonly void Sum<S, V>(
        float* x,
        nint taps,
        float* weights,
        float* start,
        float* y,
        nint stride,
        int vectors
    )
        where S : struct, ISimd<V>
        where V : struct
    {
        if (vectors == 3 && Simd.HasManyRegisters)
        {
            InnerLoops<S, V, No>.Three(
                x,
                x + S.Lanes,
                x + (2 * S.Lanes),
                0,
                Offsets,
                taps,
                weights,
                start,
                y,
                stride,
                8
            );
            return;
        }

        for (var i = 0; i < vectors; i++)
        {
            InnerLoops<S, V, No>.One(x + (i * S.Lanes), 0, Offsets, taps, weights, start, y + (i * S.Lanes), stride, 8);
        }
    }
}
