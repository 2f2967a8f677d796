namespace MacOnnx.GraphRewriter.Ir;

/// <summary>What a model file says of an input, an output, or a value inside a subgraph.</summary>
/// <param name="Type">The element type; <see cref="ElementType.Undefined"/> where it is left out.</param>
/// <param name="Dims">The dimensions; null where no shape is declared.</param>
internal sealed record Declaration(ElementType Type, IReadOnlyList<DeclaredDim>? Dims)
{
    public string DocString { get; init; } = "";

    public IReadOnlyList<KeyValuePair<string, string>> Metadata { get; init; } = [];

    /// <summary>Gets the declaration of what is not a tensor, kept for the exporter; null for tensors.</summary>
    public object? NotTensor { get; init; }
}

/// <summary>A declared dimension: its size, or the name of a dynamic one, or neither.</summary>
internal sealed record DeclaredDim(long? Size, string? Name);
