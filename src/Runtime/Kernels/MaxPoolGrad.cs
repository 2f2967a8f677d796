using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// The gradient of MaxPool over one or two axes. Inputs: dY, X, Y. Output: dY added to the first maximum of each
/// window.
/// </summary>
internal sealed unsafe class MaxPoolGrad : Kernel
{
    private readonly long[] _kernel,
        _strides,
        _dilations,
        _pads;

    public MaxPoolGrad(KernelInfo info)
    {
        (_kernel, _strides, _dilations, _pads) = (
            info.Ints("kernel_shape")!,
            info.Ints("strides")!,
            info.Ints("dilations")!,
            info.Ints("pads")!
        );
        var rank = _kernel.Length;
        if (
            rank is < 1 or > 2
            || _strides.Length != rank
            || _dilations.Length != rank
            || _pads.Length != 2 * rank
            || _strides.Concat(_dilations).Concat(_kernel).Any(n => n < 1)
        )
        {
            throw new InvalidOperationException("The windows are not those of a pool over one or two axes.");
        }
    }

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(1, stackalloc long[KernelContext.MaxRank]);
        var outputs = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var rank = _kernel.Length;
        if (dims.Length != 2 + rank || outputs.Length != dims.Length || outputs[0] != dims[0] || outputs[1] != dims[1])
        {
            throw new InvalidOperationException("The windows do not fit the tensors.");
        }

        var (count, windows) = (KernelContext.Count(dims), KernelContext.Count(outputs));
        var work = new Work
        {
            DY = context.Input(0, windows),
            X = context.Input(1, count),
            Y = context.Input(2, windows),
            DX = context.Output(0, dims),
            Row =
                rank == 2
                    ? AxisOf(0, dims, outputs)
                    : new Axis
                    {
                        Size = 1,
                        Outputs = 1,
                        Kernel = 1,
                        Stride = 1,
                        Dilation = 1,
                    },
            Column = AxisOf(rank - 1, dims, outputs),
        };
        var planes = dims[0] * dims[1];
        context.ParallelFor(planes, KernelContext.Parts(planes, count / planes), &Run, ref work);
    }

    private Axis AxisOf(int axis, ReadOnlySpan<long> dims, ReadOnlySpan<long> outputs) =>
        new()
        {
            Size = dims[2 + axis],
            Outputs = outputs[2 + axis],
            Kernel = _kernel[axis],
            Stride = _strides[axis],
            Dilation = _dilations[axis],
            Begin = _pads[axis],
        };

    private static void Run(void* data, int part, long from, long to)
    {
        var work = (Work*)data;
        var (rows, columns) = (work->Row, work->Column);
        long size = rows.Size * columns.Size,
            outputs = rows.Outputs * columns.Outputs;
        for (var plane = from; plane < to; plane++)
        {
            float* x = work->X + (plane * size),
                dX = work->DX + (plane * size),
                y = work->Y + (plane * outputs),
                dY = work->DY + (plane * outputs);
            new Span<float>(dX, checked((int)size)).Clear();
            for (var row = 0L; row < rows.Outputs; row++)
            {
                var (top, fromRow, toRow) = rows.Window(row);
                for (var column = 0L; column < columns.Outputs; column++, y++, dY++)
                {
                    var (left, fromColumn, toColumn) = columns.Window(column);
                    var (maximum, gradient, remaining) = (
                        Vector128.CreateScalarUnsafe(*y),
                        Vector128.CreateScalarUnsafe(*dY).AsInt32(),
                        Vector128<int>.AllBitsSet
                    );
                    for (var i = fromRow; i < toRow; i++)
                    {
                        var offset = ((top + (i * rows.Dilation)) * columns.Size) + left;
                        for (var j = fromColumn; j < toColumn; j++)
                        {
                            // Where the maximum lies is random: a mask instead of a branch.
                            var position = offset + (j * columns.Dilation);
                            var hit =
                                Vector128.Equals(Vector128.CreateScalarUnsafe(x[position]), maximum).AsInt32()
                                & remaining;
                            remaining = Vector128.AndNot(remaining, hit);
                            dX[position] += (gradient & hit).AsSingle().ToScalar();
                        }
                    }
                }
            }
        }
    }

    private struct Axis
    {
        public long Size,
            Outputs,
            Kernel,
            Stride,
            Dilation,
            Begin;

        /// <summary>
        /// Gives the first position of a window, and its first and last place, exclusive, inside the tensor.
        /// </summary>
        public readonly (long Start, long From, long To) Window(long output)
        {
            var start = (output * Stride) - Begin;
            return start >= 0 && start + ((Kernel - 1) * Dilation) < Size
                ? (start, 0, Kernel)
                : (
                    start,
                    start < 0 ? (Dilation - 1 - start) / Dilation : 0,
                    Math.Min(Kernel, (Size - start + Dilation - 1) / Dilation)
                );
        }
    }

    private struct Work
    {
        public float* DY,
            X,
            Y,
            DX;
        public Axis Row,
            Column;
    }
}
