using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>A tensor [samples, channels, sizes...] whose channels are normalized, each by itself.</summary>
internal readonly record struct ChannelLayout(long Samples, long Channels, long Plane)
{
    public static ChannelLayout Of(ReadOnlySpan<long> dims) =>
        dims.Length >= 2
            ? new(dims[0], dims[1], KernelContext.Count(dims[2..]))
            : throw new InvalidOperationException("The tensor has no channels.");

    public long Count => checked(Samples * Channels * Plane);

    public int Parts => KernelContext.Parts(Channels, checked(Samples * Plane));
}

/// <summary>
/// Batch normalization in training mode, with a Relu where one follows. Inputs: X, scale, bias, and two that only the
/// function reads. Outputs: Y, and the batch's mean and variance.
/// </summary>
/// <remarks>The mean is subtracted first: see decision 0003.</remarks>
internal sealed unsafe class BatchNorm(KernelInfo info, bool hasRelu) : Kernel
{
    private readonly float _epsilon = info.Float("epsilon");

    // csharpier-ignore
    private readonly delegate*<void*, int, long, long, void> _run = Simd.Width switch
    {
        512 => &Run<Simd512, Vector512<float>>,
        256 => &Run<Simd256, Vector256<float>>,
        _ => &Run<Simd128, Vector128<float>>,
    };

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var layout = ChannelLayout.Of(dims);
        var work = new Work
        {
            Layout = layout,
            Epsilon = _epsilon,
            Floor = hasRelu ? 0 : float.NegativeInfinity,
            X = context.Input(0, layout.Count),
            Scale = context.Input(1, layout.Channels),
            Bias = context.Input(2, layout.Channels),
            Y = context.Output(0, dims),
            Mean = context.Output(1, [layout.Channels]),
            Variance = context.Output(2, [layout.Channels]),
        };
        context.ParallelFor(layout.Channels, layout.Parts, _run, ref work);
    }

    private static void Run<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        var work = (Work*)data;
        for (var channel = from; channel < to; channel++)
        {
            var (mean, variance) = Statistics<S, V>(work, channel);
            (work->Mean[channel], work->Variance[channel]) = ((float)mean, (float)variance);
            var factor = work->Scale[channel] / MathF.Sqrt((float)variance + work->Epsilon);
            for (var n = 0L; n < work->Layout.Samples; n++)
            {
                var offset = ((n * work->Layout.Channels) + channel) * work->Layout.Plane;
                Normalize<S, V>(work, offset, (float)mean, factor, work->Bias[channel]);
            }
        }
    }

    /// <summary>Gives mean and variance of a channel; planes are joined by Chan's update.</summary>
    private static (double Mean, double Variance) Statistics<S, V>(Work* work, long channel)
        where S : struct, ISimd<V>
        where V : struct
    {
        var (samples, channels, plane) = work->Layout;
        double mean = 0,
            squares = 0;
        for (var n = 0L; n < samples; n++)
        {
            var x = work->X + (((n * channels) + channel) * plane);
            var mine = PlaneSums<S, V>.Sum(x, plane) / plane;
            var delta = mine - mean;
            mean += delta / (n + 1);
            squares += PlaneSums<S, V>.SquaresAround(x, plane, mine) + (delta * delta * plane * n / (n + 1));
        }

        return (mean, squares / ((double)samples * plane));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Normalize<S, V>(Work* work, long offset, float mean, float factor, float bias)
        where S : struct, ISimd<V>
        where V : struct
    {
        float* x = work->X + offset,
            y = work->Y + offset;
        V minusMean = S.Splat(-mean),
            factors = S.Splat(factor),
            biases = S.Splat(bias),
            floor = S.Splat(work->Floor);
        var i = 0L;
        for (; i + S.Lanes <= work->Layout.Plane; i += S.Lanes)
        {
            var centered = S.Add(S.Load(x + i), minusMean);
            S.Store(S.Max(S.MultiplyAdd(centered, factors, biases), floor), y + i);
        }

        for (; i < work->Layout.Plane; i++)
        {
            y[i] = MathF.Max(((x[i] - mean) * factor) + bias, work->Floor);
        }
    }

    private struct Work
    {
        public ChannelLayout Layout;
        public float Epsilon,
            Floor;
        public float* X,
            Scale,
            Bias,
            Y,
            Mean,
            Variance;
    }
}

