using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// The gradient of MaxPool over one or two axes. Inputs: dY, X, Y. Output: dY added to the first maximum of each
/// window.
/// </summary>
internal sealed unsafe class MaxPoolGrad(KernelInfo info) : Kernel
{
    private readonly WindowAttributes _windows = new(info);

    // csharpier-ignore
    private readonly delegate*<void*, int, long, long, void> _pairs = Simd.Width switch
    {
        512 => &Pairs<Simd512, Vector512<float>>,
        256 => &Pairs<Simd256, Vector256<float>>,
        _ => &Pairs<Simd128, Vector128<float>>,
    };

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
        context.ParallelFor(
            planes,
            KernelContext.Parts(planes, row.Size * column.Size),
            IsPaired(row) && IsPaired(column) ? _pairs : &Run,
            ref work
        );
    }

    private static bool IsPaired(WindowAxis axis) =>
        axis is { Kernel: 2, Stride: 2, Dilation: 1, Begin: 0 } && 2 * axis.Outputs <= axis.Size;

    /// <summary>Windows of 2 x 2 that tile the plane: vectors along a row of them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Pairs<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        var work = (Work*)data;
        var (rows, columns) = (work->Row, work->Column);
        float* y = work->Y + (from * rows.Outputs * columns.Outputs),
            dY = work->DY + (from * rows.Outputs * columns.Outputs);
        for (var plane = from; plane < to; plane++)
        {
            float* x = work->X + (plane * rows.Size * columns.Size),
                dX = work->DX + (plane * rows.Size * columns.Size);
            new Span<float>(
                dX + (2 * rows.Outputs * columns.Size),
                (int)((rows.Size - (2 * rows.Outputs)) * columns.Size)
            ).Clear();
            for (var row = 0L; row < rows.Outputs; row++, x += 2 * columns.Size, dX += 2 * columns.Size)
            {
                var i = 0L;
                for (; i + S.Lanes <= columns.Outputs; i += S.Lanes)
                {
                    float* top = x + (2 * i),
                        bottom = top + columns.Size;
                    var (x0, x1) = S.Unzip(S.Load(top), S.Load(top + S.Lanes));
                    var (x2, x3) = S.Unzip(S.Load(bottom), S.Load(bottom + S.Lanes));
                    V maximum = S.Load(y + i),
                        rest = S.Load(dY + i),
                        d0 = S.IfEqual(x0, maximum, rest);
                    rest = S.Subtract(rest, d0);
                    var d1 = S.IfEqual(x1, maximum, rest);
                    rest = S.Subtract(rest, d1);
                    var d2 = S.IfEqual(x2, maximum, rest);
                    rest = S.Subtract(rest, d2);
                    Write(dX + (2 * i), S.Zip(d0, d1));
                    Write(dX + (2 * i) + columns.Size, S.Zip(d2, S.IfEqual(x3, maximum, rest)));
                }

                for (; i < columns.Outputs; i++)
                {
                    float* top = x + (2 * i),
                        bottom = top + columns.Size,
                        to0 = dX + (2 * i),
                        to1 = to0 + columns.Size;
                    var (maximum, rest) = (y[i], dY[i]);
                    to0[0] = top[0] == maximum ? rest : 0;
                    rest -= to0[0];
                    to0[1] = top[1] == maximum ? rest : 0;
                    rest -= to0[1];
                    to1[0] = bottom[0] == maximum ? rest : 0;
                    rest -= to1[0];
                    to1[1] = bottom[1] == maximum ? rest : 0;
                }

                for (i = 2 * columns.Outputs; i < columns.Size; i++)
                {
                    dX[i] = dX[columns.Size + i] = 0;
                }

                y += columns.Outputs;
                dY += columns.Outputs;
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static void Write(float* to, (V Low, V High) pair)
        {
            S.Store(pair.Low, to);
            S.Store(pair.High, to + S.Lanes);
        }
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
