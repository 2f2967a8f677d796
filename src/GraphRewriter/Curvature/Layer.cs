using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>A layer: rows of inputs times a weight matrix, perhaps plus a bias.</summary>
/// <param name="Weight">The weight.</param>
/// <param name="Bias">The bias, or null.</param>
/// <param name="Node">The node that multiplies with the weight; for a sliced weight the first of them.</param>
internal abstract record Layer(Parameter Weight, Parameter? Bias, Node Node)
{
    /// <summary>Gets the kind as reports name it.</summary>
    public abstract string Kind { get; }

    /// <summary>Gets whether the weight's first axis is the output.</summary>
    public abstract bool OutputFirst { get; }

    /// <summary>Gets the number of groups whose outputs see inputs of their own.</summary>
    public virtual long Groups => 1;

    /// <summary>Gets the number of outputs (units).</summary>
    public virtual long Out => Weight.Dims[OutputFirst ? 0 : 1];

    /// <summary>Gets the number of inputs that one output sees.</summary>
    public long In => Weight.Initial.ElementCount / Out;

    /// <summary>
    /// Gets the length of an input row: the inputs of one output, and a final 1 where there is a bias.
    /// </summary>
    public long RowSize => In + (Bias is null ? 0 : 1);

    /// <summary>Gets the value that the layer reads.</summary>
    public Value Input => Node.Inputs[0]!;

    /// <summary>Gets the activation means that the layer keeps.</summary>
    public abstract ImmutableArray<ActivationMean> Means { get; }

    /// <summary>
    /// Gets, for each output, the row that it takes among all rows of <see cref="Means"/>; -1 for none.
    /// </summary>
    public abstract ImmutableArray<int> MeanOfUnit { get; }

    /// <summary>Gets the number of rows of <see cref="Means"/>.</summary>
    public int MeanCount => Means.Sum(m => m.Rows);

    /// <summary>Gets what names of the layer's statistics start with.</summary>
    public string Name { get; init; } = Weight.Name;

    /// <summary>Gets the units that are attention's values and take a weighted mean; null for none.</summary>
    public ValueRows? Values { get; init; }

    /// <summary>
    /// Gets why attention's values do not take a weighted mean, or how they do; empty for other layers.
    /// </summary>
    public string Remark { get; init; } = "";

    /// <summary>
    /// Gets whether the input rows are all that the layer's one matrix sees, so that they have a second moment.
    /// </summary>
    public virtual bool HasOneInput => Groups == 1;

    /// <summary>
    /// Gets the values that hold the layer's outputs (without the bias, where another node adds it), each with the
    /// units that it holds, in its order.
    /// </summary>
    public virtual ImmutableArray<(Value Value, ImmutableArray<int> Units)> Outputs =>
        [(Node.Outputs[0], [.. Enumerable.Range(0, (int)Out)])];

    /// <summary>Gets the axis of an output that is its units.</summary>
    public virtual int UnitAxis(Value output) => output.Rank - 1;

    /// <summary>Gives the means of a layer whose units take one mean each, but for attention's values.</summary>
    /// <param name="plain">Makes the mean of all other units.</param>
    protected ImmutableArray<ActivationMean> WithValues(Func<ActivationMean> plain) =>
        Values switch
        {
            null => [plain()],
            { IsWhole: true } => [Values.Mean(this)],
            _ => [plain(), Values.Mean(this)],
        };

    /// <summary>Emits all input rows, [rows, <see cref="In"/>], of a value that holds the layer's input.</summary>
    public abstract Term Rows(Term input);

    /// <summary>Emits a tensor like an output as rows, [rows, units]: one for each input row.</summary>
    public virtual Term OutputRows(Term output) => Node.Outputs[0].Rank == 2 ? output : output.Reshape(-1, Out);

    /// <summary>
    /// Gives a gradient of the weight's shape as a matrix: [out, in] or [in, out], as the weight is stored.
    /// </summary>
    public Term Matrix(Term weight) => Weight.Dims.Length == 2 ? weight : weight.Reshape(Out, In);

    /// <summary>
    /// Joins the gradients of weight and bias to one matrix: [out, <see cref="RowSize"/>], or the other way round as
    /// the weight is stored.
    /// </summary>
    public Term Joined(Term weight, Term? bias) =>
        bias is { } db
            ? weight.B.Concat(
                [Matrix(weight), OutputFirst ? db.Reshape(Out, 1) : db.Reshape(1, Out)],
                OutputFirst ? 1 : 0
            )
            : Matrix(weight);

    /// <summary>Takes apart what <see cref="Joined"/> makes: the parts have the shapes of weight and bias.</summary>
    public (Term Weight, Term? Bias) Parted(Term joined)
    {
        if (Bias is null)
        {
            return (joined.ReshapeTo(Weight.Value), null);
        }

        var b = joined.B;
        Term Part(long from, long to) =>
            new(b, b.Op("Slice", [joined.V, b.Int64s(from), b.Int64s(to), b.Int64s(OutputFirst ? 1 : 0)]));
        return (Part(0, In).ReshapeTo(Weight.Value), Part(In, RowSize).ReshapeTo(Bias.Value));
    }
}
