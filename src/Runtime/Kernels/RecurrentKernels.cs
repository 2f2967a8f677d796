using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MacOnnx.Runtime.Kernels;

/// <summary>The cells that have a kernel.</summary>
internal enum RecurrentKind
{
    Rnn,
    Gru,
    Lstm,
}

/// <summary>
/// The steps of a recurrent operator's direction. Inputs: the inputs' part of the pre-activations P [T, N, k H]; R
/// [k H, H]; the first states [N, H]; for GRU the bias [H] of the product that the reset gate multiplies; where
/// sequences have ends, 1 for steps before them, else 0 [T, N, 1]. Outputs: the states after each step [T, N, H]; the
/// gates [T, N, k H] of GRU and LSTM; the product of GRU [T, N, H].
/// </summary>
internal sealed unsafe class RecurrentForward(KernelInfo info, RecurrentKind kind, bool hasMask) : Kernel
{
    private readonly bool _isReversed = info.Flag("reversed");
    private readonly PanelPlan _plan = new();

    public override void Compute(KernelContext context)
    {
        Span<long> buffer = stackalloc long[KernelContext.MaxRank];
        var work = Recurrence.Of(context, kind, input: 0, weights: 1, _isReversed);
        long[] gates = [.. context.Dims(0, buffer)],
            states = [work.Steps, work.Batch, work.Hidden];
        var (perState, all) = (work.Batch * work.Hidden, work.Steps * work.Batch * work.Hidden);
        var next = 2;
        work.P = context.Input(0, all * work.Gates);
        var r = context.Input(1, work.Gates * work.Hidden * work.Hidden);
        work.H0 = context.Input(next++, perState);
        work.C0 = kind == RecurrentKind.Lstm ? context.Input(next++, perState) : null;
        work.Bias = kind == RecurrentKind.Gru ? context.Input(next++, work.Hidden) : null;
        work.Mask = hasMask ? context.Input(next, work.Steps * work.Batch) : null;
        work.H = context.Output(0, states);
        switch (kind)
        {
            case RecurrentKind.Lstm:
                work.C = context.Output(1, states);
                work.G = context.Output(2, gates);
                break;
            case RecurrentKind.Gru:
                work.G = context.Output(1, gates);
                work.Q = context.Output(2, states);
                break;
            case RecurrentKind.Rnn:
            default:
                break;
        }

        work.Panels = _plan.Pack(r, work.Hidden, work.Gates * work.Hidden, isTransposed: true);
        work.Run(context, isForward: true);
    }
}

/// <summary>
/// The gradients of <see cref="RecurrentForward"/>. Inputs: the gradient of the hidden states [T, N, H]; those of the
/// last states [N, H]; R; the first states; the outputs of the forward pass; the mask. Outputs: the gradients of the
/// first states; of the pre-activations [T, N, k H] as P adds to them; for GRU also as the hidden state does.
/// </summary>
internal sealed unsafe class RecurrentBackward(KernelInfo info, RecurrentKind kind, bool hasMask) : Kernel
{
    private readonly bool _isReversed = info.Flag("reversed");
    private readonly PanelPlan _plan = new();

    public override void Compute(KernelContext context)
    {
        Span<long> buffer = stackalloc long[KernelContext.MaxRank];
        var states = kind == RecurrentKind.Lstm ? 2 : 1;
        var work = Recurrence.Of(context, kind, input: 0, weights: 1 + states, _isReversed);
        var (perState, all) = (work.Batch * work.Hidden, work.Steps * work.Batch * work.Hidden);
        var next = 0;
        work.DH = context.Input(next++, all);
        work.DHLast = context.Input(next++, perState);
        work.DCLast = kind == RecurrentKind.Lstm ? context.Input(next++, perState) : null;
        var r = context.Input(next++, work.Gates * work.Hidden * work.Hidden);
        work.H0 = context.Input(next++, perState);
        work.C0 = kind == RecurrentKind.Lstm ? context.Input(next++, perState) : null;
        work.H = context.Input(next++, all);
        work.C = kind == RecurrentKind.Lstm ? context.Input(next++, all) : null;
        work.G = kind == RecurrentKind.Rnn ? null : context.Input(next++, all * work.Gates);
        work.Q = kind == RecurrentKind.Gru ? context.Input(next++, all) : null;
        work.Mask = hasMask ? context.Input(next, work.Steps * work.Batch) : null;
        long[] first = [.. context.Dims(1, buffer)],
            gates = [work.Steps, work.Batch, work.Gates * work.Hidden];
        var output = 0;
        work.DH0 = context.Output(output++, first);
        work.DC0 = kind == RecurrentKind.Lstm ? context.Output(output++, first) : null;
        work.DP = context.Output(output++, gates);
        work.DS = kind == RecurrentKind.Gru ? context.Output(output, gates) : work.DP;
        work.Panels = _plan.Pack(r, work.Gates * work.Hidden, work.Hidden, isTransposed: false);
        work.Run(context, isForward: false);
    }
}

