using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>One direction of a recurrent operator: what a time step computes, and its gradient.</summary>
/// <remarks>
/// N is the batch, T the number of time steps, H the hidden size, k the number of gates. A step reads the inputs'
/// part p = x W^T + b [N, k H] of all pre-activations, which needs no recurrence, and the states [N, H].
/// </remarks>
internal abstract class RecurrentCell
{
    private readonly CellActivation[] _activations;

    /// <summary>Initializes a new instance of the <see cref="RecurrentCell"/> class.</summary>
    /// <param name="node">The recurrent node.</param>
    /// <param name="direction">0, or 1 for the second of two directions.</param>
    /// <param name="defaults">The activations where the node names none.</param>
    protected RecurrentCell(Node node, int direction, params string[] defaults)
    {
        var directions = Recurrent.Directions(node.Attributes);
        _activations = CellActivation.Of(node, defaults, directions)[
            (direction * defaults.Length)..((direction + 1) * defaults.Length)
        ];
        IsReversed = direction == 1 || node.Attributes.Text("direction", "forward") == "reverse";
        Hidden = node.Inputs[Recurrent.R]!.KnownShape[-1].Size;
        Clip = node.Attributes.Float("clip", 0);
        IsPlain = Clip == 0 && _activations.Select(a => a.Name).SequenceEqual(defaults);
    }

    /// <summary>Gets whether the steps go from the last input to the first.</summary>
    public bool IsReversed { get; }

    /// <summary>Gets H.</summary>
    public long Hidden { get; }

    /// <summary>Gets whether the cell has its default activations and clips nothing.</summary>
    public bool IsPlain { get; }

    /// <summary>Gets what names of kernels start with.</summary>
    public abstract string Name { get; }

    /// <summary>Gets the number of gates.</summary>
    public abstract int Gates { get; }

    /// <summary>Gets the number of states: the hidden one first.</summary>
    public virtual int StateCount => 1;

    /// <summary>Gets what the cell keeps of each step beside the states after it.</summary>
    protected abstract int KeptCount { get; }

    /// <summary>Gets the number of tensors [T, ...] that the backward pass reads.</summary>
    public int SavedCount => StateCount + KeptCount + (NeedsInput ? 1 : 0);

    /// <summary>Gets whether slopes need the pre-activations, which are then kept last.</summary>
    protected bool NeedsInput => Clip > 0 || _activations.Take(Slopes).Any(a => a.NeedsInput);

    /// <summary>Gets how many of the activations are of pre-activations.</summary>
    protected virtual int Slopes => _activations.Length;

    private float Clip { get; }

    /// <summary>Makes the cell of a recurrent node, or of one that stands for it.</summary>
    public static RecurrentCell Of(Node node, int direction) =>
        node.OpType[..3] switch
        {
            "LST" => new LstmCell(node, direction),
            "GRU" => new GruCell(node, direction),
            _ => new RnnCell(node, direction),
        };

    /// <summary>Whether kernels compute the cell.</summary>
    /// <param name="hasExtra">Whether a step needs more than the recurrent weights.</param>
    public virtual bool HasKernel(bool hasExtra) => IsPlain && !hasExtra;

    /// <summary>
    /// Gives what inputs add to the pre-activations beside x W^T, and what a step needs beside the recurrent weights.
    /// </summary>
    /// <param name="bias">The direction's biases [2 k H]; null for none.</param>
    /// <param name="peepholes">The direction's peephole weights [3 H]; null for none.</param>
    public abstract (Term? Bias, Term? Extra) Operands(Term? bias, Term? peepholes);

    /// <summary>Emits all steps.</summary>
    /// <param name="b">The builder.</param>
    /// <param name="p">The inputs' part of the pre-activations, [T, N, k H].</param>
    /// <param name="r">The recurrent weights, [k H, H].</param>
    /// <param name="extra">What <see cref="Operands"/> says.</param>
    /// <param name="mask">1 for the valid steps of each sequence, 0 for others, [T, N, 1]; null where all are.</param>
    /// <param name="initial">The first states, [N, H].</param>
    /// <returns>The states after each step, [T, N, H], and what else is kept.</returns>
    public Value[] Forward(GraphBuilder b, Value p, Value r, Value? extra, Value? mask, Value[] initial)
    {
        var transposed = new Term(b, r).Transpose(1, 0);
        var (_, results) = b.Scan(
            [.. initial.Select(s => new Term(b, s))],
            mask is null ? [new(b, p)] : [new(b, p), new(b, mask)],
            IsReversed,
            (inner, states, slices) =>
            {
                var (next, kept) = Step(slices[0], states, new(inner, transposed.V), In(inner, extra));
                next = mask is null ? next : [.. next.Zip(states, (n, s) => (n * slices[1]) + (s * (1 - slices[1])))];
                return (next, [.. next, .. kept]);
            }
        );
        return [.. results.Select(t => t.V)];
    }

