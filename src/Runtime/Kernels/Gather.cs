using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// How a convolution, or its data gradient, is a sum over taps, each a shifted read of zero-padded planes of the input
/// and a weight for each output channel.
/// </summary>
/// <remarks>
/// Forward, the planes of a strided convolution are split by the row and column modulo the stride, so that a tap reads
/// neighbours. Backward, dX[i] sums W[k] dY[(i + begin - k dilation) / stride] over the k where that division is exact:
/// the output is computed in passes, one for each row and column modulo the stride.
/// </remarks>
internal sealed unsafe class GatherPlan : ConvolutionPlan
{
    private readonly Plane[] _planes;
    private readonly Pass[] _passes;
    private readonly int[] _offsets,
        _taps,
        _places;

    private Gather _gather;

    private GatherPlan(
        ConvShape shape,
        bool isForward,
        List<(int Row, int Column)> planes,
        (int Row, int Column) planeStep,
        (int Rows, int Columns) planeSize,
        (int Row, int Column) outputStep,
        List<(Pass Pass, List<(int Tap, int Plane, int Offset)> Taps)> passes
    )
    {
        checked
        {
            var lanes = Simd.Width / 32;
            var (inputs, outputs) = isForward ? (shape.Channels, shape.Filters) : (shape.Filters, shape.Channels);
            var plane = planeSize.Rows * planeSize.Columns;
            var tile = outputs == 1 ? 1 : 8;
            var units = shape.Groups * ((outputs + tile - 1) / tile);
            var (offsets, taps, places, weights, longest) = (new List<int>(), new List<int>(), new List<int>(), 0L, 0);
            _planes = Pinned.Array(planes.Select(p => new Plane { Row = p.Row, Column = p.Column }));
            _passes = Pinned.Array(
                passes.Select(p =>
                {
                    var pass = p.Pass;
                    pass.TapCount = p.Taps.Count;
                    (pass.FirstTap, pass.FirstOffset, pass.FirstWeight) = (taps.Count, offsets.Count, weights);
                    taps.AddRange(p.Taps.Select(t => t.Tap));
                    for (var c = 0; c < inputs; c++)
                    {
                        offsets.AddRange(p.Taps.Select(t => (((c * planes.Count) + t.Plane) * plane) + t.Offset));
                    }

                    weights += (long)units * inputs * pass.TapCount * tile;
                    pass.FirstPlace = places.Count;
                    pass.IsWhole = pass.Columns % lanes == 0;
                    pass.IsSplit = pass.Columns * 2 == lanes && pass.Rows % 2 == 0;
                    (pass.Vectors, pass.RowLength) =
                        pass.IsWhole || pass.IsSplit
                            ? (pass.Rows * pass.Columns / lanes, pass.Columns)
                            : (
                                (((pass.Rows - 1) * planeSize.Columns) + pass.Columns + lanes - 1) / lanes,
                                planeSize.Columns
                            );
                    for (var v = 0; v < pass.Vectors; v++)
                    {
                        places.Add(
                            pass.IsWhole
                                ? (v / (pass.Columns / lanes) * planeSize.Columns)
                                    + (v % (pass.Columns / lanes) * lanes)
                            : pass.IsSplit ? v * 2 * planeSize.Columns
                            : v * lanes
                        );
                    }

                    longest = Math.Max(longest, pass.Vectors * lanes);
                    return pass;
                })
            );
            (_offsets, _taps, _places) = (Pinned.Array(offsets), Pinned.Array(taps), Pinned.Array(places));
            var (source, target) = isForward
                ? (shape.Row.Size, shape.Row.Outputs)
                : (shape.Row.Outputs, shape.Row.Size);
            var (sourceWidth, targetWidth) = isForward
                ? (shape.Column.Size, shape.Column.Outputs)
                : (shape.Column.Outputs, shape.Column.Size);
            var kernel = shape.Taps;
            var packed = (long)inputs * planes.Count * plane;
            _gather = new Gather
            {
                Batch = shape.Batch,
                Groups = shape.Groups,
                Inputs = inputs,
                Outputs = outputs,
                Tile = tile,
                Tiles = units / shape.Groups,
                SourceHeight = source,
                SourceWidth = sourceWidth,
                TargetHeight = target,
                TargetWidth = targetWidth,
                PlaneCount = planes.Count,
                PlaneStep = planeStep,
                PlaneSize = planeSize,
                Packed = packed,
                Longest = longest,
                PassCount = _passes.Length,
                OutputStep = outputStep,
                GroupStride = (long)shape.Filters * shape.Channels * kernel,
                OutputStride = isForward ? (long)shape.Channels * kernel : kernel,
                InputStride = isForward ? kernel : (long)shape.Channels * kernel,
                WeightCount = weights,
                KernelTaps = kernel,
                Work = shape.Work,
                IsInPlace =
                    kernel == 1
                    && planes.Count == 1
                    && shape is { Row.Size: 1, Row.Outputs: 1, Row.Begin: 0, Column.Begin: 0, Column.Stride: 1 }
                    && planeSize.Columns == sourceWidth
                    && sourceWidth % lanes == 0,
                Body = Simd.Width switch
                {
                    512 => &Gather.Run<Simd512, Vector512<float>>,
                    256 => &Gather.Run<Simd256, Vector256<float>>,
                    _ => &Gather.Run<Simd128, Vector128<float>>,
                },
                Dots = Simd.Width switch
                {
                    512 => &Gather.Correlate<Simd512, Vector512<float>>,
                    256 => &Gather.Correlate<Simd256, Vector256<float>>,
                    _ => &Gather.Correlate<Simd128, Vector128<float>>,
                },
                Planes = Pinned.Address(_planes),
                Passes = Pinned.Address(_passes),
                Offsets = Pinned.Address(_offsets),
                Taps = Pinned.Address(_taps),
                Places = Pinned.Address(_places),
            };
            _ = (int)packed;
        }
    }