/// <summary>
/// One call of a recurrent kernel. Samples do not meet, so each part takes some of them through all steps: tiles of
/// eight, times the weights in panels.
/// </summary>
internal unsafe struct Recurrence
{
    private const int Tile = Panels.Rows;

    public RecurrentKind Kind;
    public bool IsReversed;
    public long Steps,
        Batch,
        Hidden,
        Gates;
    public Panels Panels;
    public float* P,
        H0,
        C0,
        Bias,
        Mask,
        H,
        C,
        G,
        Q,
        DH,
        DHLast,
        DCLast,
        DH0,
        DC0,
        DP,
        DS;

    /// <summary>Reads the sizes.</summary>
    public static Recurrence Of(KernelContext context, RecurrentKind kind, int input, int weights, bool isReversed)
    {
        Span<long> buffer = stackalloc long[KernelContext.MaxRank];
        var gates = kind switch
        {
            RecurrentKind.Lstm => 4,
            RecurrentKind.Gru => 3,
            RecurrentKind.Rnn => 1,
            _ => throw new InvalidOperationException($"There is no kernel for {kind}."),
        };
        var r = context.Dims(weights, buffer);
        var hidden = r.Length == 2 && r[0] == gates * r[1] ? r[1] : 0;
        var x = context.Dims(input, buffer);
        return hidden > 0 && x.Length == 3 && x[2] > 0
            ? new Recurrence
            {
                Kind = kind,
                IsReversed = isReversed,
                Steps = x[0],
                Batch = x[1],
                Hidden = hidden,
                Gates = gates,
            }
            : throw new InvalidOperationException("The recurrent weights do not fit the tensors.");
    }

    public void Run(KernelContext context, bool isForward)
    {
        var tiles = (Batch + Tile - 1) / Tile;

        // Two tiles at once read the weights half as often; with fewer than four, two parts are worth more.
        var parts = (int)Math.Min(tiles, Math.Max(2, tiles / 2));
        context.ParallelFor(
            tiles,
            Math.Max(1, parts),
            (Simd.Width, isForward) switch
            {
                (512, true) => &Forward<Simd512, Vector512<float>>,
                (512, false) => &Backward<Simd512, Vector512<float>>,
                (256, true) => &Forward<Simd256, Vector256<float>>,
                (256, false) => &Backward<Simd256, Vector256<float>>,
                (_, true) => &Forward<Simd128, Vector128<float>>,
                _ => &Backward<Simd128, Vector128<float>>,
            },
            ref this
        );
    }

    private readonly long Step(long step, bool isForward) => IsReversed == isForward ? Steps - 1 - step : step;