/// <summary>
/// The gradients of batch normalization. Inputs: dY, X, scale, mean, variance, and where a Relu follows its output.
/// Outputs: dX, dScale, dBias.
/// </summary>
/// <remarks>
/// With n = (X - mean) / deviation and means over samples and positions, dX = scale / deviation (dY - mean(dY) - n
/// mean(dY n)) in training mode, where mean and variance are the batch's, and scale / deviation dY otherwise.
/// </remarks>
internal sealed unsafe class BatchNormGrad(KernelInfo info, bool hasRelu) : Kernel
{
    private readonly float _epsilon = info.Float("epsilon");
    private readonly bool _isTraining = info.Flag("training_mode");

    // csharpier-ignore
    private readonly delegate*<void*, int, long, long, void> _run = (Simd.Width, hasRelu) switch
    {
        (512, true) => &Run<Simd512, Vector512<float>, Yes>,
        (256, true) => &Run<Simd256, Vector256<float>, Yes>,
        (_, true) => &Run<Simd128, Vector128<float>, Yes>,
        (512, _) => &Run<Simd512, Vector512<float>, No>,
        (256, _) => &Run<Simd256, Vector256<float>, No>,
        _ => &Run<Simd128, Vector128<float>, No>,
    };

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(1, stackalloc long[KernelContext.MaxRank]);
        var layout = ChannelLayout.Of(dims);
        var work = new Work
        {
            Layout = layout,
            Epsilon = _epsilon,
            IsTraining = _isTraining,
            DY = context.Input(0, layout.Count),
            X = context.Input(1, layout.Count),
            Scale = context.Input(2, layout.Channels),
            Mean = context.Input(3, layout.Channels),
            Variance = context.Input(4, layout.Channels),
            Y = hasRelu ? context.Input(5, layout.Count) : null,
            DX = context.Output(0, dims),
            DScale = context.Output(1, [layout.Channels]),
            DBias = context.Output(2, [layout.Channels]),
        };
        context.ParallelFor(layout.Channels, layout.Parts, _run, ref work);
    }

    private static void Run<S, V, TRelu>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
        where TRelu : struct, IChoice
    {
        var work = (Work*)data;
        var (samples, channels, plane) = work->Layout;
        for (var channel = from; channel < to; channel++)
        {
            var (mean, inverse) = (work->Mean[channel], 1 / MathF.Sqrt(work->Variance[channel] + work->Epsilon));
            double sum = 0,
                product = 0;
            for (var n = 0L; n < samples; n++)
            {
                Sums<S, V, TRelu>(work, ((n * channels) + channel) * plane, mean, ref sum, ref product);
            }

            product *= inverse;
            (work->DBias[channel], work->DScale[channel]) = ((float)sum, (float)product);
            var factor = work->Scale[channel] * inverse;
            var count = work->IsTraining ? (double)samples * plane : double.PositiveInfinity;
            var (shift, slope) = ((float)(-factor * sum / count), (float)(-factor * inverse * product / count));
            for (var n = 0L; n < samples; n++)
            {
                Spread<S, V, TRelu>(work, ((n * channels) + channel) * plane, mean, factor, slope, shift);
            }
        }
    }

    /// <summary>Adds up dY, and dY (X - mean), of a plane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Sums<S, V, TRelu>(Work* work, long offset, float mean, ref double sum, ref double product)
        where S : struct, ISimd<V>
        where V : struct
        where TRelu : struct, IChoice
    {
        float* dY = work->DY + offset,
            x = work->X + offset,
            y = work->Y + offset;
        V minusMean = S.Splat(-mean),
            evenSum = default,
            oddSum = default,
            evenProduct = default,
            oddProduct = default;
        var (plane, i) = (work->Layout.Plane, 0L);
        for (; i + (2 * S.Lanes) <= plane; i += 2 * S.Lanes)
        {
            V even = S.Load(dY + i),
                odd = S.Load(dY + i + S.Lanes);
            if (TRelu.Value)
            {
                even = S.IfPositive(S.Load(y + i), even);
                odd = S.IfPositive(S.Load(y + i + S.Lanes), odd);
            }

            evenSum = S.Add(evenSum, even);
            oddSum = S.Add(oddSum, odd);
            evenProduct = S.MultiplyAdd(even, S.Add(S.Load(x + i), minusMean), evenProduct);
            oddProduct = S.MultiplyAdd(odd, S.Add(S.Load(x + i + S.Lanes), minusMean), oddProduct);
        }

        float restSum = 0,
            restProduct = 0;
        for (; i < plane; i++)
        {
            var d = TRelu.Value && !(y[i] > 0) ? 0 : dY[i];
            restSum += d;
            restProduct += d * (x[i] - mean);
        }

        sum += S.Sum(S.Add(evenSum, oddSum)) + restSum;
        product += S.Sum(S.Add(evenProduct, oddProduct)) + restProduct;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Spread<S, V, TRelu>(Work* work, long offset, float mean, float factor, float slope, float shift)
        where S : struct, ISimd<V>
        where V : struct
        where TRelu : struct, IChoice
    {
        float* dY = work->DY + offset,
            x = work->X + offset,
            y = work->Y + offset,
            dX = work->DX + offset;
        V minusMean = S.Splat(-mean),
            factors = S.Splat(factor),
            slopes = S.Splat(slope),
            shifts = S.Splat(shift);
        var (plane, i) = (work->Layout.Plane, 0L);
        for (; i + S.Lanes <= plane; i += S.Lanes)
        {
            var d = S.Load(dY + i);
            d = TRelu.Value ? S.IfPositive(S.Load(y + i), d) : d;
            var rest = S.MultiplyAdd(S.Add(S.Load(x + i), minusMean), slopes, shifts);
            S.Store(S.MultiplyAdd(d, factors, rest), dX + i);
        }

        for (; i < plane; i++)
        {
            var d = TRelu.Value && !(y[i] > 0) ? 0 : dY[i];
            dX[i] = (d * factor) + (((x[i] - mean) * slope) + shift);
        }
    }

    private struct Work
    {
        public ChannelLayout Layout;
        public float Epsilon;
        public bool IsTraining;
        public float* DY,
            X,
            Scale,
            Mean,
            Variance,
            Y,
            DX,
            DScale,
            DBias;
    }
}

