using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// How the weight gradient of a convolution with three columns at stride 1 is a sum of outer products for each of six
/// transformed columns: dw = G' sum((A dy) * (B' x)), with the matrices of <see cref="WinogradPlan"/>.
/// </summary>
/// <remarks>
/// Both tensors are transformed with their channels last, a band of rows of an image at a time. Parts sum different
/// images, or different filters where the sums are large, as in <see cref="CorrelationPlan"/>.
/// </remarks>
internal sealed unsafe class WinogradWeightPlan : WeightGradientPlan
{
    private const long FloatsOfCache = 65536,
        MostSums = 1 << 19;

    private readonly int[] _offsets;
    private readonly WinogradWeights _work;

    private WinogradWeightPlan(ConvShape shape)
    {
        checked
        {
            var lanes = Simd.Width / 32;
            var (row, column) = (shape.Row, shape.Column);
            var columns = (int)((column.Outputs + 3) / 4);
            var padded = (shape.Channels + lanes - 1) / lanes * lanes;
            var tiles = (shape.Filters + 7) / 8;
            var halo = (int)((row.Kernel - 1) * row.Dilation);
            var band = (int)
                Math.Clamp((FloatsOfCache / (6 * padded * columns)) - halo, Math.Min(4, row.Outputs), row.Outputs);
            _offsets = Pinned.Array(Enumerable.Range(0, band * columns).Select(t => t * padded));
            var units = shape.Groups * tiles;
            var sums = units * 6 * row.Kernel * 8 * padded;
            var imageParts = (int)Math.Clamp(MostSums / sums, 1, Math.Clamp(shape.Batch, 1, 8));
            _work = new WinogradWeights
            {
                Shape = shape,
                Columns = columns,
                Band = band,
                Halo = halo,
                Padded = padded,
                Tiles = tiles,
                Sums = sums,
                ImageParts = imageParts,
                UnitParts = Math.Min(8 / imageParts, units),
                Offsets = Pinned.Address(_offsets),
                Body = Simd.Width switch
                {
                    512 => &WinogradWeights.Run<Simd512, Vector512<float>, Simd256, Vector256<float>>,
                    256 => &WinogradWeights.Run<Simd256, Vector256<float>, Simd256, Vector256<float>>,
                    _ => &WinogradWeights.Run<Simd128, Vector128<float>, Simd128, Vector128<float>>,
                },
            };
        }
    }

    /// <summary>Gives a plan, or null where another way is better.</summary>
    public static new WinogradWeightPlan? Of(ConvShape shape)
    {
        if (
            shape.Column is not { Kernel: 3, Stride: 1, Dilation: 1 }
            || shape.Row.Stride != 1
            || shape.Filters < 8
            || shape.Row.Outputs * shape.Column.Outputs == 0
        )
        {
            return null;
        }

        var lanes = Simd.Width / 32;
        var (columns, padded) = ((shape.Column.Outputs + 3) / 4, (shape.Channels + lanes - 1) / lanes * lanes);
        var halo = (shape.Row.Kernel - 1) * shape.Row.Dilation;
        return
            4 * columns * padded * 2 < shape.Column.Outputs * shape.Channels * 3
            && 6.0 * (shape.Row.Outputs + halo) * columns * padded < (1 << 22)
            ? new(shape)
            : null;
    }

    /// <inheritdoc/>
    public override void Run(KernelContext context, float* x, float* dY, float* dW)
    {
        var work = _work;
        var parts = work.ImageParts * work.UnitParts;
        work.X = x;
        work.DY = dY;
        work.DW = dW;
        work.Partial = Scratch.OfCall(work.Sums * work.ImageParts);
        context.ParallelFor(parts, parts, work.Body, ref work);
        var filters = (long)work.Shape.Groups * work.Shape.Filters;
        context.ParallelFor(
            filters,
            KernelContext.Parts(filters, work.Sums / filters * work.ImageParts),
            &WinogradWeights.Total,
            ref work
        );
    }
}

/// <summary>One call of a <see cref="WinogradWeightPlan"/>.</summary>
internal unsafe struct WinogradWeights
{
    public ConvShape Shape;
    public int Columns,
        Band,
        Halo,
        Padded,
        Tiles,
        ImageParts,
        UnitParts;
    public long Sums;
    public int* Offsets;

    // csharpier-ignore
    public delegate*<void*, int, long, long, void> Body;
    public float* X,
        DY,
        DW,
        Partial;

    private readonly long SumsOfUnit => 6 * Shape.Row.Kernel * 8 * Padded;

