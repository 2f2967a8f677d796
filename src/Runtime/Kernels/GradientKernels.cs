using System.Numerics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>The sum of squares of all elements, a scalar.</summary>
internal sealed unsafe class SquaredNorm : Kernel
{
    public override void Compute(KernelContext context)
    {
        var count = KernelContext.Count(context.Dims(0, stackalloc long[KernelContext.MaxRank]));
        var parts = KernelContext.Parts(count);
        var sums = stackalloc float[parts];
        var work = new Work { X = context.Input(0, count), Sums = sums };
        context.ParallelFor(count, parts, &Run, ref work);
        var total = 0.0;
        for (var i = 0; i < parts; i++)
        {
            total += sums[i];
        }

        *context.Output(0, []) = (float)total;
    }

    private static void Run(void* data, int part, long from, long to)
    {
        var work = (Work*)data;
        work->Sums[part] = VectorMath.Dot(work->X + from, work->X + from, to - from);
    }

    private struct Work
    {
        public float* X,
            Sums;
    }
}

/// <summary>The gradient of Relu. Inputs: dY, Y. Output: dY where Y is positive, 0 elsewhere.</summary>
internal sealed unsafe class ReluGrad : Kernel
{
    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var count = KernelContext.Count(dims);
        var work = new Work
        {
            DY = context.Input(0, count),
            Y = context.Input(1, count),
            DX = context.Output(0, dims),
        };
        context.ParallelFor(count, KernelContext.Parts(count), &Run, ref work);
    }

    private static void Run(void* data, int part, long i, long end)
    {
        var work = (Work*)data;
        for (; i <= end - Vector<float>.Count; i += Vector<float>.Count)
        {
            var isPositive = Vector.GreaterThan(Vector.Load(work->Y + i), Vector<float>.Zero);
            Vector.Store(
                Vector.ConditionalSelect(isPositive, Vector.Load(work->DY + i), Vector<float>.Zero),
                work->DX + i
            );
        }

        for (; i < end; i++)
        {
            work->DX[i] = work->Y[i] > 0 ? work->DY[i] : 0;
        }
    }

    private struct Work
    {
        public float* DY,
            Y,
            DX;
    }
}

/// <summary>
/// The gradient of Gelu. Inputs: dY, X, Y. Output: dY (Y / X + X exp(-X^2 / 2) / sqrt(2 pi)), for Y / X is the normal
/// distribution function.
/// </summary>
internal sealed unsafe class GeluGrad : Kernel
{
    private const float OneOverRootTwoPi = 0.3989423f;

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var count = KernelContext.Count(dims);
        var work = new Work
        {
            DY = context.Input(0, count),
            X = context.Input(1, count),
            Y = context.Input(2, count),
            DX = context.Output(0, dims),
        };
        context.ParallelFor(count, KernelContext.Parts(count), &Run, ref work);
    }

    private static void Run(void* data, int part, long i, long end)
    {
        var work = (Work*)data;
        Vector<float> half = new(0.5f),
            minusHalf = new(-0.5f),
            density = new(OneOverRootTwoPi);
        for (; i <= end - Vector<float>.Count; i += Vector<float>.Count)
        {
            var x = Vector.Load(work->X + i);
            var distribution = Vector.ConditionalSelect(
                Vector.Equals(x, Vector<float>.Zero),
                half,
                Vector.Load(work->Y + i) / x
            );
            Vector.Store(
                Vector.Load(work->DY + i) * (distribution + (x * density * Vector.Exp(minusHalf * x * x))),
                work->DX + i
            );
        }

        for (; i < end; i++)
        {
            var x = work->X[i];
            work->DX[i] =
                work->DY[i] * ((x == 0 ? 0.5f : work->Y[i] / x) + (x * OneOverRootTwoPi * MathF.Exp(-0.5f * x * x)));
        }
    }

    private struct Work
    {
        public float* DY,
            X,
            Y,
            DX;
    }
}
