using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// How the weight gradient of a convolution is a sum over positions, each an outer product of a stretch of X and the
/// gradients dY of the position's filters.
/// </summary>
/// <remarks>
/// X is copied with its channels last and padded, a block of output rows at a time: there a row of a kernel is one
/// contiguous stretch. (Dilated rows are not: their taps are taken one by one.) Parts sum different images, or
/// different filters where the sums are large; each image's part is fixed, so that the result does not depend on
/// threads.
/// </remarks>
internal sealed unsafe class CorrelationPlan : WeightGradientPlan
{
    private const long FloatsOfCache = 65536,
        PositionsAtOnce = 512,
        MostSums = 1 << 19;

    private readonly int[] _offsets;
    private Correlation _correlation;

    public CorrelationPlan(ConvShape shape)
    {
        checked
        {
            var lanes = Simd.Width / 32;
            var (row, column) = (shape.Row, shape.Column);
            var isRowwise = column.Dilation == 1;
            var length = (int)(isRowwise ? column.Kernel * shape.Channels : shape.Channels);
            var width = ((column.Outputs - 1) * column.Stride) + ((column.Kernel - 1) * column.Dilation) + 1;
            var block = (int)
                Math.Clamp(
                    Math.Min(FloatsOfCache / (row.Stride * width * shape.Channels), PositionsAtOnce / column.Outputs),
                    1,
                    row.Outputs
                );
            var image = ((((block - 1) * row.Stride) + ((row.Kernel - 1) * row.Dilation) + 1) * width * shape.Channels);
            var positions = block * column.Outputs;
            var atOnce =
                block < row.Outputs
                    ? 1
                    : (int)Math.Clamp(Math.Min(FloatsOfCache / image, PositionsAtOnce / positions), 1, shape.Batch);
            _offsets = Pinned.Array(
                from n in Enumerable.Range(0, atOnce)
                from i in Enumerable.Range(0, (int)positions)
                select (int)(
                    (n * image)
                    + (
                        ((i / column.Outputs * row.Stride * width) + (i % column.Outputs * column.Stride))
                        * shape.Channels
                    )
                )
            );
            var tiles = (shape.Filters + 7) / 8;
            var rows = (int)(isRowwise ? row.Kernel : row.Kernel * column.Kernel);
            var padded = (length + lanes - 1) / lanes * lanes;
            var units = shape.Groups * tiles;
            var sums = (long)units * rows * 8 * padded;
            var imageParts = (int)Math.Clamp(MostSums / sums, 1, Math.Clamp(shape.Batch, 1, 8));
            _correlation = new Correlation
            {
                Shape = shape,
                IsRowwise = isRowwise,
                Rows = rows,
                Length = length,
                Padded = padded,
                Width = width,
                Block = block,
                Tiles = tiles,
                Sums = sums,
                ImageParts = imageParts,
                UnitParts = Math.Min(8 / imageParts, units),
                AtOnce = atOnce,
                Image = image,
                XBlock = (atOnce * image) + (4 * lanes),
                Offsets = Pinned.Address(_offsets),
                Body = Simd.Width switch
                {
                    512 => &Correlation.Run<Simd512, Vector512<float>>,
                    256 => &Correlation.Run<Simd256, Vector256<float>>,
                    _ => &Correlation.Run<Simd128, Vector128<float>>,
                },
            };
        }
    }

    /// <inheritdoc/>
    public override void Run(KernelContext context, float* x, float* dY, float* dW)
    {
        var correlation = _correlation;
        var parts = correlation.ImageParts * correlation.UnitParts;
        correlation.X = x;
        correlation.DY = dY;
        correlation.DW = dW;
        correlation.Partial = Scratch.OfCall(correlation.Sums * correlation.ImageParts);
        context.ParallelFor(parts, parts, correlation.Body, ref correlation);
        var filters = (long)correlation.Shape.Groups * correlation.Shape.Filters;
        context.ParallelFor(
            filters,
            KernelContext.Parts(filters, correlation.Sums / filters * correlation.ImageParts),
            &Correlation.Total,
            ref correlation
        );
    }
}

/// <summary>One call of a <see cref="CorrelationPlan"/>.</summary>
internal unsafe struct Correlation
{
    public ConvShape Shape;
    public bool IsRowwise;
    public int Rows,
        Length,
        Padded,
        Block,
        AtOnce,
        Tiles,
        ImageParts,
        UnitParts;
    public long Width,
        Image,
        Sums,
        XBlock;
    public int* Offsets;

    // csharpier-ignore
    public delegate*<void*, int, long, long, void> Body;
    public float* X,
        DY,
        DW,
        Partial;

