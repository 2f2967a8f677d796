using MacOnnx.GraphRewriter.Import.Proto;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>One operator call.</summary>
internal sealed class Node(
    string opType,
    string domain,
    string name,
    IEnumerable<Value?> inputs,
    IEnumerable<AttributeProto> attributes
)
{
    public string OpType { get; } = opType;

    /// <summary>Gets the domain; empty for ai.onnx.</summary>
    public string Domain { get; } = domain;

    public string Name { get; set; } = name;

    /// <summary>Gets the inputs in ONNX order; null where an optional input is left out.</summary>
    public List<Value?> Inputs { get; } = [.. inputs];

    /// <summary>Gets the outputs in ONNX order.</summary>
    public List<Value> Outputs { get; } = [];

    public Attributes Attributes { get; } = new(attributes);

    /// <summary>Gets the outer values that the node's subgraphs read (If, Loop, Scan).</summary>
    public List<Value> Captured { get; } = [];

    /// <summary>
    /// Gets or sets the function that defines the operator for this call; null for operators that are defined
    /// elsewhere.
    /// </summary>
    public FunctionProto? Function { get; set; }

    /// <summary>
    /// Gets where the node comes from: "rule source-node" for emitted nodes, empty for the model's own.
    /// </summary>
    public string Origin { get; init; } = "";

    public string DocString { get; init; } = "";

    public IReadOnlyList<StringStringEntryProto> Metadata { get; init; } = [];

    /// <summary>Gets the operator's name as diagnostics show it, with its domain where that is not ai.onnx.</summary>
    public string QualifiedOp => Domain.Length == 0 ? OpType : $"{Domain}::{OpType}";

    public IEnumerable<Value> Reads => Inputs.OfType<Value>().Concat(Captured);

    public bool Is(string opType) => Domain.Length == 0 && OpType == opType;

    /// <summary>Gives an input, or null where it is left out or the node has fewer.</summary>
    public Value? Input(int index) => index < Inputs.Count ? Inputs[index] : null;

    public override string ToString() => $"{QualifiedOp} '{(Name.Length > 0 ? Name : Outputs.FirstOrDefault()?.Name)}'";
}
