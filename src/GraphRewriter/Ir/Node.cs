namespace MacOnnx.GraphRewriter.Ir;

/// <summary>
/// One operator call. From the moment a graph takes it in until it is removed, its inputs are
/// <see cref="Value.Uses"/> of their values and it is the <see cref="Value.Producer"/> of its outputs.
/// </summary>
public sealed class Node
{
    private readonly List<Value?> _inputs;
    private readonly List<Value> _outputs;

    internal Node(
        string opType,
        string domain,
        string name,
        IEnumerable<Value?> inputs,
        IEnumerable<Attr> attributes,
        IEnumerable<Value>? outputs = null
    )
    {
        (OpType, Domain, Name, Attributes) = (opType, domain, name, new(attributes));
        (_inputs, _outputs) = ([.. inputs], [.. outputs ?? []]);
    }

    /// <summary>Gets the operator, as ONNX spells it.</summary>
    public string OpType { get; }

    /// <summary>Gets the domain; empty for ai.onnx.</summary>
    public string Domain { get; }

    /// <summary>Gets the node's name; empty where the model gives none.</summary>
    public string Name { get; }

    /// <summary>Gets the graph that the node is in; null before it was added and after it was removed.</summary>
    internal Graph? Graph { get; private set; }

    /// <summary>Gets the inputs in ONNX order; null where an optional input is left out.</summary>
    public IReadOnlyList<Value?> Inputs => _inputs;

    /// <summary>Gets the outputs in ONNX order.</summary>
    public IReadOnlyList<Value> Outputs => _outputs;

    /// <summary>Gets the attributes.</summary>
    public Attributes Attributes { get; }

    /// <summary>Gets the outer values that the node's subgraphs read (If, Loop, Scan).</summary>
    internal IEnumerable<Value> Captured => Attributes.Graphs.SelectMany(g => g.Captured()).Distinct();

    /// <summary>
    /// Gets or sets the function that defines the operator for this call, a closed graph; null for operators that are
    /// defined elsewhere.
    /// </summary>
    internal Graph? Function { get; set; }

    /// <summary>
    /// Gets where the node comes from: "rule source-node" for emitted nodes, empty for the model's own.
    /// </summary>
    internal string Origin { get; init; } = "";

    internal string DocString { get; init; } = "";

    internal IReadOnlyList<KeyValuePair<string, string>> Metadata { get; init; } = [];

    /// <summary>Gets the operator's name as diagnostics show it, with its domain where that is not ai.onnx.</summary>
    internal string QualifiedOp => Domain.Length == 0 ? OpType : $"{Domain}::{OpType}";

    internal IEnumerable<Value> Reads => Inputs.OfType<Value>().Concat(Captured);

    /// <summary>Gets or sets the place in the graph as it was counted last, for <see cref="Graph.Position"/>.</summary>
    internal int Place { get; set; }

    /// <summary>Whether the node calls an operator of ai.onnx.</summary>
    /// <param name="opType">The operator.</param>
    public bool Is(string opType) => Domain.Length == 0 && OpType == opType;

    /// <summary>Gives an input, or null where it is left out or the node has fewer.</summary>
    /// <param name="index">The input, from 0.</param>
    public Value? Input(int index) => index < Inputs.Count ? Inputs[index] : null;

    /// <summary>Makes another value an input.</summary>
    internal void SetInput(int index, Value? value)
    {
        if (Graph is not null)
        {
            _inputs[index]?.RemoveUse(new(this, index));
            value?.AddUse(new(this, index));
        }

        _inputs[index] = value;
    }

    /// <summary>Drops the inputs from <paramref name="count"/> on.</summary>
    internal void TrimInputs(int count)
    {
        while (_inputs.Count > count)
        {
            SetInput(_inputs.Count - 1, null);
            _inputs.RemoveAt(_inputs.Count - 1);
        }
    }

    /// <summary>Makes another value an output; <paramref name="index"/> may be one past the last.</summary>
    internal void SetOutput(int index, Value value)
    {
        if (index == _outputs.Count)
        {
            _outputs.Add(value);
        }
        else
        {
            Release(_outputs[index]);
            _outputs[index] = value;
        }

        if (Graph is not null)
        {
            value.SetProducer(this);
        }
    }

    /// <summary>Drops the outputs from <paramref name="count"/> on.</summary>
    internal void TrimOutputs(int count)
    {
        while (_outputs.Count > count)
        {
            Release(_outputs[^1]);
            _outputs.RemoveAt(_outputs.Count - 1);
        }
    }

    /// <inheritdoc/>
    public override string ToString() =>
        $"{QualifiedOp} '{(Name.Length > 0 || Outputs.Count == 0 ? Name : Outputs[0].Name)}'";

    /// <summary>Enters the node's edges: called by the graph that takes it in.</summary>
    internal void Attach(Graph graph)
    {
        if (Graph is not null)
        {
            throw new InvalidOperationException($"{this} is in a graph already.");
        }

        Graph = graph;
        for (var i = 0; i < _inputs.Count; i++)
        {
            _inputs[i]?.AddUse(new(this, i));
        }

        _outputs.ForEach(o => o.SetProducer(this));
    }

    /// <summary>Removes the node's edges, and its subgraphs': called by the graph that lets it go.</summary>
    internal void Detach()
    {
        Graph = null;
        for (var i = 0; i < _inputs.Count; i++)
        {
            _inputs[i]?.RemoveUse(new(this, i));
        }

        _outputs.ForEach(Release);
        foreach (var graph in Attributes.Graphs)
        {
            graph.Clear();
        }
    }

    /// <summary>An output may have got another producer in the meantime.</summary>
    private void Release(Value output)
    {
        if (ReferenceEquals(output.Producer, this))
        {
            output.SetProducer(null);
        }
    }
}
