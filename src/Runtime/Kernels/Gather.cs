namespace MacOnnx.Runtime.Kernels;

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
    public delegate*<void*, int, long, long, void> Body;
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

    /// <summary>Copies the planes of an image's group.</summary>
    public readonly void Pack(long image, long group, float* target)
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
