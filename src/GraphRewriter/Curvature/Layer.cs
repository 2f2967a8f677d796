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
    public long Out => Weight.Dims[OutputFirst ? 0 : 1];

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

    /// <summary>
    /// Gets why attention's values do not take a weighted mean, or how they do; empty for other layers.
    /// </summary>
    public string Remark { get; init; } = "";

    /// <summary>
    /// Gets whether the input rows are all that the layer's one matrix sees, so that they have a second moment.
    /// </summary>
    public virtual bool HasOneInput => Groups == 1;

    /// <summary>
    /// Emits a value that holds the layer's input with the inputs of a row along its last axis; all other axes number
    /// the rows.
    /// </summary>
    public virtual Term WithInputsLast(Term input) => input;

    /// <summary>
    /// Gets the units that are attention's values and take a weighted mean; null for none.
    /// </summary>
    public ValueRows? Values { get; init; }

    /// <summary>Gets what names of the layer's statistics start with.</summary>
    public string Name { get; init; } = Weight.Name;

    /// <summary>Gives the means of a layer whose units take one mean, but for attention's values.</summary>
    /// <param name="plain">Gives the mean of the others.</param>
    protected ImmutableArray<ActivationMean> WithValues(Func<ActivationMean> plain) =>
        Values switch
        {
            null => [plain()],
            { IsWhole: true } => [Values.Mean(this)],
            _ => [plain(), Values.Mean(this)],
        };

    /// <summary>Emits all input rows, [rows, <see cref="In"/>], of a value that holds the layer's input.</summary>
    public abstract Term Rows(Term input);

    /// <summary>
    /// Gives a gradient of the weight's shape as a matrix: [out, in] or [in, out], as the weight is stored.
    /// </summary>
    public Term Matrix(Term weight) => weight.V.Rank == 2 ? weight : weight.Reshape(Out, In);
}
