namespace MacOnnx.Runtime.Kernels;

/// <summary>AdaGrad. Inputs: W, S, G, learning rate, weight decay, epsilon. Outputs: W', S'.</summary>
internal sealed unsafe class AdaGradUpdate(KernelInfo info) : Kernel
{
    private readonly bool _decays = info.Flag("decays");
    private readonly bool _isDecoupled = info.Flag("decoupled");

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var count = KernelContext.Count(dims);
        var (rate, decay) = (context.Scalar(3), _decays ? context.Scalar(4) : 0);
        var work = new Work
        {
            W = context.Input(0, count),
            S = context.Input(1, count),
            G = context.Input(2, count),
            NewW = context.Output(0, dims),
            NewS = context.Output(1, dims),
            Rate = rate,
            Keep = _isDecoupled ? 1 - (rate * decay) : 1,
            Decay = _isDecoupled ? 0 : decay,
            Epsilon = context.Scalar(5),
        };
        context.ParallelFor(count, KernelContext.Parts(count), &Run, ref work);
    }

    private static void Run(void* data, int part, long from, long to)
    {
        var work = *(Work*)data;
        for (var i = from; i < to; i++)
        {
            var w = work.W[i];
            var g = work.G[i] + (work.Decay * w);
            var sum = work.S[i] + (g * g);
            (work.NewW[i], work.NewS[i]) = ((work.Keep * w) - (work.Rate * g / (MathF.Sqrt(sum) + work.Epsilon)), sum);
        }
    }

    private struct Work
    {
        public float* W,
            S,
            G,
            NewW,
            NewS;
        public float Rate,
            Keep,
            Decay,
            Epsilon;
    }
}
