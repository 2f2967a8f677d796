using System.Numerics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// Linear updates of a parameter W and its momentum V by a gradient G and a multiple c of a vector q, in one pass over
/// the memory:
/// V' = mu V + G + a W + c q, W' = k W - x V' + y V.
/// </summary>
internal unsafe struct LinearUpdate
{
    private readonly float _mu,
        _a,
        _k,
        _x,
        _y;
    private readonly float* _w,
        _v,
        _g;
    private readonly float* _newW,
        _newV;

    /// <summary>
    /// Initializes a new instance of the <see cref="LinearUpdate"/> struct for inputs W, V, G at some index, and
    /// outputs W', V' at another.
    /// </summary>
    /// <remarks>
    /// Plain: W' = W - lr V'. Nesterov: W' = W - lr (V' - mu V + mu V'). Decoupled decay shrinks W by 1 - lr wd,
    /// coupled decay adds wd W to G.
    /// </remarks>
    public LinearUpdate(
        KernelContext context,
        (int W, int V, int G) inputs,
        int output,
        ReadOnlySpan<long> dims,
        bool decays,
        bool decoupled,
        bool nesterov
    )
    {
        var (lr, decay) = (
            context.Scalar(MomentumUpdate.LearningRate),
            decays ? context.Scalar(MomentumUpdate.WeightDecay) : 0
        );
        _mu = context.Scalar(MomentumUpdate.Momentum);
        (_a, _k) = decoupled ? (0f, 1 - (lr * decay)) : (decay, 1f);
        (_x, _y) = nesterov ? (lr * (1 + _mu), lr * _mu) : (lr, 0);
        var count = KernelContext.Count(dims);
        _w = context.Input(inputs.W, count);
        _v = context.Input(inputs.V, count);
        _g = context.Input(inputs.G, count);
        _newW = context.Output(output, dims);
        _newV = context.Output(output + 1, dims);
    }

    public readonly float* Gradient => _g;

    /// <summary>
    /// Updates elements from an offset on, with an array q of as many elements. Outputs may be the inputs' buffers.
    /// </summary>
    public readonly void Apply(long offset, long count, float c, float* q)
    {
        float* w = _w + offset,
            v = _v + offset,
            g = _g + offset,
            newW = _newW + offset,
            newV = _newV + offset;
        Vector<float> mu = new(_mu),
            a = new(_a),
            k = new(_k),
            x = new(_x),
            y = new(_y),
            cs = new(c);
        var i = 0L;
        for (; i <= count - Vector<float>.Count; i += Vector<float>.Count)
        {
            Vector<float> oldW = Vector.Load(w + i),
                oldV = Vector.Load(v + i);
            var next = (mu * oldV) + Vector.Load(g + i) + (a * oldW) + (cs * Vector.Load(q + i));
            Vector.Store(next, newV + i);
            Vector.Store((k * oldW) - (x * next) + (y * oldV), newW + i);
        }

        for (; i < count; i++)
        {
            float oldW = w[i],
                oldV = v[i];
            newV[i] = (_mu * oldV) + g[i] + (_a * oldW) + (c * q[i]);
            newW[i] = (_k * oldW) - (_x * newV[i]) + (_y * oldV);
        }
    }

    /// <summary>Updates elements by the gradient alone.</summary>
    public readonly void Apply(long offset, long count) => Apply(offset, count, 0, _g + offset);
}

/// <summary>SGD with momentum. Inputs: W, V, G, learning rate, momentum, weight decay. Outputs: W', V'.</summary>
internal sealed unsafe class MomentumUpdate(KernelInfo info) : Kernel
{
    public const int LearningRate = 3,
        Momentum = 4,
        WeightDecay = 5;

    private readonly bool _decays = info.Flag("decays"),
        _decoupled = info.Flag("decoupled"),
        _nesterov = info.Flag("nesterov");

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var update = new LinearUpdate(context, (0, 1, 2), 0, dims, _decays, _decoupled, _nesterov);
        var count = KernelContext.Count(dims);
        context.ParallelFor(count, KernelContext.Parts(count), &Run, ref update);
    }

    private static void Run(void* data, int part, long from, long to) => ((LinearUpdate*)data)->Apply(from, to - from);
}

