using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using Kind = MacOnnx.GraphRewriter.Import.Proto.AttributeProto.Types.AttributeType;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>What upgrades know of the graph that a node is in.</summary>
internal sealed class UpgradeScope
{
    private readonly Dictionary<string, TensorProto> _constants = new(StringComparer.Ordinal);
    private readonly UpgradeScope? _outer;

    public UpgradeScope(GraphProto graph, long from, string path)
    {
        (From, Path) = (from, path);
        FloatType = graph
            .Initializer.Select(t => (ElementType)t.DataType)
            .Concat(graph.Input.Select(i => (ElementType)(i.Type?.TensorType?.ElemType ?? 0)))
            .FirstOrDefault(t => t.IsFloatingPoint(), ElementType.Float);
        Fill(graph);
    }

    public UpgradeScope(GraphProto graph, UpgradeScope outer)
    {
        (From, Path, FloatType, _outer) = (outer.From, outer.Path, outer.FloatType, outer);
        Fill(graph);
    }

    /// <summary>Gets the operator set that the graph is written in.</summary>
    public long From { get; }

    /// <summary>Gets the model file, for messages.</summary>
    public string Path { get; }

    /// <summary>
    /// Gets the floating-point type that the model computes in: attributes that become inputs must be of that type.
    /// </summary>
    public ElementType FloatType { get; }

    /// <summary>Gives the numbers of a float constant by name; null for everything else.</summary>
    public double[]? Floats(string name) =>
        !_constants.TryGetValue(name, out var tensor) ? _outer?.Floats(name)
        : tensor.DataType == (int)ElementType.Float && tensor.DataLocation == TensorProto.Types.DataLocation.Default
            ? TensorFormat.FromProto(tensor, null).ToDouble()
        : null;

    private void Fill(GraphProto graph)
    {
        foreach (var tensor in graph.Initializer)
        {
            _constants.TryAdd(tensor.Name, tensor);
        }

        foreach (var node in graph.Node.Where(n => n is { OpType: "Constant", Output.Count: 1 }))
        {
            if (node.Attribute.FirstOrDefault(a => a.Name == "value")?.T is { } tensor)
            {
                _constants.TryAdd(node.Output[0], tensor);
            }
        }
    }
}

/// <summary>
/// A node on its way to a newer operator set: the node itself, and what is emitted before and after it.
/// </summary>
internal sealed class UpgradedNode(NodeProto node, UpgradeScope scope)
{
    private readonly List<NodeProto> _before = [];
    private readonly List<NodeProto> _after = [];

    public NodeProto Node { get; } = node;

    public UpgradeScope Scope { get; } = scope;

    /// <summary>Gets or sets whether other nodes compute what the node did.</summary>
    public bool IsReplaced { get; set; }

    /// <summary>Gets all nodes, in order.</summary>
    public IEnumerable<NodeProto> Nodes => [.. _before, .. IsReplaced ? [] : new[] { Node }, .. _after];

    private string Stem => Node.Output.First(o => o.Length > 0);

    public long Int(string attribute, long fallback) => Find(attribute)?.I ?? fallback;

    public float Float(string attribute, float fallback) => Find(attribute)?.F ?? fallback;

    public string Text(string attribute, string fallback) => Find(attribute)?.S.ToStringUtf8() ?? fallback;

    /// <summary>Sets an attribute.</summary>
    public void Set(Attr attribute)
    {
        Take(attribute.Name);
        Node.Attribute.Add(AttributeFormat.ToProto(attribute));
    }

    /// <summary>Removes an attribute and gives it; null where it is left out.</summary>
    public AttributeProto? Take(string attribute)
    {
        var found = Find(attribute);
        if (found is not null)
        {
            Node.Attribute.Remove(found);
        }

        return found;
    }

    /// <summary>Makes an attribute an input.</summary>
    public void ToInput(string attribute, int input)
    {
        if (Take(attribute) is { } given)
        {
            AddInput(
                input,
                attribute,
                given.Type switch
                {
                    Kind.Ints => Tensor.From<long>([given.Ints.Count], [.. given.Ints]),
                    Kind.Floats => Tensor.From<float>([given.Floats.Count], [.. given.Floats]),
                    Kind.Float => GraphBuilder.ScalarTensor(given.F, Scope.FloatType, []),
                    _ => Tensor.From<long>([], [given.I]),
                }
            );
        }
    }

    /// <summary>Gives the node a constant as an input.</summary>
    public void AddInput(int input, string part, Tensor value)
    {
        while (Node.Input.Count <= input)
        {
            Node.Input.Add("");
        }

        Node.Input[input] = Constant(part, value);
    }

    /// <summary>Emits a constant in front of the node.</summary>
    /// <returns>Its name.</returns>
    public string Constant(string part, Tensor value) => Emit("Constant", part, [], Attr.Tensor("value", value));

    /// <summary>Emits an operator in front of the node.</summary>
    /// <returns>The name of its output.</returns>
    public string Emit(string op, string part, string[] inputs, params Attr[] attributes) =>
        Emit(_before, op, $"{Stem}/{part}", inputs, attributes);

    /// <summary>Emits, behind the node, an operator that computes what an output of the node did.</summary>
    /// <param name="op">The operator.</param>
    /// <param name="output">The output.</param>
    /// <param name="others">The inputs after the first, which is the node's own output under another name.</param>
    public void EmitAfter(string op, int output, params string[] others)
    {
        var name = Node.Output[output];
        Node.Output[output] = $"{name}/{Node.OpType}";
        Emit(_after, op, name, [Node.Output[output], .. others]);
    }

    /// <summary>Emits the last of the operators that replace a node with one output.</summary>
    public void ReplaceBy(string op, string[] inputs, params Attr[] attributes)
    {
        IsReplaced = true;
        Emit(_after, op, Stem, inputs, attributes);
    }

    /// <summary>Makes the error for a use of the operator that cannot be upgraded.</summary>
    public MacOnnxException Unsupported(string what) =>
        new(
            "MAC0003",
            Scope.Path,
            $"{Node.OpType} '{(Node.Name.Length > 0 ? Node.Name : Stem)}' of operator set {Scope.From}: {what}.",
            "Export the model with a newer operator set."
        );

    private static string Emit(
        List<NodeProto> target,
        string op,
        string output,
        string[] inputs,
        params Attr[] attributes
    )
    {
        var made = new NodeProto { OpType = op, Name = output };
        made.Input.AddRange(inputs);
        made.Output.Add(output);
        made.Attribute.AddRange(attributes.Select(AttributeFormat.ToProto));
        target.Add(made);
        return output;
    }

    private AttributeProto? Find(string attribute) => Node.Attribute.FirstOrDefault(a => a.Name == attribute);
}
