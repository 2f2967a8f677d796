using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Makes a <see cref="Graph"/> of a normalized <c>GraphProto</c>. Constant nodes become constants under their output's
/// name; those of subgraphs stay, since what a branch returns must be computed in it.
/// </summary>
internal sealed class GraphImporter
{
    /// <summary>Subgraphs inside subgraphs are read to this depth.</summary>
    private const int MostDepth = 64;

    private readonly string _path;

    private GraphImporter(string path) => _path = path;

    public static Graph Import(ModelProto model, string path)
    {
        var graph = new Graph { Name = model.Graph.Name };
        foreach (var opset in model.OpsetImport)
        {
            graph.Opsets[opset.Domain == "ai.onnx" ? "" : opset.Domain] = opset.Version;
        }

        new GraphImporter(path).Fill(graph, model.Graph, new(null));
        return graph;
    }

    private void Fill(Graph graph, GraphProto proto, Scope scope)
    {
        foreach (var tensor in proto.Initializer)
        {
            scope.Own[tensor.Name] = graph.AddConstant(tensor.Name, TensorFormat.FromProto(tensor));
        }

        foreach (var info in proto.Input)
        {
            if (!scope.Own.TryGetValue(info.Name, out var value))
            {
                value = scope.Own[info.Name] = graph.AddValue(info.Name);
                graph.Inputs.Add(value);
            }

            value.Declared = DeclarationFormat.FromProto(info);
            value.Type = value.Constant?.Type ?? value.Declared.Type;
        }

        foreach (var node in Sorted(proto.Node, scope.Has))
        {
            if (
                graph.Outer is null
                && node.OpType == "Constant"
                && node.Domain is "" or "ai.onnx"
                && ConstantOf(node) is { } constant
            )
            {
                scope.Own[node.Output[0]] = graph.AddConstant(node.Output[0], constant);
            }
            else
            {
                AddNode(graph, node, scope);
            }
        }

        foreach (var info in graph.Outer is null ? [] : proto.ValueInfo)
        {
            if (scope.Own.TryGetValue(info.Name, out var value))
            {
                value.Declared = DeclarationFormat.FromProto(info);
            }
        }

        foreach (var info in proto.Output)
        {
            var value =
                scope.Find(info.Name)
                ?? throw new MacOnnxException(
                    "MAC0008",
                    _path,
                    $"Nothing computes the output '{info.Name}'.",
                    "Export the model again."
                );
            value.Declared = value.Graph == graph ? DeclarationFormat.FromProto(info) : value.Declared;
            graph.Outputs.Add(value);
        }
    }

    private void AddNode(Graph graph, NodeProto node, Scope scope)
    {
        var inputs = node.Input.Select(n => n.Length == 0 ? null : scope.Find(n)).ToList();
        while (inputs.Count > 0 && inputs[^1] is null)
        {
            inputs.RemoveAt(inputs.Count - 1);
        }

        var attributes = node
            .Attribute.Select(a => AttributeFormat.FromProto(a, g => Subgraph(graph, g, scope)))
            .ToArray();
        var outputs = node.Output.Select(graph.AddValue).ToArray();
        foreach (var output in outputs.Where(o => o.Name.Length > 0))
        {
            scope.Own[output.Name] = output;
        }

        graph.Add(
            new Node(node.OpType, node.Domain == "ai.onnx" ? "" : node.Domain, node.Name, inputs, attributes, outputs)
            {
                DocString = node.DocString,
                Metadata = DeclarationFormat.Metadata(node.MetadataProps),
            }
        );
    }

    private Graph Subgraph(Graph outer, GraphProto proto, Scope scope)
    {
        if (scope.Depth == MostDepth)
        {
            throw new MacOnnxException(
                "MAC0014",
                _path,
                $"Subgraphs lie inside each other more than {MostDepth} levels deep.",
                "Export the model with fewer nested conditions and loops."
            );
        }

        var graph = new Graph(outer) { Name = proto.Name };
        Fill(graph, proto, new(scope));
        return graph;
    }