    /// <summary>Emits the gradients of all steps, from the last to the first.</summary>
    /// <param name="b">The builder.</param>
    /// <param name="dH">The gradient of the hidden states, [T, N, H].</param>
    /// <param name="dLast">The gradients of the last states, [N, H].</param>
    /// <param name="r">The recurrent weights, [k H, H].</param>
    /// <param name="extra">What <see cref="Operands"/> says.</param>
    /// <param name="mask">The mask of the forward pass.</param>
    /// <param name="initial">The first states, [N, H].</param>
    /// <param name="saved">What <see cref="Forward"/> gave.</param>
    /// <returns>
    /// The gradients of the first states; and of the pre-activations [T, N, k H], as the inputs add to them and, where
    /// that differs, as the hidden states do.
    /// </returns>
    public Value[] Backward(
        GraphBuilder b,
        Value dH,
        Value[] dLast,
        Value r,
        Value? extra,
        Value? mask,
        Value[] initial,
        Value[] saved
    )
    {
        Term[] before = [.. initial.Zip(saved, (first, all) => Before(new(b, all), new(b, first)))];
        Term[] sequences = [new(b, dH), .. before, .. saved.Select(s => new Term(b, s))];
        var (first, results) = b.Scan(
            [.. dLast.Select(s => new Term(b, s))],
            mask is null ? sequences : [.. sequences, new(b, mask)],
            !IsReversed,
            (inner, states, slices) =>
            {
                states[0] += slices[0];
                Term[] active = mask is null ? states : [.. states.Select(s => s * slices[^1])];
                var (next, gradients) = Back(
                    active,
                    slices[1..(1 + StateCount)],
                    slices[(1 + StateCount)..(1 + StateCount + SavedCount)],
                    new(inner, r),
                    In(inner, extra)
                );
                return (mask is null ? next : [.. next.Zip(states, (n, s) => n + (s * (1 - slices[^1])))], gradients);
            }
        );
        return [.. first.Concat(results).Select(t => t.V)];
    }

    /// <summary>Gives what a state was before each step, [T, N, H], of what it was after it.</summary>
    public Term Before(Term states, Term first)
    {
        var (from, to) = IsReversed ? (1L, long.MaxValue) : (0L, -1L);
        var others = new Term(
            states.B,
            states.B.Op("Slice", [states, states.B.Int64s(from), states.B.Int64s(to), states.B.Int64s(0)])
        );
        var one = first.Unsqueeze(0);
        return states.B.Concat(IsReversed ? [others, one] : [one, others], 0);
    }

    /// <summary>
    /// Gives the gradient of an extra operand of what <see cref="Backward"/> gave of the pre-activations.
    /// </summary>
    /// <param name="gradients">The gradients of the pre-activations.</param>
    /// <param name="before">The states before each step.</param>
    /// <param name="saved">What <see cref="Forward"/> gave.</param>
    public virtual Term? Peepholes(Term[] gradients, Term[] before, Term[] saved) => null;

    /// <summary>Gives the gradient of the recurrent weights, [k H, H].</summary>
    /// <param name="gradients">The gradients of the pre-activations.</param>
    /// <param name="hidden">The hidden state before each step.</param>
    /// <param name="saved">What <see cref="Forward"/> gave.</param>
    public virtual Term Weights(Term[] gradients, Term hidden, Term[] saved) => Product(gradients[^1], hidden);

    /// <summary>Gives the sum over time steps and batch of the outer products of two tensors' rows.</summary>
    public static Term Product(Term rows, Term columns) => Flat(rows).MatMul(Flat(columns), transposeThis: true);

    protected abstract (Term[] Next, Term[] Kept) Step(Term p, Term[] states, Term r, Term? extra);

    protected abstract (Term[] Before, Term[] Gradients) Back(
        Term[] gradients,
        Term[] before,
        Term[] saved,
        Term r,
        Term? extra
    );

    /// <summary>Applies an activation to a pre-activation.</summary>
    protected Term Activate(int activation, Term x) =>
        _activations[activation].Apply(activation < Slopes ? Clipped(x) : x);

    /// <summary>Gives what flows back through an activation.</summary>
    /// <param name="activation">Which.</param>
    /// <param name="gradient">The gradient of its result.</param>
    /// <param name="x">The pre-activation, where it is kept.</param>
    /// <param name="y">Its result.</param>
    protected Term Through(int activation, Term gradient, Term? x, Term y)
    {
        var clips = Clip > 0 && activation < Slopes;
        var slope = gradient * _activations[activation].Slope(clips ? Clipped(x!.Value) : x ?? y, y);
        return clips ? slope * x!.Value.Abs().Op("Less", y.Scalar(Clip)).AsNumber(y.Type) : slope;
    }

    /// <summary>Cuts the last axis into parts of H.</summary>
    protected Term[] Parts(Term x, int count)
    {
        if (count == 1)
        {
            return [x];
        }

        var sizes = x.B.Int64s([.. Enumerable.Repeat(Hidden, count)]);
        return
        [
            .. x.B.Node("Split", "", [x, sizes], count, Attr.Int("axis", -1)).Outputs.Select(o => new Term(x.B, o)),
        ];
    }

    /// <summary>Joins parts along the last axis.</summary>
    protected static Term Joined(params Term[] parts) => parts.Length == 1 ? parts[0] : parts[0].B.Concat(parts, -1);

    /// <summary>Gives the pre-activations of the gates, where they are kept.</summary>
    protected Term?[] Inputs(Term[] saved) =>
        NeedsInput ? [.. Parts(saved[^1], Gates).Select(p => (Term?)p)] : new Term?[Gates];

    /// <summary>Adds the pre-activations to what is kept, where slopes need them.</summary>
    protected Term[] WithInputs(Term[] kept, params Term[] inputs) => NeedsInput ? [.. kept, Joined(inputs)] : kept;

    private Term Clipped(Term x) => Clip > 0 ? x.Op("Clip", x.Scalar(-Clip), x.Scalar(Clip)) : x;

    private static Term? In(GraphBuilder b, Value? value) => value is null ? null : new Term(b, value);

    private static Term Flat(Term x) => new(x.B, x.B.Op("Flatten", [x.V], Attr.Int("axis", 2)));
}
