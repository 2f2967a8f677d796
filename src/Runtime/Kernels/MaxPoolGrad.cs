using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// The gradient of MaxPool over one or two axes. Inputs: dY, X, Y. Output: dY added to the first maximum of each
/// window.
/// </summary>
internal sealed unsafe class MaxPoolGrad(KernelInfo info) : Kernel
{
    private readonly WindowAttributes _windows = new(info);

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(1, stackalloc long[KernelContext.MaxRank]);
        var outputs = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var (row, column) = _windows.Axes(dims, outputs);
        if (outputs[1] != dims[1])
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
            Row = row,
            Column = column,
        };
        var planes = dims[0] * dims[1];
        context.ParallelFor(planes, KernelContext.Parts(planes, row.Size * column.Size), &Run, ref work);
    }

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

    private struct Work
    {
        public float* DY,
            X,
            Y,
            DX;
        public WindowAxis Row,
            Column;
    }
}