    /// <summary>The values that a graph sees by name: its own, then those around it.</summary>
    private sealed class Scope(Scope? outer)
    {
        public Dictionary<string, Value> Own { get; } = new(StringComparer.Ordinal);

        public int Depth { get; } = outer is null ? 0 : outer.Depth + 1;

        public Value? Find(string name) => Own.GetValueOrDefault(name) ?? outer?.Find(name);

        public bool Has(string name) => Find(name) is not null;
    }

    /// <summary>Gives the names that a subgraph reads and does not define.</summary>
    public static IEnumerable<string> OuterNames(GraphProto graph)
    {
        var own = graph
            .Input.Select(i => i.Name)
            .Concat(graph.Initializer.Select(i => i.Name))
            .Concat(graph.Node.SelectMany(n => n.Output))
            .ToHashSet(StringComparer.Ordinal);
        return graph
            .Node.SelectMany(n => n.Input.Concat(n.Attribute.SelectMany(OpsetUpgrade.Subgraphs).SelectMany(OuterNames)))
            .Concat(graph.Output.Select(o => o.Name))
            .Where(n => n.Length > 0 && !own.Contains(n));
    }

    /// <summary>Gives the elements of a Constant node; null where it holds none that are known here.</summary>
    public static Tensor? ConstantOf(NodeProto node)
    {
        if (node.Attribute.Count != 1)
        {
            return null;
        }

        var a = node.Attribute[0];
        return a.Name switch
        {
            "value" when ((ElementType)a.T.DataType).Size() > 0 => TensorFormat.FromProto(a.T),
            "value_int" => Tensor.From<long>([], [a.I]),
            "value_float" => Tensor.From<float>([], [a.F]),
            "value_ints" => Tensor.From<long>([a.Ints.Count], [.. a.Ints]),
            "value_floats" => Tensor.From<float>([a.Floats.Count], [.. a.Floats]),
            _ => null,
        };
    }

    /// <summary>
    /// Orders nodes so that each comes after what it reads; the file's order where that is already so.
    /// </summary>
    private List<NodeProto> Sorted(IReadOnlyList<NodeProto> nodes, Func<string, bool> isGiven)
    {
        var known = new HashSet<string>(StringComparer.Ordinal) { "" };
        var sorted = new List<NodeProto>(nodes.Count);
        var waiting = new Dictionary<string, List<(NodeProto Node, int[] Missing)>>(StringComparer.Ordinal);
        var pending = 0;
        foreach (var node in nodes)
        {
            var missing = node
                .Input.Concat(node.Attribute.SelectMany(OpsetUpgrade.Subgraphs).SelectMany(OuterNames))
                .Where(n => !known.Contains(n) && !isGiven(n))
                .Distinct(StringComparer.Ordinal)
                .ToArray();
            if (missing.Length == 0)
            {
                Emit(node);
                continue;
            }

            pending++;
            var count = new[] { missing.Length };
            foreach (var name in missing)
            {
                (waiting.TryGetValue(name, out var list) ? list : waiting[name] = []).Add((node, count));
            }
        }

        if (pending > 0)
        {
            var (name, readers) = waiting.First(w => w.Value.Any(r => r.Missing[0] > 0));
            throw new MacOnnxException(
                "MAC0007",
                _path,
                $"Node '{readers[0].Node.Name}' ({readers[0].Node.OpType}) reads '{name}', which nothing "
                    + $"computes before it.",
                "Export the model again."
            );
        }

        return sorted;

        void Emit(NodeProto first)
        {
            var ready = new Queue<NodeProto>([first]);
            while (ready.TryDequeue(out var node))
            {
                sorted.Add(node);
                foreach (var output in node.Output.Where(o => known.Add(o)))
                {
                    if (waiting.Remove(output, out var readers))
                    {
                        foreach (var (reader, missing) in readers)
                        {
                            if (--missing[0] == 0)
                            {
                                pending--;
                                ready.Enqueue(reader);
                            }
                        }
                    }
                }
            }
        }
    }
}