/// <summary>
/// SGD with momentum and MAC. Inputs: W, V, G, learning rate, momentum, weight decay, activation means p [vectors, in],
/// scales -1/(rho + |p|^2)
/// [vectors, 1], and where there is a bias b, its momentum, its gradient. Outputs: W', V', and b' and its momentum.
/// </summary>
/// <remarks>
/// The gradient of unit o becomes G_o + c_o p with c_o = scale (G_o p + db_o). A row of G is read for the product and
/// again, from the cache, for
/// the update, so MAC costs no pass over the weight. Where units are columns, a block of columns stays in the cache
/// instead.
/// </remarks>
internal sealed unsafe class MacUpdate(KernelInfo info, bool hasBias) : Kernel
{
    private const int Means = 6,
        Scales = 7,
        Bias = 8,
        BiasMomentum = 9,
        BiasGradient = 10,
        ColumnsOfBlock = 64;

    private readonly bool _decays = info.Flag("decays"),
        _biasDecays = info.Flag("bias_decays"),
        _decoupled = info.Flag("decoupled"),
        _nesterov = info.Flag("nesterov");
    private readonly bool _isOutputFirst = info.Flag("output_first");
    private readonly long[]? _vectorOfUnit = info.Ints("mean_of_unit");
    private Block[]? _blocks;
    private (long Units, long Vectors, long In) _shape;

    public override void Compute(KernelContext context)
    {
        Span<long> buffer = stackalloc long[KernelContext.MaxRank];
        var means = context.Dims(Means, buffer);
        var (vectors, inputs) = (means[0], means[^1]);
        var dims = context.Dims(0, buffer);
        var (units, rest) = Math.DivRem(KernelContext.Count(dims), Math.Max(1, inputs));
        if (rest != 0 || units == 0)
        {
            throw new InvalidOperationException("The weight does not fit the activation means.");
        }

        var work = new Work
        {
            Units = units,
            In = inputs,
            Scales = context.Input(Scales, vectors),
        };
        work.Means = context.Input(Means, vectors * work.In);
        work.Update = new(context, (0, 1, 2), 0, dims, _decays, _decoupled, _nesterov);
        if (hasBias)
        {
            dims = context.Dims(Bias, buffer);
            _ = context.Input(Bias, units);
            work.Bias = new(context, (Bias, BiasMomentum, BiasGradient), 2, dims, _biasDecays, _decoupled, _nesterov);
        }

        if (_blocks is null || _shape != (units, vectors, work.In))
        {
            (_blocks, _shape) = ([.. BlocksOf(units, vectors, work.In)], (units, vectors, work.In));
        }

        fixed (Block* blocks = _blocks)
        {
            work.Blocks = blocks;
            context.ParallelFor(_blocks.Length, _blocks.Length, _isOutputFirst ? &Rows : &Columns, ref work);
        }
    }

    /// <summary>Cuts the units into runs that share an activation mean.</summary>
    private IEnumerable<Block> BlocksOf(long units, long vectors, long inputs)
    {
        if (_vectorOfUnit is { } chosen && (chosen.Length != units || chosen.Any(v => v < -1 || v >= vectors)))
        {
            throw new InvalidOperationException("mean_of_unit does not fit the weight and the activation means.");
        }

        long VectorOf(long unit) => _vectorOfUnit?[unit] ?? checked(unit * vectors) / units;
        var most = _isOutputFirst ? Math.Max(1, 16384 / inputs) : ColumnsOfBlock;
        for (long from = 0, to; from < units; from = to)
        {
            for (to = from + 1; to < units && to - from < most && VectorOf(to) == VectorOf(from); to++) { }

            yield return new Block(from, to, VectorOf(from));
        }
    }

    private static void Rows(void* data, int part, long first, long end)
    {
        var work = (Work*)data;
        var (from, to, vector) = work->Blocks[part];
        var p = work->Means + (Math.Max(vector, 0) * work->In);
        var scale = vector < 0 ? 0 : work->Scales[vector];
        for (var unit = from; unit < to; unit++)
        {
            var offset = unit * work->In;
            var c =
                scale
                * (
                    VectorMath.Dot(work->Update.Gradient + offset, p, work->In)
                    + (work->HasBias ? work->Bias.Gradient[unit] : 0)
                );
            work->Update.Apply(offset, work->In, c, p);
            if (work->HasBias)
            {
                work->Bias.Apply(unit, 1, 1, &c);
            }
        }
    }

