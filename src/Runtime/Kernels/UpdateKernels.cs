using System.Numerics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>What a node's attributes say of an update.</summary>
/// <param name="Decays">Whether weight decay applies to the parameter.</param>
/// <param name="Decoupled">Whether it shrinks the parameter itself instead of entering the gradient.</param>
/// <param name="Nesterov">Whether momentum is Nesterov's.</param>
internal readonly record struct UpdateMode(bool Decays, bool Decoupled, bool Nesterov)
{
    public static UpdateMode Of(KernelInfo info, string decays = "decays") =>
        new(info.Flag(decays), info.Flag("decoupled"), info.Flag("nesterov"));
}

/// <summary>
/// A rule that updates a parameter W and its state by G + c q, elements of a gradient and a multiple of a vector, in
/// one pass over the memory.
/// </summary>
/// <typeparam name="TSelf">The rule.</typeparam>
/// <remarks>
/// A node's inputs are W, its tensors of state, G, the rule's scalars, then others. Its outputs are W' and the new
/// state.
/// </remarks>
internal unsafe interface IRule<TSelf>
    where TSelf : unmanaged, IRule<TSelf>
{
    /// <summary>Gets the number of tensors of state.</summary>
    static abstract int States { get; }

    /// <summary>Gets the number of scalars.</summary>
    static abstract int Scalars { get; }

    /// <summary>Reads inputs from an index on, for outputs from another on.</summary>
    /// <param name="context">The call.</param>
    /// <param name="input">The input that is the parameter; its state and gradient follow.</param>
    /// <param name="output">The output that is the new parameter; its new state follows.</param>
    /// <param name="dims">The parameter's dimensions.</param>
    /// <param name="mode">How it decays.</param>
    static abstract TSelf Create(
        KernelContext context,
        int input,
        int output,
        ReadOnlySpan<long> dims,
        UpdateMode mode
    );

    float* Gradient { get; }

    /// <summary>
    /// Updates elements from an offset on, with an array q of as many elements. Outputs may be the inputs' buffers.
    /// </summary>
    void Apply(long offset, long count, float c, float* q);
}

/// <summary>
/// SGD with momentum. State: V. Scalars: learning rate, momentum, weight decay.
/// V' = mu V + G + a W + c q, W' = k W - x V' + y V.
/// </summary>
/// <remarks>
/// Plain: W' = W - lr V'. Nesterov: W' = W - lr (V' - mu V + mu V'). Decoupled decay shrinks W by 1 - lr wd, coupled
/// decay adds wd W to G.
/// </remarks>
internal unsafe struct MomentumKernel : IRule<MomentumKernel>
{
    private float _mu,
        _a,
        _k,
        _x,
        _y;
    private float* _w,
        _v,
        _g;
    private float* _newW,
        _newV;

    public static int States => 1;

    public static int Scalars => 3;

    public readonly float* Gradient => _g;

    public static MomentumKernel Create(
        KernelContext context,
        int input,
        int output,
        ReadOnlySpan<long> dims,
        UpdateMode mode
    )
    {
        var (lr, mu, decay) = (context.Scalar(3), context.Scalar(4), mode.Decays ? context.Scalar(5) : 0);
        var count = KernelContext.Count(dims);
        return new()
        {
            _mu = mu,
            _a = mode.Decoupled ? 0 : decay,
            _k = mode.Decoupled ? 1 - (lr * decay) : 1,
            _x = mode.Nesterov ? lr * (1 + mu) : lr,
            _y = mode.Nesterov ? lr * mu : 0,
            _w = context.Input(input, count),
            _v = context.Input(input + 1, count),
            _g = context.Input(input + 2, count),
            _newW = context.Output(output, dims),
            _newV = context.Output(output + 1, dims),
        };
    }

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
}

/// <summary>
/// AdamW. State: m, v. Scalars: learning rate, weight decay, beta1, beta2, learning rate / (1 - beta1^t),
/// 1 / sqrt(1 - beta2^t), epsilon. d = G + c q + a W, m' = beta1 m + (1 - beta1) d, v' = beta2 v + (1 - beta2) d^2,
/// W' = k W - step m' / (scale sqrt(v') + epsilon).
/// </summary>
internal unsafe struct AdamWKernel : IRule<AdamWKernel>
{
    private float _a,
        _k,
        _beta1,
        _beta2,
        _step,
        _scale,
        _epsilon;
    private float* _w,
        _m,
        _v,
        _g;
    private float* _newW,
        _newM,
        _newV;

    public static int States => 2;

    public static int Scalars => 7;

    public readonly float* Gradient => _g;

