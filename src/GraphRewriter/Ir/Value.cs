namespace MacOnnx.GraphRewriter.Ir;

/// <summary>An input of a node in a graph.</summary>
internal readonly record struct Use(Node Node, int Index);

/// <summary>
/// A tensor on an edge of the graph: a graph input, a constant, or an output of a node. Identity is by reference.
/// </summary>
/// <remarks>
/// Nodes of a subgraph read values of the graphs around it. <see cref="Ir.Graph.AddValue"/> makes values.
/// </remarks>
public sealed class Value
{
    private HashSet<Use>? _uses;
    private HashSet<Graph>? _outputOf;

    internal Value(string name, Graph graph) => (Name, Graph) = (name, graph);

    /// <summary>Gets the name, unique in the graph; empty for an output that nobody reads.</summary>
    public string Name { get; private set; }

    /// <summary>Gets the graph that the value belongs to.</summary>
    internal Graph Graph { get; }

    /// <summary>Gets the node that computes the value; null for inputs and constants.</summary>
    internal Node? Producer { get; private set; }

    /// <summary>Gets the inputs of nodes that the value is, of nodes in subgraphs too.</summary>
    internal IReadOnlyCollection<Use> Uses => _uses ?? (IReadOnlyCollection<Use>)[];

    /// <summary>Gets the graphs, subgraphs included, that have the value among their outputs.</summary>
    internal IReadOnlyCollection<Graph> OutputOf => _outputOf ?? (IReadOnlyCollection<Graph>)[];

    /// <summary>Gets the elements of a constant; null for everything else.</summary>
    public Tensor? Constant { get; internal set; }

    /// <summary>Gets the element type.</summary>
    public ElementType Type { get; internal set; }

    /// <summary>Gets the shape; null until shape inference has run, or where it found nothing.</summary>
    public Shape? Shape { get; internal set; }

    /// <summary>Gets or sets what the model file declares; null for values that passes made.</summary>
    internal Declaration? Declared { get; set; }

    /// <summary>Gets the shape, which shape inference must have found.</summary>
    /// <exception cref="Diagnostics.MacOnnxException">Shape inference found none (MAC0105).</exception>
    public Shape KnownShape =>
        Shape
        ?? throw new Diagnostics.MacOnnxException(
            "MAC0105",
            Producer?.ToString() ?? Name,
            $"The shape of '{Name}' could not be inferred.",
            "Fix the model's input dimensions with RewriteOptions.Dimensions (NAME=SIZE)."
        );

    /// <summary>Gets the number of axes.</summary>
    public int Rank => KnownShape.Rank;

    /// <summary>
    /// Puts another value in the place of this one wherever it is read: by nodes, in subgraphs, as output.
    /// </summary>
    internal void ReplaceAllUses(Value replacement)
    {
        foreach (var (node, index) in Uses.ToArray())
        {
            node.SetInput(index, replacement);
        }

        foreach (var graph in OutputOf.ToArray())
        {
            for (var i = 0; i < graph.Outputs.Count; i++)
            {
                if (ReferenceEquals(graph.Outputs[i], this))
                {
                    graph.Outputs[i] = replacement;
                }
            }
        }
    }

    /// <summary>Renames the value; <see cref="Graph.Rename"/> keeps names unique.</summary>
    internal void SetName(string name) => Name = name;

    /// <summary>Notes the node that computes the value: called by <see cref="Node"/> alone.</summary>
    internal void SetProducer(Node? node) => Producer = node;

    /// <summary>Notes a use: called by <see cref="Node"/> alone.</summary>
    internal void AddUse(Use use) => (_uses ??= []).Add(use);

    /// <summary>Forgets a use: called by <see cref="Node"/> alone.</summary>
    internal void RemoveUse(Use use) => _uses?.Remove(use);

    /// <summary>Notes whether the value is an output of a graph: called by <see cref="OutputList"/> alone.</summary>
    internal void SetOutputOf(Graph graph, bool isOutput)
    {
        if (isOutput)
        {
            (_outputOf ??= []).Add(graph);
        }
        else
        {
            _outputOf?.Remove(graph);
        }
    }

    /// <inheritdoc/>
    public override string ToString() => $"%{Name}";
}
