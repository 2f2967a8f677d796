using System.Globalization;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// Emits nodes into a graph: the only way to make one outside import. Every node is stamped with <see cref="Origin"/>.
/// </summary>
/// <param name="graph">The graph that nodes and values belong to; constants belong to the outermost graph.</param>
internal sealed class GraphBuilder(Graph graph)
{
    private readonly Dictionary<string, Value> _constants = new(StringComparer.Ordinal);

    public Graph Graph { get; } = graph;

    /// <summary>Gets or sets the pass, rule and source node that the next nodes come from.</summary>
    public string Origin { get; set; } = "";

    /// <summary>Gets or sets the node before which nodes are inserted; null for the end of the graph.</summary>
    public Node? Before { get; set; }

    /// <summary>Gets or sets what names of values start with.</summary>
    public string Prefix { get; set; } = "";

    /// <summary>Emits a node with one output, whose type is derived from the inputs.</summary>
    public Value Op(string opType, ReadOnlySpan<Value?> inputs, params ReadOnlySpan<Attr> attributes) =>
        Node(opType, "", inputs, 1, attributes).Outputs[0];

    /// <summary>Emits a node of another domain with one output.</summary>
    public Value OpIn(
        string domain,
        string opType,
        ReadOnlySpan<Value?> inputs,
        params ReadOnlySpan<Attr> attributes
    ) => Node(opType, domain, inputs, 1, attributes).Outputs[0];

    /// <summary>Emits a node with several outputs.</summary>
    public Node Node(
        string opType,
        string domain,
        ReadOnlySpan<Value?> inputs,
        int outputs,
        params ReadOnlySpan<Attr> attributes
    )
    {
        var name = Graph.FreshName($"{Prefix}{opType}");
        var node = new Node(opType, domain, name, inputs.ToArray(), attributes.ToArray()) { Origin = Origin };
        for (var i = 0; i < outputs; i++)
        {
            var value = Graph.AddValue(Graph.FreshName(i == 0 ? name : $"{name}.{i}"));
            value.Type = ResultType(node);
            node.SetOutput(i, value);
        }

        Append(node);
        return node;
    }

    /// <summary>Replaces nodes of the graph by what rules emit, in place; the rules are for every use.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="rule">As in the other overload.</param>
    public static bool Expand(Graph graph, Func<Node, Action<GraphBuilder>?> rule) => Expand(graph, rule, []);

    /// <summary>Replaces nodes of the graph by what rules emit, in place.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="rule">Gives what emits, in place of a node, others that compute its outputs; null for a node that
    /// stays.</param>
    /// <param name="refused">Receives the nodes that stay because their rule threw, each with the reason.</param>
    /// <returns>Whether a node was replaced.</returns>
    public static bool Expand(
        Graph graph,
        Func<Node, Action<GraphBuilder>?> rule,
        Dictionary<Node, UnsupportedUseException> refused
    )
    {
        var (builder, isChanged) = (new GraphBuilder(graph), false);
        foreach (var node in graph.Nodes)
        {
            if (rule(node) is { } expand)
            {
                builder.Before = node;
                (builder.Origin, builder.Prefix) = ($"expansion {node}", $"{node.Outputs[0].Name}/");
                try
                {
                    expand(builder);
                }
                catch (UnsupportedUseException e)
                {
                    // What the rule has emitted is read by nothing.
                    refused[node] = e;
                    continue;
                }

                graph.Remove(node);
                isChanged = true;
            }
        }

        return isChanged;
    }

    /// <summary>Emits a graph inside this one: the body of a subgraph or function.</summary>
    /// <param name="name">The graph's name.</param>
    /// <param name="body">Emits the nodes and gives the results: the graph's outputs, each computed by one of its
    /// nodes, as a body must.</param>
    public Graph Body(string name, Func<GraphBuilder, Value[]> body)
    {
        var graph = new Graph(Graph) { Name = name };
        var inner = new GraphBuilder(graph) { Origin = Origin, Prefix = Prefix };
        graph.Outputs.AddRange(body(inner).Select(r => r.Graph == graph ? r : inner.Op("Identity", [r])));
        return graph;
    }

    /// <summary>Adds a node that was made elsewhere.</summary>
    public void Append(Node node)
    {
        if (Before is { } place)
        {
            Graph.InsertBefore(place, node);
        }
        else
        {
            Graph.Add(node);
        }
    }

    /// <summary>Emits <c>Identity</c> so that a value has the given name, which must be free.</summary>
    public Value Named(Value value, string name)
    {
        var output = Graph.AddValue(name);
        (output.Type, output.Shape) = (value.Type, value.Shape);
        Append(new Node("Identity", "", name, [value], [], [output]) { Origin = Origin });
        return output;
    }

    /// <summary>
    /// Emits <c>Identity</c> so that an existing value, whose producer no longer gives it, gets what another one holds.
    /// </summary>
    public void Assign(Value target, Value value) =>
        Append(new Node("Identity", "", target.Name, [value], [], [target]) { Origin = Origin });

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

        var value = Graph.Root.AddConstant(Graph.FreshName($"{Prefix}const"), tensor);
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

    /// <summary>Gives the type of the first output, which the others share unless the caller says more.</summary>
    private static ElementType ResultType(Node node) =>
        node.Attributes.Graphs is [var graph, ..] ? graph.Outputs[0].Type
        : OpTable.Find(node)?.ResultType is { } type ? type(node)
        : node.Inputs.FirstOrDefault(v => v is not null)?.Type ?? ElementType.Undefined;
}