    /// <summary>Sums some images' products for some units, that is, groups' tiles of eight filters.</summary>
    public static void Run<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        var c = (Correlation*)data;
        ref readonly var shape = ref c->Shape;
        var (row, column) = (shape.Row, shape.Column);
        var (imagePart, unitPart) = Math.DivRem(part, c->UnitParts);
        var units = (long)shape.Groups * c->Tiles;
        var (firstUnit, endUnit) = (units * unitPart / c->UnitParts, units * (unitPart + 1) / c->UnitParts);
        var sumsOfUnit = (long)c->Rows * 8 * c->Padded;
        var partial = c->Partial + (imagePart * c->Sums);
        for (var unit = firstUnit; unit < endUnit; unit++)
        {
            new Span<float>(partial + (unit * sumsOfUnit), (int)sumsOfUnit).Clear();
        }

        var dYFloats = 8L * c->AtOnce * c->Block * column.Outputs;
        var x = Scratch.OfPart(c->XBlock + dYFloats);
        var dY = x + c->XBlock;
        new Span<float>(dY, checked((int)dYFloats)).Clear();
        long end = (long)shape.Batch * (imagePart + 1) / c->ImageParts;
        var images = 1L;
        for (var image = (long)shape.Batch * imagePart / c->ImageParts; image < end; image += images)
        {
            images = Math.Min(c->AtOnce, end - image);
            for (var top = 0L; top < row.Outputs; top += c->Block)
            {
                var rows = Math.Min(c->Block, row.Outputs - top);
                var group = -1L;
                for (var unit = firstUnit; unit < endUnit; unit++)
                {
                    if (unit / c->Tiles != group)
                    {
                        group = unit / c->Tiles;
                        for (var n = 0L; n < images; n++)
                        {
                            Planes.ChannelsLast(
                                c->X + ((((image + n) * shape.Groups) + group) * shape.Channels * shape.XPlane),
                                shape.Channels,
                                row.Size,
                                column.Size,
                                ((top * row.Stride) - row.Begin, -column.Begin),
                                (((rows - 1) * row.Stride) + ((row.Kernel - 1) * row.Dilation) + 1, c->Width),
                                x + (n * c->Image),
                                shape.Channels
                            );
                        }
                    }

                    var filter = unit % c->Tiles * 8;
                    var positions = rows * column.Outputs;
                    for (var n = 0L; n < images; n++)
                    {
                        Planes.Transpose(
                            c->DY
                                + (((((image + n) * shape.Groups) + group) * shape.Filters) + filter) * shape.YPlane
                                + (top * column.Outputs),
                            shape.YPlane,
                            Math.Min(8, shape.Filters - filter),
                            dY + (8 * n * positions),
                            8,
                            positions
                        );
                    }

                    c->Add<S, V>(x, dY, (nint)(images * positions), partial + (unit * sumsOfUnit));
                }
            }
        }
    }

    /// <summary>Adds up the parts, and gives the layout of the weights, to some filters.</summary>
    public static void Total(void* data, int part, long from, long to)
    {
        var c = (Correlation*)data;
        ref readonly var shape = ref c->Shape;
        var (channels, kernel) = (shape.Channels, shape.Column.Kernel);
        for (var m = from; m < to; m++)
        {
            var (group, filter) = Math.DivRem(m, shape.Filters);
            var dW = c->DW + (m * channels * shape.Taps);
            for (var r = 0; r < c->Rows; r++)
            {
                var sums =
                    c->Partial
                    + ((((((group * c->Tiles) + (filter / 8)) * c->Rows) + r) * 8) + (filter % 8)) * c->Padded;
                for (var other = 1; other < c->ImageParts; other++)
                {
                    VectorMath.Add(sums + (other * c->Sums), sums, c->Length);
                }

                Planes.Transpose(
                    sums,
                    channels,
                    c->Length / channels,
                    dW + (c->IsRowwise ? r * kernel : r),
                    shape.Taps,
                    channels
                );
            }
        }
    }

    private readonly void Add<S, V>(float* x, float* dY, nint positions, float* sums)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (var r = 0; r < Rows; r++, sums += 8 * Padded)
        {
            var (u, v) = IsRowwise ? (r, 0) : Math.DivRem(r, Shape.Column.Kernel);
            var stretch = x + (((u * Shape.Row.Dilation * Width) + (v * Shape.Column.Dilation)) * Shape.Channels);
            InnerLoops<S, V, No>.AddRows(stretch, Offsets, positions, dY, sums, Padded);
        }
    }
}