    /// <summary>Sums some images' products for some units, that is, groups' tiles of eight filters.</summary>
    public static void Run<S, V, SHalf, VHalf>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
        where SHalf : struct, ISimd<VHalf>
        where VHalf : struct
    {
        var w = (WinogradWeights*)data;
        ref readonly var shape = ref w->Shape;
        var (row, column) = (shape.Row, shape.Column);
        var (imagePart, unitPart) = Math.DivRem(part, w->UnitParts);
        var units = (long)shape.Groups * w->Tiles;
        var (firstUnit, endUnit) = (units * unitPart / w->UnitParts, units * (unitPart + 1) / w->UnitParts);
        var partial = w->Partial + (imagePart * w->Sums);
        Clear(partial + (firstUnit * w->SumsOfUnit), (endUnit - firstUnit) * w->SumsOfUnit);
        var width = (4L * w->Columns) + 2;
        var (rows, tiles) = (w->Band + w->Halo, (long)w->Band * w->Columns);
        // Planes with their channels last, and what becomes of them.
        var x = Scratch.OfPart(
            (rows * width * w->Padded) + (32 * tiles) + (6 * ((rows * w->Columns * w->Padded) + 16)) + (6 * 8 * tiles)
        );
        var dY = x + (rows * width * w->Padded);
        var v = dY + (32 * tiles);
        var step = ((nint)rows * w->Columns * w->Padded) + 16;
        var z = v + (6 * step);
        Clear(x, (rows * width * w->Padded) + (32 * tiles));
        long end = (long)shape.Batch * (imagePart + 1) / w->ImageParts;
        for (var image = (long)shape.Batch * imagePart / w->ImageParts; image < end; image++)
        {
            for (var top = 0L; top < row.Outputs; top += w->Band)
            {
                var count = Math.Min(w->Band, row.Outputs - top);
                var group = -1L;
                for (var unit = firstUnit; unit < endUnit; unit++)
                {
                    if (unit / w->Tiles != group)
                    {
                        group = unit / w->Tiles;
                        Planes.ChannelsLast(
                            w->X + (((image * shape.Groups) + group) * shape.Channels * shape.XPlane),
                            shape.Channels,
                            row.Size,
                            column.Size,
                            (top - row.Begin, -column.Begin),
                            (count + w->Halo, width),
                            x,
                            w->Padded
                        );
                        Inputs<S, V>(x, count + w->Halo, w->Columns, w->Padded, v, step);
                    }

                    var filter = unit % w->Tiles * 8;
                    var source =
                        w->DY
                        + ((((image * shape.Groups) + group) * shape.Filters) + filter) * shape.YPlane
                        + (top * column.Outputs);
                    for (var r = 0L; r < count; r++)
                    {
                        // Behind the last column zeros stay.
                        Planes.Transpose(
                            source + (r * column.Outputs),
                            shape.YPlane,
                            Math.Min(8, shape.Filters - filter),
                            dY + (r * 32 * w->Columns),
                            8,
                            column.Outputs
                        );
                    }

                    Gradients<SHalf, VHalf>(dY, count * w->Columns, z, (nint)(8 * tiles));
                    w->Add<S, V>(
                        v,
                        step,
                        z,
                        (nint)(8 * tiles),
                        (nint)count * w->Columns,
                        partial + (unit * w->SumsOfUnit)
                    );
                }
            }
        }
    }

    /// <summary>Adds up the parts, transforms the sums, and gives the layout of the weights, to some filters.</summary>
    public static void Total(void* data, int part, long from, long to)
    {
        var w = (WinogradWeights*)data;
        ref readonly var shape = ref w->Shape;
        var kernel = shape.Row.Kernel;
        for (var m = from; m < to; m++)
        {
            var (group, filter) = Math.DivRem(m, shape.Filters);
            var sums = w->Partial + (((group * w->Tiles) + (filter / 8)) * w->SumsOfUnit) + (filter % 8 * w->Padded);
            var dW = w->DW + (m * shape.Channels * shape.Taps);
            var step = (nint)kernel * 8 * w->Padded;
            for (var u = 0; u < kernel; u++, sums += 8 * w->Padded)
            {
                for (var position = 0; position < 6; position++)
                {
                    for (var other = 1; other < w->ImageParts; other++)
                    {
                        VectorMath.Add(
                            sums + (position * step) + (other * w->Sums),
                            sums + (position * step),
                            shape.Channels
                        );
                    }
                }

                WinogradTransforms.Gradients(sums, step, shape.Channels, dW + (3 * u), shape.Taps);
            }
        }
    }

    private static void Clear(float* p, long count)
    {
        for (; count > 0; p += 1 << 20, count -= 1 << 20)
        {
            new Span<float>(p, (int)Math.Min(count, 1 << 20)).Clear();
        }
    }

    /// <summary>Gives B' x of rows of tiles.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Inputs<S, V>(float* x, long rows, int columns, nint padded, float* v, nint step)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (var row = 0L; row < rows; row++, x += 2 * padded)
        {
            for (var tile = 0; tile < columns; tile++, x += 4 * padded)
            {
                for (nint i = 0; i < padded; i += S.Lanes, v += S.Lanes)
                {
                    var from = x + i;
                    WinogradTransforms.Combine<S, V>(
                        S.Load(from),
                        S.Load(from + padded),
                        S.Load(from + (2 * padded)),
                        S.Load(from + (3 * padded)),
                        S.Load(from + (4 * padded)),
                        S.Load(from + (5 * padded)),
                        v,
                        step
                    );
                }
            }
        }
    }

    /// <summary>Gives A dy of tiles.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Gradients<S, V>(float* dY, long tiles, float* z, nint step)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (var tile = 0L; tile < tiles; tile++, dY += 32, z += 8)
        {
            for (var i = 0; i < 8; i += S.Lanes)
            {
                WinogradTransforms.Spread<S, V>(
                    S.Load(dY + i),
                    S.Load(dY + 8 + i),
                    S.Load(dY + 16 + i),
                    S.Load(dY + 24 + i),
                    z + i,
                    step
                );
            }
        }
    }

    private readonly void Add<S, V>(float* v, nint step, float* z, nint zStep, nint tiles, float* sums)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (var position = 0; position < 6; position++, v += step, z += zStep)
        {
            for (var u = 0; u < Shape.Row.Kernel; u++, sums += 8 * Padded)
            {
                var x = v + (u * Shape.Row.Dilation * Columns * Padded);
                InnerLoops<S, V, No>.AddRows(x, Offsets, tiles, z, sums, Padded);
            }
        }
    }
}
