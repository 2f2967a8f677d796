using Google.Protobuf.Collections;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>Cuts parts out of the graph of a model file, by the names of values.</summary>
internal static class GraphParts
{
    /// <summary>
    /// Gives the part of a graph that predicts: what comes before the nodes that depend on the target, which is an
    /// input that no parameter is applied to, not even indirectly.
    /// </summary>
    public static ModelProto Prediction(ModelProto model)
    {
        var part = model.Clone();
        var graph = part.Graph;
        var parameters = graph.Initializer.Select(i => i.Name).ToHashSet(StringComparer.Ordinal);
        var weights = graph
            .Initializer.Where(i => i is { DataType: 1 or 10 or 16, Dims.Count: > 1 })
            .Select(i => i.Name)
            .ToHashSet(StringComparer.Ordinal);
        var after = new HashSet<string>(StringComparer.Ordinal);
        foreach (var input in graph.Input.Select(i => i.Name).Where(i => !parameters.Contains(i)))
        {
            var dependents = Dependents(graph, [input]);
            if (!graph.Node.Any(n => n.Output.Any(dependents.Contains) && n.Input.Any(weights.Contains)))
            {
                after.UnionWith(dependents);
            }
        }

        var read = graph
            .Node.Where(n => n.Output.Any(after.Contains))
            .SelectMany(n => n.Input)
            .ToHashSet(StringComparer.Ordinal);
        var predictions = graph
            .Node.SelectMany(n => n.Output)
            .Where(o => read.Contains(o) && !after.Contains(o))
            .Select(o => new ValueInfoProto { Name = o })
            .ToList();
        if (predictions.Count > 0)
        {
            Keep(part, predictions);
        }

        return part;
    }

    /// <summary>Gives the values that depend on some others.</summary>
    public static HashSet<string> Dependents(GraphProto graph, IEnumerable<string> values)
    {
        var dependents = values.ToHashSet(StringComparer.Ordinal);
        var before = -1;
        while (before != dependents.Count)
        {
            before = dependents.Count;
            foreach (var node in graph.Node.Where(n => n.Input.Any(i => i.Length > 0 && dependents.Contains(i))))
            {
                dependents.UnionWith(node.Output.Where(o => o.Length > 0));
            }
        }

        return dependents;
    }

    /// <summary>Keeps the nodes, initializers and operator sets that some outputs need.</summary>
    public static void Keep(ModelProto model, IReadOnlyList<ValueInfoProto> outputs)
    {
        var graph = model.Graph;
        var live = outputs.Select(o => o.Name).ToHashSet(StringComparer.Ordinal);
        var kept = new HashSet<NodeProto>(ReferenceEqualityComparer.Instance);
        var before = -1;
        while (before != kept.Count)
        {
            before = kept.Count;
            foreach (var node in graph.Node.Reverse().Where(n => !kept.Contains(n) && n.Output.Any(live.Contains)))
            {
                kept.Add(node);
                live.UnionWith(
                    node.Input.Concat(
                        node.Attribute.SelectMany(OpsetUpgrade.Subgraphs).SelectMany(GraphImporter.OuterNames)
                    )
                );
            }
        }

        RemoveWhere(graph.Node, n => !kept.Contains(n));
        RemoveWhere(graph.Initializer, i => !live.Contains(i.Name));
        RemoveWhere(graph.Input, i => !live.Contains(i.Name));
        graph.ValueInfo.Clear();
        graph.Output.Clear();
        graph.Output.AddRange(outputs.Select(o => o.Clone()));
        var domains = graph.Node.Select(n => n.Domain).Append("").Append("ai.onnx").ToHashSet(StringComparer.Ordinal);
        RemoveWhere(model.OpsetImport, o => !domains.Contains(o.Domain));
    }

    public static void RemoveWhere<T>(RepeatedField<T> list, Func<T, bool> condition)
    {
        var kept = list.Where(e => !condition(e)).ToArray();
        list.Clear();
        list.AddRange(kept);
    }

    /// <summary>Makes a node that casts a value.</summary>
    public static NodeProto Cast(string from, string to, ElementType type)
    {
        var node = new NodeProto { OpType = "Cast", Name = to };
        node.Input.Add(from);
        node.Output.Add(to);
        node.Attribute.Add(AttributeFormat.ToProto(Attr.Int("to", (long)type)));
        return node;
    }

    /// <summary>Appends the quotient of two values in float.</summary>
    /// <returns>Its name.</returns>
    public static string Quotient(GraphProto graph, string dividend, string divisor)
    {
        var result = $"{dividend}/{divisor}";
        var node = new NodeProto { OpType = "Div", Name = result };
        foreach (var (name, suffix) in new[] { (dividend, "dividend"), (divisor, "divisor") })
        {
            graph.Node.Add(Cast(name, $"{result}/{suffix}", ElementType.Float));
            node.Input.Add($"{result}/{suffix}");
        }

        node.Output.Add(result);
        graph.Node.Add(node);
        return result;
    }
}