    private static void Forward<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        var w = *(Recurrence*)data;
        var (first, end) = (from * Tile, Math.Min(to * Tile, w.Batch));
        var (depth, padded, gates) = (w.Hidden * Tile, w.Panels.Padded, w.Gates * w.Hidden);
        var rows = Scratch.OfPart((to - from) * (depth + (Tile * padded)));
        var sums = rows + ((to - from) * depth);
        new Span<float>(rows, checked((int)((to - from) * depth))).Clear();
        PackRows(w.H0, w.Hidden, first, end, rows);
        for (var step = 0L; step < w.Steps; step++)
        {
            var t = w.Step(step, isForward: true);
            var before = step == 0 ? -1 : w.Step(step - 1, isForward: true);
            var adds = w.Kind != RecurrentKind.Gru;
            if (adds)
            {
                for (var n = first; n < end; n++)
                {
                    Unsafe.CopyBlock(
                        sums + ((n - first) * padded),
                        w.P + (((t * w.Batch) + n) * gates),
                        (uint)(gates * sizeof(float))
                    );
                }
            }

            w.Panels.Multiply<S, V>(rows, end - first, sums, adds);
            for (var n = first; n < end; n++)
            {
                w.ForwardRow(t, before, n, sums + ((n - first) * padded));
            }

            PackRows(w.H + (t * w.Batch * w.Hidden), w.Hidden, first, end, rows);
        }
    }

    private static void Backward<S, V>(void* data, int part, long from, long to)
        where S : struct, ISimd<V>
        where V : struct
    {
        var w = *(Recurrence*)data;
        var (first, end) = (from * Tile, Math.Min(to * Tile, w.Batch));
        var (gates, padded, count) = (w.Gates * w.Hidden, w.Panels.Padded, (to - from) * Tile);
        var rows = Scratch.OfPart(count * (gates + padded + w.Hidden));
        var dH = rows + (count * gates);
        var dC = dH + (count * padded);
        new Span<float>(rows, checked((int)(count * gates))).Clear();
        for (var n = first; n < end; n++)
        {
            var size = (uint)(w.Hidden * sizeof(float));
            Unsafe.CopyBlock(dH + ((n - first) * padded), w.DHLast + (n * w.Hidden), size);
            if (w.DCLast != null)
            {
                Unsafe.CopyBlock(dC + ((n - first) * w.Hidden), w.DCLast + (n * w.Hidden), size);
            }
        }

        for (var step = 0L; step < w.Steps; step++)
        {
            var t = w.Step(step, isForward: false);
            var before = step == w.Steps - 1 ? -1 : w.Step(step + 1, isForward: false);
            for (var n = first; n < end; n++)
            {
                w.BackwardRow(t, before, n, dH + ((n - first) * padded), dC + ((n - first) * w.Hidden));
            }

            PackRows(w.DS + (t * w.Batch * gates), gates, first, end, rows);
            w.Panels.Multiply<S, V>(rows, end - first, dH, adds: true);
        }

        for (var n = first; n < end; n++)
        {
            var size = (uint)(w.Hidden * sizeof(float));
            Unsafe.CopyBlock(w.DH0 + (n * w.Hidden), dH + ((n - first) * padded), size);
            if (w.DC0 != null)
            {
                Unsafe.CopyBlock(w.DC0 + (n * w.Hidden), dC + ((n - first) * w.Hidden), size);
            }
        }
    }

    /// <summary>Writes samples' rows as columns of eight, a tile after the other.</summary>
    private static void PackRows(float* source, long length, long first, long end, float* target)
    {
        for (var n = first; n < end; n += Tile, target += Tile * length)
        {
            Planes.Transpose(source + (n * length), length, Math.Min(Tile, end - n), target, Tile, length);
        }
    }

    /// <summary>Gives a sample's state before a step: the first one where there is no step before.</summary>
    private readonly float* Before(float* states, float* first, long before, long n) =>
        before < 0 ? first + (n * Hidden) : states + (((before * Batch) + n) * Hidden);

    private readonly void ForwardRow(long t, long before, long n, float* x)
    {
        var at = (t * Batch) + n;
        var isValid = Mask == null || Mask[at] != 0;
        float* h = H + (at * Hidden),
            lastH = Before(H, H0, before, n),
            g = G + (at * Gates * Hidden),
            p = P + (at * Gates * Hidden),
            q = Q + (at * Hidden),
            c = C + (at * Hidden),
            lastC = Kind == RecurrentKind.Lstm ? Before(C, C0, before, n) : null;
        for (var i = 0L; i < Hidden; i += Vector<float>.Count)
        {
            var part = new Part(i, Hidden);
            switch (Kind)
            {
                case RecurrentKind.Lstm:
                    var (input, output) = (VectorMath.Sigmoid(part.Load(x)), VectorMath.Sigmoid(part.Load(x, 1)));
                    var (forget, cell) = (VectorMath.Sigmoid(part.Load(x, 2)), VectorMath.Tanh(part.Load(x, 3)));
                    var state = isValid ? (forget * part.Load(lastC)) + (input * cell) : part.Load(lastC);
                    part.Store(input, g);
                    part.Store(output, g, 1);
                    part.Store(forget, g, 2);
                    part.Store(cell, g, 3);
                    part.Store(state, c);
                    part.Store(isValid ? output * VectorMath.Tanh(state) : part.Load(lastH), h);
                    break;
                case RecurrentKind.Gru:
                    var (update, reset) = (
                        VectorMath.Sigmoid(part.Load(p) + part.Load(x)),
                        VectorMath.Sigmoid(part.Load(p, 1) + part.Load(x, 1))
                    );
                    var product = part.Load(x, 2) + part.Load(Bias);
                    var made = VectorMath.Tanh(part.Load(p, 2) + (reset * product));
                    part.Store(update, g);
                    part.Store(reset, g, 1);
                    part.Store(made, g, 2);
                    part.Store(product, q);
                    part.Store(isValid ? made + (update * (part.Load(lastH) - made)) : part.Load(lastH), h);
                    break;
                case RecurrentKind.Rnn:
                default:
                    part.Store(isValid ? VectorMath.Tanh(part.Load(x)) : part.Load(lastH), h);
                    break;
            }
        }
    }

    /// <summary>
    /// Gives the gradients of a sample's pre-activations; leaves in dH and dC what flows back beside the product with
    /// the recurrent weights.
    /// </summary>
    private readonly void BackwardRow(long t, long before, long n, float* dH, float* dC)
    {
        var at = (t * Batch) + n;
        float* dP = DP + (at * Gates * Hidden),
            dS = DS + (at * Gates * Hidden),
            dY = DH + (at * Hidden),
            h = H + (at * Hidden),
            lastH = Before(H, H0, before, n),
            g = G + (at * Gates * Hidden),
            q = Q + (at * Hidden),
            c = C + (at * Hidden),
            lastC = Kind == RecurrentKind.Lstm ? Before(C, C0, before, n) : null;
        if (Mask != null && Mask[at] == 0)
        {
            VectorMath.Add(dY, dH, Hidden);
            new Span<float>(dP, (int)(Gates * Hidden)).Clear();
            new Span<float>(dS, (int)(Gates * Hidden)).Clear();
            return;
        }

        var one = Vector<float>.One;
        for (var i = 0L; i < Hidden; i += Vector<float>.Count)
        {
            var part = new Part(i, Hidden);
            var d = part.Load(dH) + part.Load(dY);
            switch (Kind)
            {
                case RecurrentKind.Lstm:
                    var (input, output, forget, cell) = (
                        part.Load(g),
                        part.Load(g, 1),
                        part.Load(g, 2),
                        part.Load(g, 3)
                    );
                    var y = VectorMath.Tanh(part.Load(c));
                    var dCell = part.Load(dC) + (d * output * (one - (y * y)));
                    part.Store(dCell * cell * input * (one - input), dP);
                    part.Store(d * y * output * (one - output), dP, 1);
                    part.Store(dCell * part.Load(lastC) * forget * (one - forget), dP, 2);
                    part.Store(dCell * input * (one - (cell * cell)), dP, 3);
                    part.Store(dCell * forget, dC);
                    part.Store(Vector<float>.Zero, dH);
                    break;
                case RecurrentKind.Gru:
                    var (update, reset, made) = (part.Load(g), part.Load(g, 1), part.Load(g, 2));
                    var dUpdate = d * (part.Load(lastH) - made) * update * (one - update);
                    var dMade = d * (one - update) * (one - (made * made));
                    var dReset = dMade * part.Load(q) * reset * (one - reset);
                    part.Store(dUpdate, dP);
                    part.Store(dReset, dP, 1);
                    part.Store(dMade, dP, 2);
                    part.Store(dUpdate, dS);
                    part.Store(dReset, dS, 1);
                    part.Store(dMade * reset, dS, 2);
                    part.Store(d * update, dH);
                    break;
                case RecurrentKind.Rnn:
                default:
                    var state = part.Load(h);
                    part.Store(d * (one - (state * state)), dP);
                    part.Store(Vector<float>.Zero, dH);
                    break;
            }
        }
    }

    /// <summary>A vector's worth of a row of H, perhaps cut off, in each of several gates.</summary>
    private readonly struct Part(long first, long hidden)
    {
        private readonly int _count = (int)Math.Min(Vector<float>.Count, hidden - first);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public Vector<float> Load(float* row, long gate = 0) => VectorMath.Load(row + (gate * hidden) + first, _count);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public void Store(Vector<float> values, float* row, long gate = 0) =>
            VectorMath.Store(values, row + (gate * hidden) + first, _count);
    }
}
