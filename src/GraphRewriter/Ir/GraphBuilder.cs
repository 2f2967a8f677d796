using System.Globalization;
using MacOnnx.GraphRewriter.Import.Proto;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>
/// Emits nodes into a graph: the only way to make one outside import. Every node is stamped with <see cref="Origin"/>.
/// </summary>
/// <param name="graph">The graph that the values belong to.</param>
/// <param name="target">The list that nodes are appended to; the graph's own by default.</param>
internal sealed class GraphBuilder(Graph graph, List<Node>? target = null)
{
    private readonly Dictionary<string, Value> _constants = new(StringComparer.Ordinal);
    private readonly List<Node> _nodes = target ?? graph.Nodes;

    public Graph Graph { get; } = graph;

    /// <summary>Gets or sets the pass, rule and source node that the next nodes come from.</summary>
    public string Origin { get; set; } = "";

    /// <summary>Gets or sets what names of values start with.</summary>
    public string Prefix { get; set; } = "";

    /// <summary>Emits a node with one output, whose type is derived from the inputs.</summary>
    public Value Op(string opType, ReadOnlySpan<Value?> inputs, params ReadOnlySpan<AttributeProto> attributes) =>
        Node(opType, "", inputs, 1, attributes).Outputs[0];

    /// <summary>Emits a node of another domain with one output.</summary>
    public Value OpIn(
        string domain,
        string opType,
        ReadOnlySpan<Value?> inputs,
        params ReadOnlySpan<AttributeProto> attributes
    ) => Node(opType, domain, inputs, 1, attributes).Outputs[0];

    /// <summary>Emits a node with several outputs.</summary>
    public Node Node(
        string opType,
        string domain,
        ReadOnlySpan<Value?> inputs,
        int outputs,
        params ReadOnlySpan<AttributeProto> attributes
    )
    {
        var name = Graph.FreshName($"{Prefix}{opType}");
        var node = new Node(opType, domain, name, inputs.ToArray(), attributes.ToArray()) { Origin = Origin };
        for (var i = 0; i < outputs; i++)
        {
            var value = Graph.AddValue(Graph.FreshName(i == 0 ? name : $"{name}.{i}"));
            value.Producer = node;
            value.Type = ResultType(node);
            node.Outputs.Add(value);
        }

        _nodes.Add(node);
        return node;
    }

    /// <summary>Replaces nodes of the graph by what rules emit, in place.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="rule">Gives what emits, in place of a node, others that compute its outputs; null for a node that
    /// stays.</param>
    /// <returns>Whether a node was replaced.</returns>
    public static bool Expand(Graph graph, Func<Node, Action<GraphBuilder>?> rule)
    {
        var nodes = graph.Nodes.ToArray();
        graph.Nodes.Clear();
        var (builder, isChanged) = (new GraphBuilder(graph), false);
        foreach (var node in nodes)
        {
            if (rule(node) is { } expand)
            {
                (builder.Origin, builder.Prefix) = ($"expansion {node}", $"{node.Outputs[0].Name}/");
                expand(builder);
                isChanged = true;
            }
            else
            {
                graph.Nodes.Add(node);
            }
        }

        return isChanged;
    }

    /// <summary>Emits into a list of its own what is to be the body of a subgraph or function.</summary>
    /// <param name="body">Emits the nodes and gives the results.</param>
    /// <returns>The nodes; the results, each computed by one of them, as a body must; and what the nodes read from
    /// outside.</returns>
    public (List<Node> Nodes, Value[] Results, Value[] Captured) Body(Func<GraphBuilder, Value[]> body)
    {
        var nodes = new List<Node>();
        var inner = new GraphBuilder(Graph, nodes) { Origin = Origin, Prefix = Prefix };
        var results = body(inner);
        var own = nodes.SelectMany(n => n.Outputs).ToHashSet();
        results = [.. results.Select(r => own.Contains(r) ? r : inner.Op("Identity", [r]))];
        own.UnionWith(results);
        return (nodes, results, [.. nodes.SelectMany(n => n.Reads).Where(v => !own.Contains(v)).Distinct()]);
    }

    /// <summary>Adds a node that was made elsewhere.</summary>
    public void Append(Node node) => _nodes.Add(node);

