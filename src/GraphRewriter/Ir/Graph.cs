using System.Collections.ObjectModel;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>
/// A graph whose nodes are in topological order: a model's, a subgraph's (an attribute of If, Loop, Scan), or the body
/// of a function. Passes add and replace nodes; <see cref="Prune"/> drops what nobody reads.
/// </summary>
/// <remarks>
/// <see cref="InsertBefore"/>, <see cref="Replace"/> and <see cref="Remove"/> take constant time: <see cref="Nodes"/>
/// makes a new list of all of them when it is read next, so that a pass may walk the list that it changes.
/// </remarks>
internal sealed class Graph
{
    private readonly HashSet<string> _own = new(StringComparer.Ordinal);
    private readonly NameScope _names;
    private readonly Dictionary<Node, List<Node>> _before = [];
    private List<Node> _nodes = [];
    private bool _isEdited;
    private bool _isCounted;

    public Graph()
        : this(null) { }

    /// <summary>Makes a graph inside another one, whose names its own avoid.</summary>
    public Graph(Graph? outer)
    {
        Outer = outer;
        (_names, Opsets) = outer is null ? (new(), new(StringComparer.Ordinal)) : (outer._names, outer.Opsets);
        Outputs = new(this);
    }

    public required string Name { get; init; }

    /// <summary>Gets the graph around this one; null for a model's graph.</summary>
    public Graph? Outer { get; }

    /// <summary>Gets the outermost graph.</summary>
    public Graph Root => Outer?.Root ?? this;

    /// <summary>Gets the operator set versions by domain; the empty domain is ai.onnx.</summary>
    public Dictionary<string, long> Opsets { get; }

    /// <summary>Gets or sets what adjusts the sessions that run parts of the graph; null for nothing.</summary>
    public Action<SessionOptions>? ConfigureSession { get; set; }

    public List<Value> Inputs { get; } = [];

    public OutputList Outputs { get; }

    public IReadOnlyList<Node> Nodes => Settled();

    /// <summary>
    /// Makes a value whose name is <paramref name="name"/>, which no other one in the graph may have.
    /// </summary>
    public Value AddValue(string name)
    {
        if (name.Length == 0)
        {
            return new Value(name, this);
        }

        if (!_own.Add(name))
        {
            throw new Diagnostics.MacOnnxException(
                "MAC0009",
                Name,
                $"Two values are called '{name}'.",
                "Export the model again: names must be unique."
            );
        }

        _names.Taken.Add(name);
        return new Value(name, this);
    }

    /// <summary>Makes a constant.</summary>
    public Value AddConstant(string name, Tensor tensor)
    {
        var value = AddValue(name);
        (value.Constant, value.Type, value.Shape) = (tensor, tensor.Type, Shape.Of(tensor.Dims.AsSpan()));
        return value;
    }

    /// <summary>
    /// Gives a name that starts with <paramref name="stem"/> and is free, in all graphs inside the root.
    /// </summary>
    public string FreshName(string stem) => _names.Fresh(stem);

    /// <summary>
    /// Gives a value another name, which must be free; the old one stays taken, by the node that computes the value.
    /// </summary>
    public void Rename(Value value, string name)
    {
        if (!_names.Taken.Add(name))
        {
            throw new InvalidOperationException($"The name '{name}' is taken.");
        }

        _own.Add(name);
        value.SetName(name);
    }

    /// <summary>Appends a node.</summary>
    public void Add(Node node)
    {
        node.Attach(this);
        _nodes.Add(node);
        _isCounted = false;
    }

    /// <summary>Inserts nodes before a node of the graph, behind those that were inserted there earlier.</summary>
    public void InsertBefore(Node node, params IEnumerable<Node> nodes)
    {
        if (node.Graph != this)
        {
            throw new InvalidOperationException($"{node} is not in the graph.");
        }

        foreach (var made in nodes)
        {
            made.Attach(this);
            (_before.TryGetValue(node, out var list) ? list : _before[node] = []).Add(made);
        }

        _isEdited = true;
    }

    /// <summary>Puts nodes in the place of a node.</summary>
    public void Replace(Node node, params IEnumerable<Node> nodes)
    {
        InsertBefore(node, nodes);
        Remove(node);
    }

    /// <summary>Removes a node.</summary>
    public void Remove(Node node)
    {
        node.Detach();
        _isEdited = true;
    }

    /// <summary>Removes all nodes and outputs.</summary>
    public void Clear()
    {
        foreach (var node in Nodes)
        {
            node.Detach();
        }

        (_nodes, _isCounted) = ([], false);
        Outputs.Clear();
    }