/// <summary>Sums over a plane.</summary>
internal static unsafe class PlaneSums<S, V>
    where S : struct, ISimd<V>
    where V : struct
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static double Sum(float* x, long count)
    {
        V even = default,
            odd = default;
        var i = 0L;
        for (; i + (2 * S.Lanes) <= count; i += 2 * S.Lanes)
        {
            even = S.Add(even, S.Load(x + i));
            odd = S.Add(odd, S.Load(x + i + S.Lanes));
        }

        var rest = 0f;
        for (; i < count; i++)
        {
            rest += x[i];
        }

        return (double)S.Sum(S.Add(even, odd)) + rest;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static double SquaresAround(float* x, long count, double center)
    {
        V minusCenter = S.Splat((float)-center),
            even = default,
            odd = default;
        var i = 0L;
        for (; i + (2 * S.Lanes) <= count; i += 2 * S.Lanes)
        {
            V a = S.Add(S.Load(x + i), minusCenter),
                b = S.Add(S.Load(x + i + S.Lanes), minusCenter);
            even = S.MultiplyAdd(a, a, even);
            odd = S.MultiplyAdd(b, b, odd);
        }

        var rest = 0f;
        for (; i < count; i++)
        {
            var a = x[i] - (float)center;
            rest += a * a;
        }

        return (double)S.Sum(S.Add(even, odd)) + rest;
    }
}
