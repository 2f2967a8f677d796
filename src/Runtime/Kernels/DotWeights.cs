using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// How the weight gradient of a convolution of one channel, or of each by itself, is a product of dY and X for each
/// weight: X as the weight's tap reads it, in copies of planes as <see cref="GatherPlan"/> makes them.
/// </summary>
/// <remarks>
/// dY is laid out in rows of the padded length, zeros in the surplus, so that one product runs over all rows. Parts
/// compute different filters.
/// </remarks>
internal sealed unsafe class DotWeightPlan : WeightGradientPlan
{
    private readonly GatherPlan _geometry;
    private readonly int[] _offsets;
    private readonly DotWeights _work;

    private DotWeightPlan(ConvShape shape)
    {
        _geometry = GatherPlan.Forward(shape);
        var geometry = _geometry.Geometry;
        var taps = geometry.Passes->TapCount;
        var padded = Padded(taps);
        _offsets = Pinned.Array(
            from c in Enumerable.Range(0, shape.Channels)
            from t in Enumerable.Range(0, padded)
            select geometry.Offsets[(c * taps) + Math.Min(t, taps - 1)]
        );
        _work = new DotWeights
        {
            Geometry = geometry,
            Channels = shape.Channels,
            Filters = shape.Filters,
            Taps = taps,
            Padded = padded,
            Offsets = Pinned.Address(_offsets),
            Body = Simd.Width switch
            {
                512 => &DotWeights.Run<Simd512, Vector512<float>>,
                256 => &DotWeights.Run<Simd256, Vector256<float>>,
                _ => &DotWeights.Run<Simd128, Vector128<float>>,
            },
        };
    }

    /// <summary>Gives a plan, or null where another way is better.</summary>
    public static new DotWeightPlan? Of(ConvShape shape)
    {
        // Vectors along channels do better from two channels on, and along a row of the kernel that fills them.
        return
            shape.Channels == 1
            && (shape.Filters == 1 || (shape.Taps > 1 && shape.Column.Kernel * 2 <= Simd.Width / 32))
            ? new(shape)
            : null;
    }

    /// <inheritdoc/>
    public override void Run(KernelContext context, float* x, float* dY, float* dW)
    {
        var work = _work;
        work.Geometry.X = x;
        work.DY = dY;
        work.DW = dW;
        var filters = (long)work.Geometry.Groups * work.Filters;
        var parts = (int)Math.Clamp(work.Geometry.Work / 500_000, 1, Math.Min(filters, 16));
        context.ParallelFor(filters, parts, work.Body, ref work);
    }

    private static int Padded(int taps) => (taps + DotWeights.AtOnce - 1) / DotWeights.AtOnce * DotWeights.AtOnce;
}

/// <summary>One call of a <see cref="DotWeightPlan"/>.</summary>
internal unsafe struct DotWeights
{
    /// <summary>Products that the inner loop computes.</summary>
    public const int AtOnce = 9;

    public Gather Geometry;
    public int Channels,
        Filters,
        Taps,
        Padded;
    public int* Offsets;

    // csharpier-ignore
    public delegate*<void*, int, long, long, void> Body;
    public float* DY,
        DW;

    /// <summary>Computes the weight gradients of some filters.</summary>
    public static void Run<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        var w = (DotWeights*)data;
        ref readonly var g = ref w->Geometry;
        var length = (nint)(g.TargetHeight * g.PlaneSize.Columns);
        var plane = g.TargetHeight * g.TargetWidth;
        long packed = g.Packed + length + (2 * S.Lanes),
            sumsOfFilter = (long)w->Channels * w->Padded * S.Lanes;
        var x = Scratch.OfPart(checked(packed + length + S.Lanes + ((to - from) * sumsOfFilter)));
        float* dY = x + packed,
            sums = dY + length + S.Lanes;
        new Span<float>(x, checked((int)(packed + length + S.Lanes))).Clear();
        new Span<float>(sums, checked((int)((to - from) * sumsOfFilter))).Clear();
        for (var image = 0L; image < g.Batch; image++)
        {
            var group = -1L;
            for (var filter = from; filter < to; filter++)
            {
                if (filter / w->Filters != group)
                {
                    group = filter / w->Filters;
                    g.Pack(image, group, x);
                }

                Planes.Copy(
                    w->DY + (((image * g.Groups * w->Filters) + filter) * plane),
                    g.TargetHeight,
                    g.TargetWidth,
                    (0, 0),
                    (1, 1),
                    (g.TargetHeight, g.PlaneSize.Columns),
                    dY
                );
                var sum = sums + ((filter - from) * sumsOfFilter);
                for (var t = 0; t < w->Channels * w->Padded; t += AtOnce, sum += AtOnce * S.Lanes)
                {
                    InnerLoops<S, V, No>.NineDots(x, w->Offsets + t, dY, length, sum);
                }
            }
        }

        for (var filter = from; filter < to; filter++)
        {
            for (var c = 0; c < w->Channels; c++)
            {
                var sum = sums + ((filter - from) * sumsOfFilter) + ((long)c * w->Padded * S.Lanes);
                for (var t = 0; t < w->Taps; t++)
                {
                    w->DW[(((filter * w->Channels) + c) * w->Taps) + t] = S.Sum(S.Load(sum + (t * S.Lanes)));
                }
            }
        }
    }
}
