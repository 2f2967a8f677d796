using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.Runtime.Kernels;

namespace MacOnnx.Runtime.Tests.Examples;

/// <summary>Swirl, Y = X sin X, of domain com.example: an operator that neither ONNX nor MacOnnx has.</summary>
internal sealed unsafe class Swirl : Kernel
{
    /// <summary>Tells the rewriter the gradient, and ONNX Runtime the kernel.</summary>
    public static void Add()
    {
        Rewriter.Add(
            new OpRule(
                "Swirl",
                g => [g.DY() * (g.X().Op("Sin") + (g.X() * g.X().Op("Cos")))],
                Domain: "com.example",
                Flow: Flow.Pointwise
            )
        );
        KernelRegistry.Add(new OperatorSignature("Swirl", ["X"], ["X"], Domain: "com.example"), _ => new Swirl());
    }

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var count = KernelContext.Count(dims);
        var work = new Work { X = context.Input(0, count), Y = context.Output(0, dims) };
        context.ParallelFor(count, KernelContext.Parts(count), &Run, ref work);
    }

    private static void Run(void* data, int part, long from, long to)
    {
        var work = *(Work*)data;
        for (var i = from; i < to; i++)
        {
            work.Y[i] = work.X[i] * MathF.Sin(work.X[i]);
        }
    }

    private struct Work
    {
        public float* X,
            Y;
    }
}