    private static void Columns(void* data, int part, long first, long end)
    {
        var work = (Work*)data;
        var (from, to, vector) = work->Blocks[part];
        var p = work->Means + (Math.Max(vector, 0) * work->In);
        var scale = vector < 0 ? 0 : work->Scales[vector];
        var c = stackalloc float[ColumnsOfBlock];
        for (var j = from; j < to; j++)
        {
            c[j - from] = work->HasBias ? work->Bias.Gradient[j] : 0;
        }

        for (var i = 0L; i < work->In; i++)
        {
            var g = work->Update.Gradient + (i * work->Units);
            for (var j = from; j < to; j++)
            {
                c[j - from] += p[i] * g[j];
            }
        }

        for (var j = from; j < to; j++)
        {
            c[j - from] *= scale;
        }

        for (var i = 0L; i < work->In; i++)
        {
            work->Update.Apply((i * work->Units) + from, to - from, p[i], c);
        }

        if (work->HasBias)
        {
            work->Bias.Apply(from, to - from, 1, c);
        }
    }

    /// <summary>
    /// Units from one to before another, that share an activation mean; vector -1: they have none, and c is 0.
    /// </summary>
    private readonly record struct Block(long From, long To, long Vector);

    private struct Work
    {
        public LinearUpdate Update,
            Bias;
        public long Units,
            In;
        public float* Means,
            Scales;
        public Block* Blocks;

        public readonly bool HasBias => Bias.Gradient != null;
    }
}

/// <summary>
/// AdamW. Inputs: W, m, v, G, learning rate, weight decay, beta1, beta2, learning rate / (1 - beta1^t), 1 / sqrt(1 -
/// beta2^t), epsilon. Outputs: W', m', v'.
/// </summary>
internal sealed unsafe class AdamWUpdate(KernelInfo info) : Kernel
{
    private readonly bool _decays = info.Flag("decays"),
        _decoupled = info.Flag("decoupled");

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var count = KernelContext.Count(dims);
        var decay = _decays ? context.Scalar(5) : 0;
        var work = new Work
        {
            W = context.Input(0, count),
            M = context.Input(1, count),
            V = context.Input(2, count),
            G = context.Input(3, count),
            NewW = context.Output(0, dims),
            NewM = context.Output(1, dims),
            NewV = context.Output(2, dims),
            Coupled = _decoupled ? 0 : decay,
            Kept = _decoupled ? 1 - (context.Scalar(4) * decay) : 1,
            Beta1 = context.Scalar(6),
            Beta2 = context.Scalar(7),
            StepSize = context.Scalar(8),
            Scale = context.Scalar(9),
            Epsilon = context.Scalar(10),
        };
        context.ParallelFor(count, KernelContext.Parts(count), &Run, ref work);
    }

    private static void Run(void* data, int part, long i, long end)
    {
        var work = (Work*)data;
        Vector<float> coupled = new(work->Coupled),
            kept = new(work->Kept),
            beta1 = new(work->Beta1),
            beta2 = new(work->Beta2),
            rest1 = new(1 - work->Beta1),
            rest2 = new(1 - work->Beta2);
        Vector<float> step = new(work->StepSize),
            scale = new(work->Scale),
            epsilon = new(work->Epsilon);
        for (; i <= end - Vector<float>.Count; i += Vector<float>.Count)
        {
            var w = Vector.Load(work->W + i);
            var d = Vector.Load(work->G + i) + (coupled * w);
            var m = (beta1 * Vector.Load(work->M + i)) + (rest1 * d);
            var v = (beta2 * Vector.Load(work->V + i)) + (rest2 * (d * d));
            Vector.Store(m, work->NewM + i);
            Vector.Store(v, work->NewV + i);
            Vector.Store((kept * w) - (step * (m / ((Vector.SquareRoot(v) * scale) + epsilon))), work->NewW + i);
        }

        for (; i < end; i++)
        {
            var w = work->W[i];
            var d = work->G[i] + (work->Coupled * w);
            var m = (work->Beta1 * work->M[i]) + ((1 - work->Beta1) * d);
            var v = (work->Beta2 * work->V[i]) + ((1 - work->Beta2) * (d * d));
            (work->NewM[i], work->NewV[i]) = (m, v);
            work->NewW[i] = (work->Kept * w) - (work->StepSize * (m / ((MathF.Sqrt(v) * work->Scale) + work->Epsilon)));
        }
    }

    private struct Work
    {
        public float* W,
            M,
            V,
            G,
            NewW,
            NewM,
            NewV;
        public float Coupled,
            Kept,
            Beta1,
            Beta2,
            StepSize,
            Scale,
            Epsilon;
    }
}
