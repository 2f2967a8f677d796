using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>A use of a constant: a node and the input it feeds, seen through Identity and Transpose.</summary>
/// <param name="Node">The node.</param>
/// <param name="Input">Which input of the node.</param>
/// <param name="Transposed">Whether the two axes are swapped on the way.</param>
/// <param name="Value">The value that the node reads.</param>
internal readonly record struct Use(Node Node, int Input, bool Transposed, Value Value);

/// <summary>One floating-point constant of the model and what is decided about it.</summary>
internal sealed class Parameter(Value value, IReadOnlyList<Use> uses)
{
    public Value Value { get; } = value;

    public string Name => Value.Name;

    public IReadOnlyList<Use> Uses { get; } = uses;

    /// <summary>Gets or sets the kind, as <see cref="ParameterReport.Kind"/>.</summary>
    public string Kind { get; set; } = "other";

    /// <summary>Gets or sets whether the optimizer updates it.</summary>
    public bool Trains { get; set; }

    /// <summary>Gets or sets the treatment where it does not train: frozen, statistic or constant.</summary>
    public string Fixed { get; set; } = "";

    /// <summary>Gets or sets why, where something needs saying.</summary>
    public string Reason { get; set; } = "";

    /// <summary>
    /// Gets or sets the layer that the parameter is the weight or bias of; null for plain parameters.
    /// </summary>
    public Layer? Layer { get; set; }

    /// <summary>Gets or sets the gradient in the training graph.</summary>
    public Value? Gradient { get; set; }

    public ParameterReport Report() =>
        new(
            Name,
            [.. Value.KnownShape.Dims.Select(d => d.Size)],
            Kind,
            Trains
                ? Layer is null
                    ? "plain"
                    : $"MAC {Layer.Kind}"
                : Fixed,
            Reason,
            [.. Uses.Select(u => u.Node.ToString()).Distinct()]
        );
}

/// <summary>A layer that MAC preconditions: rows of inputs, a weight, perhaps a bias.</summary>
/// <param name="Kind"><c>dense</c> or <c>conv</c>.</param>
/// <param name="Weight">The weight; [out, in] or [in, out], a convolution's [out, in/groups, kernel...].</param>
/// <param name="Bias">The bias, or null.</param>
/// <param name="OutputFirst">Whether the weight's first axis is the output.</param>
/// <param name="Groups">The groups of a convolution; 1 for dense layers.</param>
/// <param name="Node">The node that multiplies.</param>
internal sealed record Layer(string Kind, Parameter Weight, Parameter? Bias, bool OutputFirst, int Groups, Node Node)
{
    /// <summary>Gets the outputs of the layer.</summary>
    public long Out => Weight.Value.KnownShape[OutputFirst ? 0 : 1].Size;

    /// <summary>Gets the inputs that one output sees.</summary>
    public long In => Weight.Value.KnownShape.Count / Out;

    /// <summary>
    /// Gets or sets whether the exact inverse of the second moment of its input preconditions the layer, instead of its
    /// mean input.
    /// </summary>
    public bool IsExact { get; set; }

    /// <summary>Gets the size of the second moment: the inputs of one output, and one more for the bias.</summary>
    public long MomentSize => In + (Bias is null ? 0 : 1);

    /// <summary>
    /// Gets or sets the units that are attention's values and take a mean input of their own; null for none.
    /// </summary>
    public ValueRows? Values { get; set; }

    /// <summary>
    /// Gets the products that take slices of the weight, each a layer with an input of its own; empty where one product
    /// takes all of it.
    /// </summary>
    public IReadOnlyList<Layer> Slices { get; init; } = [];

    /// <summary>Gets, for a slice, whether each unit of the weight is one of its own; default for all.</summary>
    public ImmutableArray<bool> Units { get; init; }

    /// <summary>Gets what names of the layer's statistics start with.</summary>
    public string Name { get; init; } = Weight.Name;

    /// <summary>Gets whether units differ in which mean input they take.</summary>
    public bool HasChoice => Slices.Count > 0 || Values is { IsWhole: false };

    /// <summary>
    /// Gets the number of mean inputs that the layer keeps: one, one for each group, a plain and a weighted one, or
    /// those of its slices.
    /// </summary>
    public int Vectors => HasChoice ? Masks().Count() : Groups;

    /// <summary>Gives, for each mean input, whether each unit takes it.</summary>
    public IEnumerable<bool[]> Masks()
    {
        if (Slices.Count > 0)
        {
            return Slices.SelectMany(s => s.Masks());
        }

        bool[] own = Units.IsDefault ? [.. Enumerable.Repeat(true, (int)Out)] : [.. Units];
        return Values is { IsWhole: false } values
            ?
            [
                [.. own.Zip(values.Units, (o, v) => o && !v)],
                [.. values.Units],
            ]
            : [own];
    }

    /// <summary>Gets the layer's input.</summary>
    public Value Input => Node.Inputs[0]!;
}
