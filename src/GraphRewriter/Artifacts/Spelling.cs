using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>Nodes of a model file that take the place of one.</summary>
/// <param name="node">The node.</param>
internal sealed class Spelling(NodeProto node)
{
    private const string Ms = "com.microsoft.";

    private int _values;

    /// <summary>Gets the node that is replaced.</summary>
    public NodeProto Node => node;

    /// <summary>Gets the nodes that replace it; none where it stays.</summary>
    public List<NodeProto> Nodes { get; } = [];

    /// <summary>Gives an input of the node; null for one that is left out.</summary>
    public string? In(int index) => index < node.Input.Count && node.Input[index].Length > 0 ? node.Input[index] : null;

    /// <summary>Gives an attribute of the node.</summary>
    public long Integer(string name, long fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == name)?.I ?? fallback;

    /// <summary>Gives an attribute of the node.</summary>
    public string Text(string name, string fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == name)?.S.ToStringUtf8() ?? fallback;

    /// <summary>Emits an operator of ai.onnx, or of com.microsoft where that stands before its name, with one output;
    /// gives the output's name.</summary>
    public string Op(string opType, IEnumerable<string> inputs, params Attr[] attributes) =>
        Results(opType, inputs, 1, attributes)[0];

    /// <summary>Emits an operator; gives the names of its outputs.</summary>
    public string[] Results(string opType, IEnumerable<string> inputs, int outputs, params Attr[] attributes)
    {
        string[] names = [.. Enumerable.Range(0, outputs).Select(_ => $"{Stem}/{_values++}")];
        Emit(opType, inputs, names, attributes);
        return names;
    }

    /// <summary>Emits an operator that computes an output of the node, where that is asked for.</summary>
    public void Assign(int output, string opType, IEnumerable<string> inputs, params Attr[] attributes)
    {
        if (output < node.Output.Count && node.Output[output].Length > 0)
        {
            Emit(opType, inputs, [node.Output[output]], attributes);
        }
    }

    /// <summary>Emits an operator that computes all outputs of the node.</summary>
    public void AssignAll(string opType, IEnumerable<string> inputs, params Attr[] attributes) =>
        Emit(opType, inputs, node.Output, attributes);

    /// <summary>Emits a constant of one dimension.</summary>
    public string Ints(params long[] values) =>
        Op("Constant", [], Attr.Tensor("value", Tensor.From<long>([values.Length], values)));

    private string Stem => node.Output.First(o => o.Length > 0);

    private void Emit(string opType, IEnumerable<string> inputs, IEnumerable<string> outputs, Attr[] attributes)
    {
        var isMs = opType.StartsWith(Ms, StringComparison.Ordinal);
        var made = new NodeProto
        {
            OpType = isMs ? opType[Ms.Length..] : opType,
            Domain = isMs ? Ms[..^1] : "",
            Name = $"{(node.Name.Length > 0 ? node.Name : Stem)}/{opType}_{Nodes.Count}",
        };
        made.Input.AddRange(inputs);
        made.Output.AddRange(outputs);
        made.Attribute.AddRange(attributes.Select(AttributeFormat.ToProto));
        Nodes.Add(made);
    }
}
