namespace MacOnnx.GraphRewriter.Ir;

/// <summary>
/// A tensor on an edge of the graph: a graph input, a constant, or an output of a node. Identity is by reference.
/// </summary>
internal sealed class Value(string name)
{
    /// <summary>Gets the name, unique in the graph; empty for an output that nobody reads.</summary>
    public string Name { get; private set; } = name;

    /// <summary>Gets the node that computes the value; null for inputs and constants.</summary>
    public Node? Producer { get; set; }

    /// <summary>Gets the elements of a constant; null for everything else.</summary>
    public Tensor? Constant { get; set; }

    public ElementType Type { get; set; }

    /// <summary>Gets the shape; null until shape inference has run, or where it found nothing.</summary>
    public Shape? Shape { get; set; }

    /// <summary>Gets the shape, which shape inference must have found.</summary>
    public Shape KnownShape =>
        Shape
        ?? throw new Diagnostics.MacOnnxException(
            "MAC0105",
            Producer?.ToString() ?? Name,
            $"The shape of '{Name}' could not be inferred.",
            "Fix the model's input dimensions with --dim NAME=SIZE."
        );

    public int Rank => KnownShape.Rank;

    /// <summary>Renames the value; <see cref="Graph.Rename"/> keeps names unique.</summary>
    internal void SetName(string name) => Name = name;

    public override string ToString() => $"%{Name}";
}
