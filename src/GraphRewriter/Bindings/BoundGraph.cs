using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Bindings;

/// <summary>A graph whose inputs and outputs are bound to buffers.</summary>
/// <param name="file">The graph's file in the package.</param>
/// <param name="graph">The graph.</param>
/// <param name="buffers">The buffers of the package.</param>
/// <remarks>
/// An output may be bound to the buffer of an input: every other reader of the input must then come before the node
/// that computes the output, element by element.
/// </remarks>
internal sealed class BoundGraph(string file, Graph graph, BufferTable buffers)
{
    private readonly OrderedDictionary<string, Value> _read = new(StringComparer.Ordinal);
    private readonly List<(int Output, string Buffer, string Name)> _written = [];

    public string File { get; } = file;

    public Graph Graph { get; } = graph;

    public GraphBuilder B { get; } = new(graph);

    public BufferTable Buffers { get; } = buffers;

    /// <summary>Gets whether the graph computes anything.</summary>
    public bool IsEmpty => Graph.Nodes.Count == 0;

    public IEnumerable<Binding> Bindings =>
        [
            .. _read.Select(r => new Binding(File, r.Value.Name, r.Key, BindingDirection.In)),
            .. _written.Select(w => new Binding(File, Graph.Outputs[w.Output].Name, w.Buffer, BindingDirection.Out)),
        ];

    /// <summary>Makes a graph of the newest operator set that emitted nodes are written in.</summary>
    public static BoundGraph New(string file, BufferTable buffers)
    {
        var graph = new Graph { Name = Path.GetFileNameWithoutExtension(file) };
        graph.Opsets[""] = Import.OpsetUpgrade.Target;
        return new(file, graph, buffers);
    }

    /// <summary>Gives the input that reads a buffer, added where the graph has none yet.</summary>
    public Term Read(string buffer)
    {
        if (!_read.TryGetValue(buffer, out var value))
        {
            var info = Buffers[buffer];
            value = B.Input(Graph.FreshName(buffer), info.Type, Shape.Of(info.Dims.AsSpan()));
            Bind(value, buffer);
        }

        return new(B, value);
    }

    /// <summary>Gives a scalar that the runtime computes by a formula before the graph runs.</summary>
    public Term Scalar(string name, string formula) => Read(Buffers.Scalar(name, formula));

    /// <summary>Gives a hyper-parameter, by its name in formulas.</summary>
    public Term Scalar(string hyperparameter) => Scalar(hyperparameter, hyperparameter);

    /// <summary>Makes a value an output that is written to a buffer.</summary>
    /// <param name="buffer">The buffer.</param>
    /// <param name="value">The value, of the buffer's type and shape.</param>
    /// <param name="name">What the output is called where the name is free; null for the buffer's and "_new".</param>
    public void Write(string buffer, Term value, string? name = null)
    {
        _written.Add((Graph.Outputs.Count, buffer, name ?? $"{buffer}_new"));
        Graph.Outputs.Add(value);
    }

    /// <summary>Binds an input that the graph has.</summary>
    public void Bind(Value input, string buffer) => _read.Add(buffer, input);

    /// <summary>
    /// Names and declares the outputs that are written to buffers; passes may have replaced their values.
    /// </summary>
    public void Finish()
    {
        (B.Origin, B.Prefix) = ("output", "");
        var uses = Graph.Outputs.CountBy(o => o).ToDictionary();
        foreach (var (output, buffer, name) in _written)
        {
            var (value, info) = (Graph.Outputs[output], Buffers[buffer]);
            var isAlone = value.Producer is not null && uses[value] == 1;
            if (!isAlone || (value.Name != name && value.Producer!.Origin.Length == 0))
            {
                uses[value]--;
                value = Graph.Outputs[output] = B.Named(value, Graph.FreshName(name));
            }
            else if (value.Name != name)
            {
                Graph.Rename(value, Graph.FreshName(name));
            }

            (value.Type, value.Shape) = (info.Type, Shape.Of(info.Dims.AsSpan()));
        }
    }

    /// <summary>Drops nodes and inputs that no output needs.</summary>
    public void Prune()
    {
        Graph.Prune();
        var read = Graph.Nodes.SelectMany(n => n.Reads).Concat(Graph.Outputs).ToHashSet();
        foreach (var (buffer, input) in _read.Where(r => !read.Contains(r.Value)).ToArray())
        {
            Graph.Inputs.Remove(input);
            _read.Remove(buffer);
        }
    }
}