    public static AdamWKernel Create(
        KernelContext context,
        int input,
        int output,
        ReadOnlySpan<long> dims,
        UpdateMode mode
    )
    {
        var decay = mode.Decays ? context.Scalar(5) : 0;
        var count = KernelContext.Count(dims);
        return new()
        {
            _a = mode.Decoupled ? 0 : decay,
            _k = mode.Decoupled ? 1 - (context.Scalar(4) * decay) : 1,
            _beta1 = context.Scalar(6),
            _beta2 = context.Scalar(7),
            _step = context.Scalar(8),
            _scale = context.Scalar(9),
            _epsilon = context.Scalar(10),
            _w = context.Input(input, count),
            _m = context.Input(input + 1, count),
            _v = context.Input(input + 2, count),
            _g = context.Input(input + 3, count),
            _newW = context.Output(output, dims),
            _newM = context.Output(output + 1, dims),
            _newV = context.Output(output + 2, dims),
        };
    }

    public readonly void Apply(long offset, long count, float c, float* q)
    {
        float* oldW = _w + offset,
            oldM = _m + offset,
            oldV = _v + offset,
            g = _g + offset,
            newW = _newW + offset,
            newM = _newM + offset,
            newV = _newV + offset;
        Vector<float> a = new(_a),
            k = new(_k),
            beta1 = new(_beta1),
            beta2 = new(_beta2),
            rest1 = new(1 - _beta1),
            rest2 = new(1 - _beta2);
        Vector<float> step = new(_step),
            scale = new(_scale),
            epsilon = new(_epsilon),
            cs = new(c);
        var i = 0L;
        for (; i <= count - Vector<float>.Count; i += Vector<float>.Count)
        {
            var w = Vector.Load(oldW + i);
            var d = Vector.Load(g + i) + (cs * Vector.Load(q + i)) + (a * w);
            var m = (beta1 * Vector.Load(oldM + i)) + (rest1 * d);
            var v = (beta2 * Vector.Load(oldV + i)) + (rest2 * (d * d));
            Vector.Store(m, newM + i);
            Vector.Store(v, newV + i);
            Vector.Store((k * w) - (step * (m / ((Vector.SquareRoot(v) * scale) + epsilon))), newW + i);
        }

        for (; i < count; i++)
        {
            var w = oldW[i];
            var d = g[i] + (c * q[i]) + (_a * w);
            var m = (_beta1 * oldM[i]) + ((1 - _beta1) * d);
            var v = (_beta2 * oldV[i]) + ((1 - _beta2) * (d * d));
            (newM[i], newV[i]) = (m, v);
            newW[i] = (_k * w) - (_step * (m / ((MathF.Sqrt(v) * _scale) + _epsilon)));
        }
    }
}

/// <summary>The update of a parameter by its gradient: MomentumUpdate, AdamWUpdate.</summary>
/// <typeparam name="TRule">The rule.</typeparam>
internal sealed unsafe class Update<TRule>(KernelInfo info) : Kernel
    where TRule : unmanaged, IRule<TRule>
{
    private readonly UpdateMode _mode = UpdateMode.Of(info);

    public override void Compute(KernelContext context)
    {
        var dims = context.Dims(0, stackalloc long[KernelContext.MaxRank]);
        var update = TRule.Create(context, 0, 0, dims, _mode);
        var count = KernelContext.Count(dims);
        context.ParallelFor(count, KernelContext.Parts(count), &Run, ref update);
    }

    private static void Run(void* data, int part, long from, long to)
    {
        var rule = (TRule*)data;
        rule->Apply(from, to - from, 0, rule->Gradient + from);
    }
}

/// <summary>
/// A rule with MAC: MacMomentumUpdate, MacAdamWUpdate. Inputs: those of the rule, activation means p [vectors, in],
/// scales -1 / (rho + |p|^2) [vectors, 1], and where there is a bias b, its state and its gradient. Outputs: those of
/// the rule for W, then for b.
/// </summary>
/// <typeparam name="TRule">The rule.</typeparam>
/// <remarks>
/// The gradient of unit o becomes G_o + c_o p with c_o = scale (G_o p + db_o). A row of G is read for the product and
/// again, from the cache, for
/// the update, so MAC costs no pass over the weight. Where units are columns, a block of columns stays in the cache
/// instead.
/// </remarks>
internal sealed unsafe class MacUpdate<TRule>(KernelInfo info, bool hasBias) : Kernel
    where TRule : unmanaged, IRule<TRule>
{
    private const int ColumnsOfBlock = 64;

    private static readonly int Means = 2 + TRule.States + TRule.Scalars,
        Scales = Means + 1,
        Bias = Means + 2;

    private readonly UpdateMode _mode = UpdateMode.Of(info),
        _biasMode = UpdateMode.Of(info, "bias_decays");
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
        work.Update = TRule.Create(context, 0, 0, dims, _mode);
        if (hasBias)
        {
            dims = context.Dims(Bias, buffer);
            _ = context.Input(Bias, units);
            work.Bias = TRule.Create(context, Bias, 1 + TRule.States, dims, _biasMode);
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
        public TRule Update,
            Bias;
        public long Units,
            In;
        public float* Means,
            Scales;
        public Block* Blocks;

        public readonly bool HasBias => Bias.Gradient != null;
    }
}
