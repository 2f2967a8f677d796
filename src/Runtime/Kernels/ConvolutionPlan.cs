namespace MacOnnx.Runtime.Kernels;

/// <summary>How a convolution, or its data gradient, is computed while shapes stay.</summary>
internal abstract unsafe class ConvolutionPlan
{
    /// <summary>Plans Y from X and W.</summary>
    public static ConvolutionPlan Forward(ConvShape shape) =>
        (ConvolutionPlan?)WinogradPlan.Of(shape, isForward: true)
        ?? BatchLastPlan.Of(shape, isForward: true)
        ?? (ConvolutionPlan)GatherPlan.Forward(shape);

    /// <summary>Plans dX from dY and W.</summary>
    public static ConvolutionPlan DataGradient(ConvShape shape) =>
        (ConvolutionPlan?)WinogradPlan.Of(shape, isForward: false)
        ?? BatchLastPlan.Of(shape, isForward: false)
        ?? (ConvolutionPlan)GatherPlan.DataGradient(shape);

    /// <summary>Computes.</summary>
    /// <param name="context">The call.</param>
    /// <param name="x">The input, X or dY.</param>
    /// <param name="weights">W.</param>
    /// <param name="bias">A number for each output channel; null for none.</param>
    /// <param name="y">The output, Y or dX.</param>
    public abstract void Run(KernelContext context, float* x, float* weights, float* bias, float* y);
}

/// <summary>How the weight gradient of a convolution is computed while shapes stay.</summary>
internal abstract unsafe class WeightGradientPlan
{
    /// <summary>Gives the plan that is best.</summary>
    public static WeightGradientPlan Of(ConvShape shape) =>
        (WeightGradientPlan?)DotWeightPlan.Of(shape)
        ?? WinogradWeightPlan.Of(shape)
        ?? (WeightGradientPlan)new CorrelationPlan(shape);

    /// <summary>Computes dW.</summary>
    public abstract void Run(KernelContext context, float* x, float* dY, float* dW);
}

/// <summary>Arrays that do not move, so that structs may hold their addresses while someone holds the array.</summary>
internal static unsafe class Pinned
{
    public static T[] Array<T>(IEnumerable<T> items)
    {
        T[] source = [.. items];
        var pinned = GC.AllocateUninitializedArray<T>(Math.Max(1, source.Length), pinned: true);
        source.CopyTo(pinned, 0);
        return pinned;
    }

    public static T* Address<T>(T[] pinned)
        where T : unmanaged => (T*)System.Runtime.CompilerServices.Unsafe.AsPointer(ref pinned[0]);
}