    /// <summary>Plans Y from X and W.</summary>
    public static new GatherPlan Forward(ConvShape shape)
    {
        checked
        {
            shape = shape.Flattened();
            var (row, column) = (shape.Row, shape.Column);
            (int Rows, int Columns) size = (
                (int)(row.Outputs - 1 + ((row.Kernel - 1) * row.Dilation / row.Stride) + 1),
                (int)(column.Outputs - 1 + ((column.Kernel - 1) * column.Dilation / column.Stride) + 1)
            );
            var planes = new List<(int Row, int Column)>();
            var taps = new List<(int Tap, int Plane, int Offset)>();
            for (var t = 0; t < shape.Taps; t++)
            {
                var (u, v) = (t / column.Kernel * row.Dilation, t % column.Kernel * column.Dilation);
                var plane = ((int)(u % row.Stride), (int)(v % column.Stride));
                if (!planes.Contains(plane))
                {
                    planes.Add(plane);
                }

                taps.Add((t, planes.IndexOf(plane), (int)((u / row.Stride * size.Columns) + (v / column.Stride))));
            }

            return new(
                shape,
                isForward: true,
                [.. planes.Select(p => (p.Row - (int)row.Begin, p.Column - (int)column.Begin))],
                ((int)row.Stride, (int)column.Stride),
                size,
                (1, 1),
                [(new() { Rows = (int)row.Outputs, Columns = (int)column.Outputs }, taps)]
            );
        }
    }

    /// <summary>Plans dX from dY and W.</summary>
    public static new GatherPlan DataGradient(ConvShape shape)
    {
        checked
        {
            shape = shape.Flattened();
            var (row, column) = (shape.Row, shape.Column);
            static int Low(WindowAxis axis) =>
                (int)Math.Max(0, (((axis.Kernel - 1) * axis.Dilation) - axis.Begin + axis.Stride - 1) / axis.Stride);
            static int Length(WindowAxis axis) => (int)(Low(axis) + ((axis.Size - 1 + axis.Begin) / axis.Stride) + 1);
            var (lowRow, lowColumn) = (Low(row), Low(column));
            (int Rows, int Columns) size = (Length(row), Length(column));
            var passes = new List<(Pass, List<(int, int, int)>)>();
            for (var a = 0; a < Math.Min(row.Stride, row.Size); a++)
            {
                for (var b = 0; b < Math.Min(column.Stride, column.Size); b++)
                {
                    var taps = new List<(int, int, int)>();
                    for (var t = 0; t < shape.Taps; t++)
                    {
                        var (u, v) = (
                            a + row.Begin - (t / column.Kernel * row.Dilation),
                            b + column.Begin - (t % column.Kernel * column.Dilation)
                        );
                        if (u % row.Stride == 0 && v % column.Stride == 0)
                        {
                            taps.Add(
                                (
                                    t,
                                    0,
                                    (int)(
                                        (((u / row.Stride) + lowRow) * size.Columns) + (v / column.Stride) + lowColumn
                                    )
                                )
                            );
                        }
                    }

                    passes.Add(
                        (
                            new()
                            {
                                Rows = (int)((row.Size - a + row.Stride - 1) / row.Stride),
                                Columns = (int)((column.Size - b + column.Stride - 1) / column.Stride),
                                Row = a,
                                Column = b,
                            },
                            taps
                        )
                    );
                }
            }

            return new(
                shape,
                isForward: false,
                [(-lowRow, -lowColumn)],
                (1, 1),
                size,
                ((int)row.Stride, (int)column.Stride),
                passes
            );
        }
    }

