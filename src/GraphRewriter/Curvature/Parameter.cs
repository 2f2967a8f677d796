using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>A use of a constant: a node and the input it feeds, seen through Identity and Transpose.</summary>
/// <param name="Node">The node.</param>
/// <param name="Input">Which input of the node; -1 where a subgraph of the node reads it.</param>
/// <param name="Transposed">Whether the two axes are swapped on the way.</param>
/// <param name="Value">The value that the node reads.</param>
internal sealed record Use(Node Node, int Input, bool Transposed, Value Value);

/// <summary>What training does with a floating-point constant.</summary>
internal enum Treatment
{
    /// <summary>The optimizer updates it.</summary>
    Trained,

    /// <summary>A parameter that an option keeps as it is; checkpoints hold it.</summary>
    Frozen,

    /// <summary>A running statistic of a batch normalization.</summary>
    Statistic,

    /// <summary>Part of the arithmetic.</summary>
    Constant,
}

/// <summary>
/// One floating-point constant of the model and what was decided about it. Identity is that of its value.
/// </summary>
/// <param name="Value">The value in the training graph.</param>
/// <param name="Initial">The elements that the model holds.</param>
/// <param name="Uses">The nodes that compute with it.</param>
/// <param name="Kind">What it is, as <see cref="ParameterReport.Kind"/>.</param>
/// <param name="Treatment">What training does with it.</param>
/// <param name="Reason">Why, where something needs saying; else empty.</param>
internal sealed record Parameter(
    Value Value,
    Tensor Initial,
    ImmutableArray<Use> Uses,
    string Kind,
    Treatment Treatment,
    string Reason
)
{
    /// <summary>Gets the name that the model gives it.</summary>
    public string Name { get; } = Value.Name;

    public ImmutableArray<long> Dims => Initial.Dims;

    public bool Trains => Treatment == Treatment.Trained;

    /// <summary>Gets whether it is an input of the graphs, so that checkpoints hold it.</summary>
    public bool IsKept => Treatment != Treatment.Constant;

    /// <summary>Gets whether weight decay applies where no pattern says otherwise: to matrices and kernels.</summary>
    public bool DecaysByDefault => Dims.Length >= 2 && Kind is not ("bias" or "normalization");

    public bool Equals(Parameter? other) => ReferenceEquals(Value, other?.Value);

    public override int GetHashCode() => Value.GetHashCode();
}