    /// <summary>Gives the place of a node in <see cref="Nodes"/>, in constant time until these change.</summary>
    public int Position(Node node)
    {
        var nodes = Settled();
        if (!_isCounted)
        {
            for (var i = 0; i < nodes.Count; i++)
            {
                nodes[i].Place = i;
            }

            _isCounted = true;
        }

        return node.Place;
    }

    /// <summary>Gives the nodes of this graph that read each value, themselves or in their subgraphs.</summary>
    public ILookup<Value, Node> Readers() =>
        Nodes.SelectMany(n => n.Reads.Distinct().Select(v => (v, n))).ToLookup(p => p.v, p => p.n);

    /// <summary>Gives the graph's constants that nodes or outputs read, in order of first use.</summary>
    public IEnumerable<Value> Constants() =>
        Reads().Where(v => v.Constant is not null && (Outer is null || v.Graph == this)).Distinct();

    /// <summary>Gives this graph and the subgraphs of its nodes, on all levels.</summary>
    public IEnumerable<Graph> WithSubgraphs() =>
        Nodes.SelectMany(n => n.Attributes.Graphs).SelectMany(g => g.WithSubgraphs()).Prepend(this);

    /// <summary>Gives the values of the graphs around this one that it reads.</summary>
    public IEnumerable<Value> Captured() => Reads().Where(v => v.Graph != this).Distinct();

    /// <summary>Makes this graph alone, with its subgraphs, read other values.</summary>
    public void Rebind(IReadOnlyDictionary<Value, Value> replacements)
    {
        foreach (var node in Nodes)
        {
            for (var i = 0; i < node.Inputs.Count; i++)
            {
                if (node.Inputs[i] is { } input && replacements.TryGetValue(input, out var replacement))
                {
                    node.SetInput(i, replacement);
                }
            }

            foreach (var graph in node.Attributes.Graphs)
            {
                graph.Rebind(replacements);
            }
        }

        for (var i = 0; i < Outputs.Count; i++)
        {
            Outputs[i] = replacements.GetValueOrDefault(Outputs[i], Outputs[i]);
        }
    }

    /// <summary>Removes nodes none of whose outputs is read or a graph output.</summary>
    public void Prune()
    {
        var nodes = Nodes;
        var live = new HashSet<Value>(Outputs);
        for (var i = nodes.Count - 1; i >= 0; i--)
        {
            if (nodes[i].Outputs.Any(live.Contains))
            {
                live.UnionWith(nodes[i].Reads);
            }
            else
            {
                Remove(nodes[i]);
            }
        }
    }

    private IEnumerable<Value> Reads() => Nodes.SelectMany(n => n.Reads).Concat(Outputs);

    private List<Node> Settled()
    {
        if (_isEdited)
        {
            var all = new List<Node>(_nodes.Count + _before.Count);
            _nodes.ForEach(Settle);
            _before.Clear();
            (_nodes, _isEdited, _isCounted) = (all, false, false);

            void Settle(Node node)
            {
                if (_before.TryGetValue(node, out var inserted))
                {
                    inserted.ForEach(Settle);
                }

                if (node.Graph == this)
                {
                    all.Add(node);
                }
            }
        }

        return _nodes;
    }

    /// <summary>The names that a graph and all graphs inside it have taken.</summary>
    private sealed class NameScope
    {
        private int _next;

        public HashSet<string> Taken { get; } = new(StringComparer.Ordinal);

        public string Fresh(string stem)
        {
            var name = stem;
            while (Taken.Contains(name))
            {
                name = $"{stem}_{_next++}";
            }

            return name;
        }
    }
}

/// <summary>The outputs of a graph: each knows that it is one (<see cref="Value.OutputOf"/>).</summary>
internal sealed class OutputList(Graph graph) : Collection<Value>
{
    private readonly Dictionary<Value, int> _counts = [];

    /// <summary>Gives how many of the outputs are a value, in constant time.</summary>
    public int CountOf(Value value) => _counts.GetValueOrDefault(value);

    public void AddRange(params IEnumerable<Value> values)
    {
        foreach (var value in values.ToArray())
        {
            Add(value);
        }
    }

    protected override void InsertItem(int index, Value item)
    {
        base.InsertItem(index, item);
        Note(item, 1);
    }

    protected override void SetItem(int index, Value item)
    {
        var old = this[index];
        base.SetItem(index, item);
        Note(old, -1);
        Note(item, 1);
    }

    protected override void RemoveItem(int index)
    {
        var old = this[index];
        base.RemoveItem(index);
        Note(old, -1);
    }

    protected override void ClearItems()
    {
        foreach (var value in this)
        {
            value.SetOutputOf(graph, false);
        }

        _counts.Clear();
        base.ClearItems();
    }

    private void Note(Value value, int change)
    {
        _counts[value] = CountOf(value) + change;
        value.SetOutputOf(graph, _counts[value] > 0);
    }
}