    /// <inheritdoc/>
    public override void Run(KernelContext context, float* x, float* weights, float* bias, float* y)
    {
        var gather = _gather;
        var images = (long)gather.Batch * gather.Groups;
        if (images == 0)
        {
            return;
        }

        gather.X = x;
        gather.Weights = weights;
        gather.Bias = bias;
        gather.Y = y;
        gather.PackedWeights = Scratch.OfCall(gather.WeightCount);
        var units = gather.Groups * gather.Tiles;
        context.ParallelFor(
            units,
            KernelContext.Parts(units, gather.WeightCount / units),
            &Gather.PackWeights,
            ref gather
        );

        // Few images: their output channels are shared out too, and each part packs the image for itself.
        gather.Slices = (int)Math.Clamp(8 / images, 1, gather.Tiles);
        var items = images * gather.Slices;
        var parts = (int)Math.Clamp(gather.Work / 500_000, 1, Math.Min(items, 16));
        context.ParallelFor(items, parts, gather.Body, ref gather);
    }

    /// <summary>
    /// Computes the weight gradient of a convolution whose channels are groups of their own, from X and dY: each tap's
    /// is the product of dY and X as that tap reads it.
    /// </summary>
    public void Correlate(KernelContext context, float* x, float* dY, float* dW)
    {
        var gather = _gather;
        gather.X = x;
        gather.Y = dY;
        gather.Weights = dW;
        var parts = (int)Math.Clamp(gather.Work / 500_000, 1, Math.Min(gather.Groups, 16));
        context.ParallelFor(gather.Groups, parts, gather.Dots, ref gather);
    }

    /// <summary>A copy of an input plane: its first row and column.</summary>
    public struct Plane
    {
        public int Row,
            Column;
    }

    /// <summary>A strided part of the output.</summary>
    public struct Pass
    {
        /// <summary>The size of the part, and its first row and column.</summary>
        public int Rows,
            Columns,
            Row,
            Column;

        /// <summary>Taps of one input channel, and where those of all start in the lists.</summary>
        public int TapCount,
            FirstTap,
            FirstOffset,
            FirstPlace;
        public long FirstWeight;

        /// <summary>
        /// Whether vectors lie in a row each, or in two rows by halves. Otherwise rows of the padded length are
        /// computed, and the surplus is dropped.
        /// </summary>
        public bool IsWhole,
            IsSplit;
        public int Vectors,
            RowLength;
    }
}

/// <summary>One call of a <see cref="GatherPlan"/>.</summary>
internal unsafe struct Gather
{
    private const long FloatsOfCache = 65536;

    public int Batch,
        Groups,
        Inputs,
        Outputs,
        Tile,
        Tiles,
        Slices,
        PlaneCount,
        PassCount,
        KernelTaps,
        Longest;
    public long SourceHeight,
        SourceWidth,
        TargetHeight,
        TargetWidth;
    public (int Row, int Column) PlaneStep,
        OutputStep;
    public (int Rows, int Columns) PlaneSize;
    public long Packed,
        GroupStride,
        OutputStride,
        InputStride,
        WeightCount,
        Work;
    public bool IsInPlace;

    // csharpier-ignore
    public delegate*<void*, int, long, long, void> Body,
        Dots;
    public GatherPlan.Plane* Planes;
    public GatherPlan.Pass* Passes;
    public int* Offsets,
        Taps,
        Places;
    public float* X,
        Weights,
        PackedWeights,
        Bias,
        Y;

    /// <summary>Weights as [pass, group, tile, input channel, tap, output of the tile].</summary>
    public static void PackWeights(void* data, int part, long from, long to)
    {
        var g = (Gather*)data;
        var row = Scratch.OfPart((long)g->Tile * g->KernelTaps);
        new Span<float>(row, g->Tile * g->KernelTaps).Clear();
        for (var unit = from; unit < to; unit++)
        {
            var (group, first) = (unit / g->Tiles, unit % g->Tiles * g->Tile);
            var count = Math.Min(g->Tile, g->Outputs - first);
            for (var p = 0; p < g->PassCount; p++)
            {
                var pass = g->Passes + p;
                var target = g->PackedWeights + pass->FirstWeight + (unit * g->Inputs * pass->TapCount * g->Tile);
                var source = g->Weights + (group * g->GroupStride) + (first * g->OutputStride);
                for (var c = 0; c < g->Inputs; c++, source += g->InputStride)
                {
                    Kernels.Planes.Transpose(source, g->OutputStride, count, row, g->Tile, g->KernelTaps);
                    for (var t = 0; t < pass->TapCount; t++, target += g->Tile)
                    {
                        VectorMath.Copy(row + (g->Taps[pass->FirstTap + t] * g->Tile), target, g->Tile);
                    }
                }
            }
        }
    }