    /// <summary>Emits <c>Identity</c> so that a value has the given name, which must be free.</summary>
    public Value Named(Value value, string name)
    {
        var node = new Node("Identity", "", name, [value], []) { Origin = Origin };
        var output = Graph.AddValue(name);
        (output.Producer, output.Type, output.Shape) = (node, value.Type, value.Shape);
        node.Outputs.Add(output);
        _nodes.Add(node);
        return output;
    }

    /// <summary>
    /// Emits <c>Identity</c> so that an existing value, whose producer no longer gives it, gets what another one holds.
    /// </summary>
    public void Assign(Value target, Value value)
    {
        var node = new Node("Identity", "", target.Name, [value], []) { Origin = Origin };
        node.Outputs.Add(target);
        target.Producer = node;
        _nodes.Add(node);
    }

    /// <summary>Adds a graph input.</summary>
    public Value Input(string name, ElementType type, Shape? shape)
    {
        var value = Graph.AddValue(name);
        (value.Type, value.Shape) = (type, shape);
        Graph.Inputs.Add(value);
        return value;
    }

    /// <summary>Gives a constant; equal small ones are shared.</summary>
    public Value Constant(Tensor tensor)
    {
        var key = tensor.Data.Length <= 256 ? $"{tensor}:{Convert.ToHexString(tensor.Data.Span)}" : null;
        if (key is not null && _constants.TryGetValue(key, out var known))
        {
            return known;
        }

        var value = Graph.AddValue(Graph.FreshName($"{Prefix}const"));
        (value.Constant, value.Type, value.Shape) = (tensor, tensor.Type, Shape.Of(tensor.Dims.AsSpan()));
        if (key is not null)
        {
            _constants[key] = value;
        }

        return value;
    }

    /// <summary>Gives a 1-D int64 constant.</summary>
    public Value Int64s(params ReadOnlySpan<long> values) => Constant(Tensor.From([values.Length], values));

    /// <summary>Gives an int64 scalar.</summary>
    public Value Int64(long value) => Constant(Tensor.From<long>([], [value]));

    /// <summary>Gives a scalar of a floating-point or integer type.</summary>
    public Value Scalar(double value, ElementType type) => Constant(ScalarTensor(value, type, []));

    /// <summary>Makes a 1-D tensor filled with one value.</summary>
    public static Tensor Filled(double value, ElementType type, long count)
    {
        var one = ScalarTensor(value, type, [1]).Data.Span;
        var data = new byte[checked(count * one.Length)];
        for (var i = 0; i < data.Length; i += one.Length)
        {
            one.CopyTo(data.AsSpan(i));
        }

        return new(type, [count], data);
    }

    public static Tensor ScalarTensor(double value, ElementType type, ReadOnlySpan<long> dims) =>
        type switch
        {
            ElementType.Float => Tensor.From(dims, [(float)value]),
            ElementType.Double => Tensor.From(dims, [value]),
            ElementType.Float16 => Tensor.From(dims, [(Half)value]),
            ElementType.BFloat16 => new Tensor(
                type,
                [.. dims],
                BitConverter.GetBytes((ushort)(BitConverter.SingleToUInt32Bits((float)value) >> 16))
            ),
            ElementType.Int64 => Tensor.From(dims, [(long)value]),
            ElementType.Int32 => Tensor.From(dims, [(int)value]),
            ElementType.Bool => Tensor.From(dims, [value != 0]),
            _ => throw new InvalidOperationException(
                string.Create(CultureInfo.InvariantCulture, $"No scalar {value} of type {type}.")
            ),
        };

    /// <summary>Gives the type of the node's outputs for the operators that passes emit.</summary>
    private static ElementType ResultType(Node node) =>
        node.OpType switch
        {
            "Equal"
            or "Less"
            or "LessOrEqual"
            or "Greater"
            or "GreaterOrEqual"
            or "Not"
            or "And"
            or "Or"
            or "IsNaN"
            or "IsInf" => ElementType.Bool,
            "Shape" or "Size" or "NonZero" or "ArgMax" or "ArgMin" => ElementType.Int64,
            "Cast" => (ElementType)node.Attributes.Int("to", 0),
            "Where" or "OneHot" or "If" => node.Inputs[^1]?.Type ?? ElementType.Float,
            "ConstantOfShape" => (ElementType)(node.Attributes.Find("value")?.T.DataType ?? (int)ElementType.Float),
            _ => node.Inputs.FirstOrDefault(v => v is not null)?.Type ?? ElementType.Undefined,
        };
}
