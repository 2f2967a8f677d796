namespace MacOnnx.Runtime.Kernels;

/// <summary>The gradient of MaxPool over one or two axes. Inputs: dY, X, Y. Output: dY added to the first maximum of each window.</summary>
internal sealed unsafe class MaxPoolGrad(KernelInfo info) : Kernel
{
    private readonly long[] _kernel = info.Ints("kernel_shape")!, _strides = info.Ints("strides")!, _dilations = info.Ints("dilations")!, _pads = info.Ints("pads")!;

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(1, stackalloc long[KernelContext.MaxRank]);
        var outputs = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var rank = _kernel.Length;
        var work = new Work
        {
            DY = context.Input(0),
            X = context.Input(1),
            Y = context.Input(2),
            DX = context.Output(0, dims),
            Planes = dims[0] * dims[1],
            Row = rank == 2 ? AxisOf(0, dims, outputs) : new Axis { Size = 1, Outputs = 1, Kernel = 1, Stride = 1, Dilation = 1 },
            Column = AxisOf(rank - 1, dims, outputs),
        };
        work.Parts = (int)Math.Min(work.Planes, KernelContext.Parts(MacUpdate.Product(dims)));
        context.ParallelFor(work.Parts, &Run, ref work);
    }

    private Axis AxisOf(int axis, ReadOnlySpan<long> dims, ReadOnlySpan<long> outputs) => new()
    {
        Size = dims[2 + axis],
        Outputs = outputs[2 + axis],
        Kernel = _kernel[axis],
        Stride = _strides[axis],
        Dilation = _dilations[axis],
        Begin = _pads[axis],
    };

    private static void Run(void* data, int part)
    {
        var work = (Work*)data;
        long size = work->Row.Size * work->Column.Size, outputs = work->Row.Outputs * work->Column.Outputs;
        for (var plane = work->Planes * part / work->Parts; plane < work->Planes * (part + 1) / work->Parts; plane++)
        {
            float* x = work->X + (plane * size), dX = work->DX + (plane * size), y = work->Y + (plane * outputs), dY = work->DY + (plane * outputs);
            new Span<float>(dX, checked((int)size)).Clear();
            for (var row = 0L; row < work->Row.Outputs; row++)
            {
                for (var column = 0L; column < work->Column.Outputs; column++, y++, dY++)
                {
                    Add(work, x, dX, row, column, *y, *dY);
                }
            }
        }
    }

    private static void Add(Work* work, float* x, float* dX, long row, long column, float maximum, float gradient)
    {
        long top = (row * work->Row.Stride) - work->Row.Begin, left = (column * work->Column.Stride) - work->Column.Begin;
        for (var i = 0L; i < work->Row.Kernel; i++)
        {
            var r = top + (i * work->Row.Dilation);
            if ((ulong)r >= (ulong)work->Row.Size)
            {
                continue;
            }

            for (var j = 0L; j < work->Column.Kernel; j++)
            {
                var c = left + (j * work->Column.Dilation);
                if ((ulong)c < (ulong)work->Column.Size && x[(r * work->Column.Size) + c] == maximum)
                {
                    dX[(r * work->Column.Size) + c] += gradient;
                    return;
                }
            }
        }
    }

    private struct Axis
    {
        public long Size, Outputs, Kernel, Stride, Dilation, Begin;
    }

    private struct Work
    {
        public float* DY, X, Y, DX;
        public long Planes;
        public Axis Row, Column;
        public int Parts;
    }
}
