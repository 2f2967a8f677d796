using MacOnnx.GraphRewriter.Import.Proto;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>
/// A graph whose nodes are in topological order. Passes add and replace nodes; <see cref="Prune"/> drops what nobody
/// reads.
/// </summary>
internal sealed class Graph
{
    private readonly HashSet<string> _names = new(StringComparer.Ordinal);
    private int _next;

    public required string Name { get; init; }

    /// <summary>Gets the operator set versions by domain; the empty domain is ai.onnx.</summary>
    public Dictionary<string, long> Opsets { get; } = new(StringComparer.Ordinal);

    public List<Value> Inputs { get; } = [];

    public List<Value> Outputs { get; } = [];

    public List<Node> Nodes { get; } = [];

    /// <summary>
    /// Gets the original declarations of inputs and outputs, kept for their symbolic dimensions and doc strings.
    /// </summary>
    public Dictionary<string, ValueInfoProto> Declarations { get; } = new(StringComparer.Ordinal);

    /// <summary>Makes a value whose name is <paramref name="name"/>, which nobody may have taken.</summary>
    public Value AddValue(string name)
    {
        if (name.Length > 0 && !_names.Add(name))
        {
            throw new Diagnostics.MacOnnxException(
                "MAC0009",
                Name,
                $"Two values are called '{name}'.",
                "Export the model again: names must be unique."
            );
        }

        return new Value(name);
    }

    /// <summary>Gives a name that starts with <paramref name="stem"/> and is free.</summary>
    public string FreshName(string stem)
    {
        if (!_names.Contains(stem))
        {
            return stem;
        }

        string name;
        do
        {
            name = $"{stem}_{_next++}";
        } while (_names.Contains(name));
        return name;
    }

    /// <summary>
    /// Gives a value another name, which must be free; the old one stays taken, by the node that computes the value.
    /// </summary>
    public void Rename(Value value, string name)
    {
        if (!_names.Add(name))
        {
            throw new InvalidOperationException($"The name '{name}' is taken.");
        }

        value.SetName(name);
    }

    /// <summary>Gives the nodes that read each value (subgraphs included).</summary>
    public ILookup<Value, Node> Readers() =>
        Nodes.SelectMany(n => n.Reads.Distinct().Select(v => (v, n))).ToLookup(p => p.v, p => p.n);

    /// <summary>Gives the constants that nodes or outputs read, in order of first use.</summary>
    public IEnumerable<Value> Constants() =>
        Nodes.SelectMany(n => n.Reads).Concat(Outputs).Where(v => v.Constant is not null).Distinct();

    /// <summary>
    /// Makes every reader of <paramref name="old"/> read <paramref name="replacement"/> (graph outputs too).
    /// </summary>
    public void Replace(Value old, Value replacement)
    {
        foreach (var node in Nodes)
        {
            for (var i = 0; i < node.Inputs.Count; i++)
            {
                if (ReferenceEquals(node.Inputs[i], old))
                {
                    node.Inputs[i] = replacement;
                }
            }
        }

        for (var i = 0; i < Outputs.Count; i++)
        {
            if (ReferenceEquals(Outputs[i], old))
            {
                Outputs[i] = replacement;
            }
        }
    }

    /// <summary>Drops nodes none of whose outputs is read or a graph output.</summary>
    public void Prune()
    {
        var live = new HashSet<Value>(Outputs);
        for (var i = Nodes.Count - 1; i >= 0; i--)
        {
            if (Nodes[i].Outputs.Any(live.Contains))
            {
                live.UnionWith(Nodes[i].Reads);
            }
            else
            {
                Nodes[i] = null!;
            }
        }

        Nodes.RemoveAll(n => n is null);
    }
}
