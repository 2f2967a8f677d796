using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Makes a <see cref="Graph"/> of a normalized <c>GraphProto</c>. Constant nodes become constants under their output's
/// name.
/// </summary>
internal static class GraphImporter
{
    public static Graph Import(ModelProto model, string path)
    {
        var proto = model.Graph;
        var graph = new Graph { Name = proto.Name };
        foreach (var opset in model.OpsetImport)
        {
            graph.Opsets[opset.Domain == "ai.onnx" ? "" : opset.Domain] = opset.Version;
        }

        var folder = Path.GetDirectoryName(Path.GetFullPath(path));
        var values = new Dictionary<string, Value>(StringComparer.Ordinal);
        foreach (var tensor in proto.Initializer)
        {
            AddConstant(tensor.Name, TensorFormat.FromProto(tensor, folder));
        }

        foreach (var info in proto.Input)
        {
            graph.Declarations[info.Name] = info;
            if (!values.ContainsKey(info.Name))
            {
                var value = values[info.Name] = graph.AddValue(info.Name);
                value.Type = (ElementType)(info.Type?.TensorType?.ElemType ?? 0);
                graph.Inputs.Add(value);
            }
        }

        foreach (var node in Sorted(proto.Node, values.Keys, path))
        {
            if (node.OpType == "Constant" && node.Domain is "" or "ai.onnx" && ConstantOf(node, folder) is { } constant)
            {
                AddConstant(node.Output[0], constant);
            }
            else
            {
                AddNode(node);
            }
        }

        foreach (var info in proto.Output)
        {
            graph.Declarations[info.Name] = info;
            graph.Outputs.Add(
                values.TryGetValue(info.Name, out var value)
                    ? value
                    : throw new MacOnnxException(
                        "MAC0008",
                        path,
                        $"Nothing computes the output '{info.Name}'.",
                        "Export the model again."
                    )
            );
        }

        return graph;

        void AddConstant(string name, Tensor tensor)
        {
            var value = values[name] = graph.AddValue(name);
            (value.Constant, value.Type, value.Shape) = (tensor, tensor.Type, Shape.Of(tensor.Dims.AsSpan()));
        }

        void AddNode(NodeProto node)
        {
            var inputs = node.Input.Select(n => n.Length == 0 ? null : values[n]).ToList();
            while (inputs.Count > 0 && inputs[^1] is null)
            {
                inputs.RemoveAt(inputs.Count - 1);
            }

            var made = new Node(
                node.OpType,
                node.Domain == "ai.onnx" ? "" : node.Domain,
                node.Name,
                inputs,
                node.Attribute
            )
            {
                DocString = node.DocString,
                Metadata = node.MetadataProps,
            };
            made.Captured.AddRange(
                node.Attribute.SelectMany(OpsetUpgrade.Subgraphs)
                    .SelectMany(OuterNames)
                    .Distinct()
                    .Where(values.ContainsKey)
                    .Select(n => values[n])
            );
            foreach (var name in node.Output)
            {
                var value = graph.AddValue(name);
                value.Producer = made;
                made.Outputs.Add(value);
                if (name.Length > 0)
                {
                    values[name] = value;
                }
            }

            graph.Nodes.Add(made);
        }
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
    public static Tensor? ConstantOf(NodeProto node, string? folder)
    {
        if (node.Attribute.Count != 1)
        {
            return null;
        }

        var a = node.Attribute[0];
        return a.Name switch
        {
            "value" when ((ElementType)a.T.DataType).Size() > 0 => TensorFormat.FromProto(a.T, folder),
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
    private static List<NodeProto> Sorted(IReadOnlyList<NodeProto> nodes, IEnumerable<string> given, string path)
    {
        var known = new HashSet<string>(given, StringComparer.Ordinal) { "" };
        var sorted = new List<NodeProto>(nodes.Count);
        var waiting = new Dictionary<string, List<(NodeProto Node, int[] Missing)>>(StringComparer.Ordinal);
        var pending = 0;
        foreach (var node in nodes)
        {
            var missing = node
                .Input.Concat(node.Attribute.SelectMany(OpsetUpgrade.Subgraphs).SelectMany(OuterNames))
                .Where(n => !known.Contains(n))
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
                path,
                $"Node '{readers[0].Node.Name}' ({readers[0].Node.OpType}) reads '{name}', which nothing computes before it.",
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
