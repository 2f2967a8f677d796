namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// How the weight gradient of a convolution whose channels are groups of their own is a product of dY, for each tap,
/// and X as that tap reads it.
/// </summary>
internal sealed unsafe class DepthwiseWeightPlan(ConvShape shape) : WeightGradientPlan
{
    private readonly GatherPlan _forward = GatherPlan.Forward(shape);

    /// <inheritdoc/>
    public override void Run(KernelContext context, float* x, float* dY, float* dW) =>
        _forward.Correlate(context, x, dY, dW);
}
