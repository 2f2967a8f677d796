namespace MacOnnx.GraphRewriter.Ir;

/// <summary>Copies what a subgraph computes into another graph.</summary>
internal static class GraphCopy
{
    /// <summary>Appends copies of a graph's nodes, and of the graphs inside them, under fresh names.</summary>
    /// <param name="body">The graph, which stays as it is.</param>
    /// <param name="target">The graph that the copies belong to.</param>
    /// <param name="append">Adds a node to it.</param>
    /// <param name="given">What stands for inputs of the body.</param>
    /// <returns>What stands for the body's outputs: copies, or values of graphs around it.</returns>
    public static Value[] Append(Graph body, Graph target, Action<Node> append, IReadOnlyDictionary<Value, Value> given)
    {
        var map = given.ToDictionary();
        Append(body, target, append, map);
        return [.. body.Outputs.Select(o => map.GetValueOrDefault(o, o))];
    }

    private static void Append(Graph body, Graph target, Action<Node> append, Dictionary<Value, Value> map)
    {
        foreach (var constant in body.Constants().Where(c => c.Graph == body && !map.ContainsKey(c)))
        {
            map[constant] = target.AddConstant(target.FreshName(constant.Name), constant.Constant!);
        }

        foreach (var node in body.Nodes)
        {
            if (ConstantOf(node) is { } tensor)
            {
                map[node.Outputs[0]] = target.AddConstant(target.FreshName(node.Outputs[0].Name), tensor);
                continue;
            }

            Attr[] attributes =
            [
                .. node.Attributes.All.Select(a =>
                    a.Value switch
                    {
                        Graph graph => a with { Value = Copy(graph) },
                        Graph[] graphs => a with { Value = graphs.Select(Copy).ToArray() },
                        _ => a,
                    }
                ),
            ];
            var inputs = node.Inputs.Select(v => v is null ? null : map.GetValueOrDefault(v, v)).ToArray();
            append(
                new Node(
                    node.OpType,
                    node.Domain,
                    "", // names of nodes must differ, and need not be
                    inputs,
                    attributes,
                    [.. node.Outputs.Select(o => Made(o, target))]
                )
                {
                    Function = node.Function,
                    Origin = node.Origin,
                    DocString = node.DocString,
                    Metadata = node.Metadata,
                }
            );
        }

        Graph Copy(Graph graph)
        {
            var copy = new Graph(target) { Name = graph.Name };
            copy.Inputs.AddRange(graph.Inputs.Select(i => Made(i, copy)));
            Append(graph, copy, copy.Add, map);
            copy.Outputs.AddRange(graph.Outputs.Select(o => map.GetValueOrDefault(o, o)));
            return copy;
        }

        Value Made(Value value, Graph owner)
        {
            var made = owner.AddValue(value.Name.Length == 0 ? "" : owner.FreshName(value.Name));
            (made.Type, made.Shape, made.Declared) = (value.Type, value.Shape, value.Declared);
            return map[value] = made;
        }
    }

    /// <summary>Gives what a Constant node holds; null for other nodes.</summary>
    private static Tensor? ConstantOf(Node node) =>
        node.Is("Constant") && node.Attributes.All.ToArray() is [var a]
            ? (a.Name, a.Value) switch
            {
                ("value", Tensor tensor) when tensor.Type.Size() > 0 => tensor,
                ("value_int", long value) => Tensor.From<long>([], [value]),
                ("value_float", float value) => Tensor.From<float>([], [value]),
                ("value_ints", long[] values) => Tensor.From<long>([values.Length], values),
                ("value_floats", float[] values) => Tensor.From<float>([values.Length], values),
                _ => null,
            }
            : null;
}
