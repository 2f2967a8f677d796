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

    /// <summary>Gets the geometry, for other sums over the same copies of planes.</summary>
    public Gather Geometry => _gather;

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
