using System.Numerics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>Buffers that the parts of a kernel's work sum columns into, each its own, and then into one.</summary>
internal sealed unsafe class PartialSums
{
    private float[] _buffer = [];

    /// <summary>Gives zeros for so many parts of so many columns; valid until the next call.</summary>
    public float* Rent(int parts, long columns)
    {
        var size = checked((int)(parts * columns));
        if (_buffer.Length < size)
        {
            _buffer = GC.AllocateUninitializedArray<float>(size, pinned: true);
        }

        _buffer.AsSpan(0, size).Clear();
        return (float*)System.Runtime.CompilerServices.Unsafe.AsPointer(ref _buffer[0]);
    }

    /// <summary>Adds up the parts of some columns.</summary>
    public static void Total(float* sums, int parts, long stride, long columns, float* result)
    {
        new Span<float>(sums, checked((int)columns)).CopyTo(new Span<float>(result, (int)columns));
        for (var part = 1; part < parts; part++)
        {
            VectorMath.Add(sums + (part * stride), result, columns);
        }
    }
}

/// <summary>The sum over the first axes. Input: X. Output: a tensor of the other axes.</summary>
internal sealed unsafe class SumLeading(KernelInfo info) : Kernel
{
    private readonly int _axes = info.Int("axes");
    private readonly PartialSums _sums = new();

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var (rows, columns) = (KernelContext.Count(dims[.._axes]), KernelContext.Count(dims[_axes..]));
        var parts = KernelContext.Parts(rows, columns);
        var work = new Work
        {
            X = context.Input(0, rows * columns),
            Columns = columns,
            Sums = _sums.Rent(parts, columns),
        };
        context.ParallelFor(rows, parts, &Run, ref work);
        PartialSums.Total(work.Sums, parts, columns, columns, context.Output(0, dims[_axes..]));
    }

    private static void Run(void* data, int part, long from, long to)
    {
        var work = (Work*)data;
        for (var row = from; row < to; row++)
        {
            VectorMath.Add(work->X + (row * work->Columns), work->Sums + (part * work->Columns), work->Columns);
        }
    }

    private struct Work
    {
        public float* X,
            Sums;
        public long Columns;
    }
}

/// <summary>The gradient of Softmax over the last axis. Inputs: dY, Y. Output: Y (dY - sum of dY Y).</summary>
internal sealed unsafe class SoftmaxGrad : Kernel
{
    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(1, stackalloc long[KernelContext.MaxRank]);
        var (rows, columns) = (KernelContext.Count(dims[..^1]), dims[^1]);
        var work = new Work
        {
            DY = context.Input(0, rows * columns),
            Y = context.Input(1, rows * columns),
            DX = context.Output(0, dims),
            Columns = columns,
        };
        context.ParallelFor(rows, KernelContext.Parts(rows, columns), &Run, ref work);
    }

    private static void Run(void* data, int part, long from, long to)
    {
        var work = (Work*)data;
        for (var row = from; row < to; row++)
        {
            var offset = row * work->Columns;
            float* dY = work->DY + offset,
                y = work->Y + offset,
                dX = work->DX + offset;
            var sum = VectorMath.Dot(dY, y, work->Columns);
            var sums = new Vector<float>(sum);
            var i = 0L;
            for (; i <= work->Columns - Vector<float>.Count; i += Vector<float>.Count)
            {
                Vector.Store(Vector.Load(y + i) * (Vector.Load(dY + i) - sums), dX + i);
            }

            for (; i < work->Columns; i++)
            {
                dX[i] = y[i] * (dY[i] - sum);
            }
        }
    }

    private struct Work
    {
        public float* DY,
            Y,
            DX;
        public long Columns;
    }
}

/// <summary>
/// The gradients of LayerNormalization. Inputs: dY, X, scale, mean, 1 / deviation. Outputs: dX, dScale, dBias.
/// </summary>
/// <remarks>
/// With n = (X - mean) / deviation and g = dY scale, a row's dX = (g - mean(g) - n mean(g n)) / deviation.
/// </remarks>
internal sealed unsafe class LayerNormGrad(KernelInfo info) : Kernel
{
    private readonly int _axis = info.Int("axis");
    private readonly PartialSums _sums = new();

    public override void Compute(KernelContext context)
    {
        Span<long> buffer = stackalloc long[KernelContext.MaxRank];
        var dims = context.Dims(1, buffer);
        var (rows, columns) = (KernelContext.Count(dims[.._axis]), KernelContext.Count(dims[_axis..]));
        var parts = KernelContext.Parts(rows, columns);
        var work = new Work
        {
            DY = context.Input(0, rows * columns),
            X = context.Input(1, rows * columns),
            Scale = context.Input(2, columns),
            Mean = context.Input(3, rows),
            Inverse = context.Input(4, rows),
            DX = context.Output(0, dims),
            Columns = columns,
            Sums = _sums.Rent(parts, 2 * columns),
        };
        context.ParallelFor(rows, parts, &Run, ref work);
        dims = context.Dims(2, buffer);
        PartialSums.Total(work.Sums, parts, 2 * columns, columns, context.Output(1, dims));
        PartialSums.Total(work.Sums + columns, parts, 2 * columns, columns, context.Output(2, dims));
    }

    private static void Run(void* data, int part, long from, long to)
    {
        var work = (Work*)data;
        float* dScale = work->Sums + (part * 2 * work->Columns),
            dBias = dScale + work->Columns;
        for (var row = from; row < to; row++)
        {
            var offset = row * work->Columns;
            float* dY = work->DY + offset,
                x = work->X + offset,
                dX = work->DX + offset,
                scale = work->Scale;
            Vector<float> mean = new(work->Mean[row]),
                inverse = new(work->Inverse[row]),
                sumG = default,
                sumGN = default;
            float restG = 0,
                restGN = 0;
            var i = 0L;
            for (; i <= work->Columns - Vector<float>.Count; i += Vector<float>.Count)
            {
                var (d, n) = (Vector.Load(dY + i), (Vector.Load(x + i) - mean) * inverse);
                var g = d * Vector.Load(scale + i);
                sumG += g;
                sumGN += g * n;
                Vector.Store(Vector.Load(dScale + i) + (d * n), dScale + i);
                Vector.Store(Vector.Load(dBias + i) + d, dBias + i);
            }

            for (; i < work->Columns; i++)
            {
                var n = (x[i] - work->Mean[row]) * work->Inverse[row];
                restG += dY[i] * scale[i];
                restGN += dY[i] * scale[i] * n;
                dScale[i] += dY[i] * n;
                dBias[i] += dY[i];
            }

            float meanG = (Vector.Sum(sumG) + restG) / work->Columns,
                meanGN = (Vector.Sum(sumGN) + restGN) / work->Columns;
            Vector<float> meansG = new(meanG),
                meansGN = new(meanGN);
            for (i = 0; i <= work->Columns - Vector<float>.Count; i += Vector<float>.Count)
            {
                var n = (Vector.Load(x + i) - mean) * inverse;
                Vector.Store(
                    inverse * ((Vector.Load(dY + i) * Vector.Load(scale + i)) - meansG - (n * meansGN)),
                    dX + i
                );
            }

            for (; i < work->Columns; i++)
            {
                var n = (x[i] - work->Mean[row]) * work->Inverse[row];
                dX[i] = work->Inverse[row] * ((dY[i] * scale[i]) - meanG - (n * meanGN));
            }
        }
    }

    private struct Work
    {
        public float* DY,
            X,
            Scale,
            Mean,
            Inverse,
            DX,
            Sums;
        public long Columns;
    }
}