    /// <summary>Computes some images, each of one group and for some of its output channels.</summary>
    public static void Run<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        var g = (Gather*)data;
        var stride = (g->Packed + (4 * S.Lanes) + 15) / 16 * 16;
        var most = g->IsInPlace ? to - from : Math.Clamp(FloatsOfCache / stride, 1, Math.Min(8, to - from));
        var images = Scratch.OfPart((g->IsInPlace ? 0 : most * stride) + (16L * g->Longest) + 16);
        var sums = images + (g->IsInPlace ? 0 : most * stride);
        var item = from;
        while (item < to)
        {
            var (run, image) = Math.DivRem(item, g->Batch);
            var (group, slice) = Math.DivRem(run, g->Slices);
            var count = Math.Min(Math.Min(most, g->Batch - image), to - item);
            var x = images;
            if (g->IsInPlace)
            {
                stride = g->Packed * g->Groups;
                x = g->X + (image * stride) + (group * g->Packed);
            }
            else
            {
                for (var i = 0; i < count; i++)
                {
                    g->Pack(image + i, group, images + (i * stride));
                }
            }

            // The images of a run share the weights while these are in the cache.
            for (var tile = g->Tiles * slice / g->Slices; tile < g->Tiles * (slice + 1) / g->Slices; tile++)
            {
                for (var i = 0; i < count; i++)
                {
                    for (var p = 0; p < g->PassCount; p++)
                    {
                        g->Compute<S, V>(g->Passes + p, image + i, group, tile, x + (i * stride), sums);
                    }
                }
            }

            item += count;
        }
    }

    /// <summary>
    /// Computes the weight gradients of some channels. dY is laid out in rows of the padded length, zeros in the
    /// surplus, so that one product runs over all rows.
    /// </summary>
    public static void Correlate<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        const int AtOnce = 9;
        var g = (Gather*)data;
        var pass = g->Passes;
        var rows = (int)g->TargetHeight;
        var length = (rows * g->PlaneSize.Columns) + S.Lanes;
        var packed = (int)g->Packed + length + S.Lanes;
        var chunks = (pass->TapCount + AtOnce - 1) / AtOnce;
        var x = Scratch.OfPart((long)packed + length + (chunks * AtOnce * S.Lanes));
        float* dY = x + packed,
            sums = dY + length;
        new Span<float>(x, packed + length).Clear();
        var offsets = stackalloc int[AtOnce];
        for (var channel = from; channel < to; channel++)
        {
            new Span<float>(sums, chunks * AtOnce * S.Lanes).Clear();
            for (var image = 0L; image < g->Batch; image++)
            {
                g->Pack(image, channel, x);
                Kernels.Planes.Copy(
                    g->Y + (((image * g->Groups) + channel) * rows * g->TargetWidth),
                    rows,
                    g->TargetWidth,
                    (0, 0),
                    (1, 1),
                    (rows, g->PlaneSize.Columns),
                    dY
                );
                for (var chunk = 0; chunk < chunks; chunk++)
                {
                    for (var t = 0; t < AtOnce; t++)
                    {
                        offsets[t] = g->Offsets[Math.Min((chunk * AtOnce) + t, pass->TapCount - 1)];
                    }

                    InnerLoops<S, V, No>.NineDots(
                        x,
                        offsets,
                        dY,
                        rows * g->PlaneSize.Columns,
                        sums + (chunk * AtOnce * S.Lanes)
                    );
                }
            }

            for (var t = 0; t < pass->TapCount; t++)
            {
                g->Weights[(channel * pass->TapCount) + t] = S.Sum(S.Load(sums + (t * S.Lanes)));
            }
        }
    }

    private readonly void Pack(long image, long group, float* target)
    {
        var plane = SourceHeight * SourceWidth;
        var source = X + (((image * Groups) + group) * Inputs * plane);
        for (var c = 0; c < Inputs; c++, source += plane)
        {
            for (var p = 0; p < PlaneCount; p++, target += PlaneSize.Rows * PlaneSize.Columns)
            {
                Kernels.Planes.Copy(
                    source,
                    SourceHeight,
                    SourceWidth,
                    (Planes[p].Row, Planes[p].Column),
                    PlaneStep,
                    PlaneSize,
                    target
                );
            }
        }
    }

    private readonly void Compute<S, V>(GatherPlan.Pass* pass, long image, long group, long tile, float* x, float* sums)
        where S : struct, ISimd<V>
        where V : struct
    {
        var channel = (group * Outputs) + (tile * Tile);
        var count = (int)Math.Min(Tile, Outputs - (tile * Tile));
        var taps = (nint)Inputs * pass->TapCount;
        var weights = PackedWeights + pass->FirstWeight + (((group * Tiles) + tile) * taps * Tile);
        var start = stackalloc float[8];
        for (var k = 0; k < 8; k++)
        {
            start[k] = Bias != null && k < count ? Bias[channel + k] : 0;
        }

        var plane = TargetHeight * TargetWidth;
        var y = Y + (((image * Groups * Outputs) + channel) * plane);
        var (isOdd, isDirect) = (
            OutputStep.Column == 2 && pass->Column == 1,
            (pass->IsWhole || pass->IsSplit) && OutputStep == (1, 1)
        );
        var own = sums + (isOdd ? 8L * Longest : 0);
        var target = isDirect ? y : own;
        var targetStride = isDirect ? (nint)plane : Longest;
        int* places = Places + pass->FirstPlace,
            offsets = Offsets + pass->FirstOffset;
        if (pass->IsSplit)
        {
            Vectors<S, V, Yes>(x, places, pass->Vectors, offsets, taps, weights, start, target, targetStride, count);
        }
        else
        {
            Vectors<S, V, No>(x, places, pass->Vectors, offsets, taps, weights, start, target, targetStride, count);
        }

        // Even and odd columns are written together, by the pass of the odd ones.
        if (isDirect || (OutputStep.Column == 2 && !isOdd && TargetWidth > 1))
        {
            return;
        }

        var evenLength = isOdd ? pass[-1].RowLength : 0;
        for (var k = 0; k < count; k++)
        {
            float* source = own + (k * (long)Longest),
                even = sums + (k * (long)Longest),
                to = y + (k * plane) + (pass->Row * TargetWidth);
            for (var r = 0; r < pass->Rows; r++)
            {
                if (isOdd)
                {
                    Kernels.Planes.Interleave(even, source, to, TargetWidth);
                }
                else if (OutputStep.Column == 1)
                {
                    new Span<float>(source, pass->Columns).CopyTo(new Span<float>(to, pass->Columns));
                }
                else
                {
                    for (var i = 0; i < pass->Columns; i++)
                    {
                        to[pass->Column + ((long)i * OutputStep.Column)] = source[i];
                    }
                }

                source += pass->RowLength;
                even += evenLength;
                to += OutputStep.Row * TargetWidth;
            }
        }
    }

    private readonly void Vectors<S, V, TSplit>(
        float* x,
        int* places,
        int vectors,
        int* offsets,
        nint taps,
        float* weights,
        float* start,
        float* y,
        nint stride,
        int outputs
    )
        where S : struct, ISimd<V>
        where V : struct
        where TSplit : struct, IChoice
    {
        nint distance = PlaneSize.Columns;
        var v = 0;
        if (Tile == 1)
        {
            for (; v + 4 <= vectors; v += 4)
            {
                InnerLoops<S, V, TSplit>.Four(
                    x,
                    places + v,
                    distance,
                    offsets,
                    taps,
                    weights,
                    start,
                    y + (v * S.Lanes)
                );
            }

            for (; v < vectors; v++)
            {
                InnerLoops<S, V, TSplit>.Alone(
                    x + places[v],
                    distance,
                    offsets,
                    taps,
                    weights,
                    start,
                    y + (v * S.Lanes)
                );
            }

            return;
        }

        if (Simd.HasManyRegisters)
        {
            for (; v + 3 <= vectors; v += 3)
            {
                InnerLoops<S, V, TSplit>.Three(
                    x + places[v],
                    x + places[v + 1],
                    x + places[v + 2],
                    distance,
                    offsets,
                    taps,
                    weights,
                    start,
                    y + (v * S.Lanes),
                    stride,
                    outputs
                );
            }
        }

        for (; v < vectors; v++)
        {
            InnerLoops<S, V, TSplit>.One(
                x + places[v],
                distance,
                offsets,
                taps,
                weights,
                start,
                y + (v * S.Lanes),
                stride,
                outputs
            );
        }
    }
}
