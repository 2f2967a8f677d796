namespace MacOnnx.Runtime.Kernels;

/// <summary>What the kernels of convolutions share: the attributes, and a plan that lasts while shapes stay.</summary>
internal abstract unsafe class ConvolutionKernel<TPlan>(KernelInfo info) : Kernel
    where TPlan : class
{
    private ConvShape _shape;
    private TPlan? _plan;

    protected WindowAttributes Windows { get; } = new(info);

    protected int Groups { get; } = info.Int("group");

    protected abstract TPlan Plan(ConvShape shape);

    /// <summary>Gives the shape of the convolution, of which X and Y are known, and its plan.</summary>
    protected (ConvShape Shape, TPlan Plan) Plan(ReadOnlySpan<long> x, ReadOnlySpan<long> y)
    {
        var shape = ConvShape.Of(x, y, Windows, Groups);
        if (_plan is null || _shape != shape)
        {
            (_plan, _shape) = (Plan(shape), shape);
        }

        return (shape, _plan);
    }

    protected static long WeightCount(ConvShape shape) =>
        checked((long)shape.Groups * shape.Filters * shape.Channels * shape.Taps);
}

/// <summary>A convolution. Inputs: X, W, and a bias where there is one. Output: Y.</summary>
internal sealed unsafe class Conv(KernelInfo info, bool hasBias) : ConvolutionKernel<ConvolutionPlan>(info)
{
    public override void Compute(KernelContext context)
    {
        var x = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        Span<long> y = stackalloc long[2 + Windows.Rank];
        if (x.Length != y.Length)
        {
            throw new InvalidOperationException("The windows do not fit the tensor.");
        }

        (y[0], y[1]) = (x[0], context.Dims(1, stackalloc long[KernelContext.MaxRank])[0]);
        for (var axis = 0; axis < Windows.Rank; axis++)
        {
            y[2 + axis] = Windows.OutputsOf(axis, x[2 + axis]);
        }

        var (shape, plan) = Plan(x, y);
        plan.Run(
            context,
            context.Input(0, KernelContext.Count(x)),
            context.Input(1, WeightCount(shape)),
            hasBias ? context.Input(2, y[1]) : null,
            context.Output(0, y)
        );
    }

    protected override ConvolutionPlan Plan(ConvShape shape) => ConvolutionPlan.Forward(shape);
}

/// <summary>
/// The gradient of a convolution's input. Inputs: dY, W. Output: dX, of the spatial size that the attribute size gives.
/// </summary>
internal sealed unsafe class ConvDataGrad(KernelInfo info) : ConvolutionKernel<ConvolutionPlan>(info)
{
    private readonly long[] _size =
        info.Ints("size") ?? throw new InvalidOperationException("The attribute size is missing.");

    public override void Compute(KernelContext context)
    {
        var y = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var w = context.Dims(1, stackalloc long[KernelContext.MaxRank]);
        if (w.Length != y.Length || _size.Length != Windows.Rank || y.Length != 2 + Windows.Rank)
        {
            throw new InvalidOperationException("The windows do not fit the tensors.");
        }

        Span<long> x = [y[0], checked(w[1] * Groups), .. _size];
        var (shape, plan) = Plan(x, y);
        plan.Run(
            context,
            context.Input(0, KernelContext.Count(y)),
            context.Input(1, WeightCount(shape)),
            null,
            context.Output(0, x)
        );
    }

    protected override ConvolutionPlan Plan(ConvShape shape) => ConvolutionPlan.DataGradient(shape);
}

/// <summary>The gradient of a convolution's weights. Inputs: dY, X. Output: dW.</summary>
internal sealed unsafe class ConvWeightGrad(KernelInfo info) : ConvolutionKernel<WeightGradientPlan>(info)
{
    public override void Compute(KernelContext context)
    {
        var y = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var x = context.Dims(1, stackalloc long[KernelContext.MaxRank]);
        var (shape, plan) = Plan(x, y);
        plan.Run(
            context,
            context.Input(1, KernelContext.Count(x)),
            context.Input(0, KernelContext.Count(y)),
            context.Output(0, [y[1], shape.Channels, .. Windows.Kernel])
        );
    }

    protected override WeightGradientPlan Plan(ConvShape shape) => WeightGradientPlan.Of(shape);
}
