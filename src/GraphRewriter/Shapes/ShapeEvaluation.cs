using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Shapes;

/// <summary>Evaluates what a graph computes from shapes alone, such as the target of a Reshape.</summary>
internal static class ShapeEvaluation
{
    /// <summary>Results with more elements than this stay in the graph.</summary>
    private const long LargestResult = 1 << 16;

    /// <summary>
    /// Adds to <paramref name="evaluated"/> (one map for each probe) the values that the shapes known so far determine.
    /// </summary>
    /// <returns>Whether any was added.</returns>
    /// <remarks>
    /// A floating-point value counts only where it was computed from an integer one, and from no floating-point
    /// constant of several
    /// elements: arithmetic on weights, or picking rows of them by position, is left alone.
    /// </remarks>
    public static bool Extend(Graph graph, Dictionary<Value, Tensor>[] evaluated)
    {
        var pending = new List<Node>();
        var determined = new HashSet<Value>(evaluated[0].Keys);
        var before = determined.Count;
        foreach (var node in graph.Nodes.Where(n => n.Outputs.Count > 0 && !n.Outputs.All(determined.Contains)))
        {
            if (IsDetermined(node, determined))
            {
                determined.UnionWith(node.Outputs);
                pending.Add(node);
            }
        }

        if (determined.Count == before)
        {
            return false;
        }

        for (var i = 0; i < evaluated.Length; i++)
        {
            Evaluate(graph, pending, i == 0 ? d => d.First : d => d.Second, evaluated[i]);
        }

        return true;
    }

    private static bool IsDetermined(Node node, HashSet<Value> determined)
    {
        if (node.Is("Shape") || node.Is("Size"))
        {
            return node.Inputs[0]!.Shape is { } shape && shape.Dims.All(d => d.IsKnown);
        }

        if (node.Domain.Length > 0 || node.Attributes.Graphs.Any() || OpTable.Find(node) is { IsRandom: true })
        {
            return false;
        }

        var inputs = node.Inputs.OfType<Value>().ToArray();
        return inputs.All(v =>
                determined.Contains(v) || (v.Constant is { } c && (c.ElementCount == 1 || !c.Type.IsFloatingPoint()))
            )
            && node.Outputs.All(o =>
                o.Shape is { } s
                && s.Dims.All(d => d.IsKnown)
                && s.Dims.Aggregate(1.0, (n, d) => n * Math.Max(d.First, d.Second)) <= LargestResult
            )
            && (inputs.Any(determined.Contains) || node.Outputs.All(o => !o.Type.IsFloatingPoint()))
            && (inputs.Any(v => !v.Type.IsFloatingPoint() || determined.Contains(v)));
    }

    private static void Evaluate(
        Graph graph,
        List<Node> nodes,
        Func<Dim, long> size,
        Dictionary<Value, Tensor> evaluated
    )
    {
        var part = new List<Node>();
        foreach (var node in nodes)
        {
            if (node.Is("Shape") || node.Is("Size"))
            {
                evaluated[node.Outputs[0]] = ShapeOf(node, size);
            }
            else
            {
                part.Add(node);
            }
        }

        if (part.Count == 0)
        {
            return;
        }

        var known = part.SelectMany(n => n.Reads)
            .Distinct()
            .Where(v => v.Constant is not null || evaluated.ContainsKey(v))
            .ToDictionary(v => v.Name, v => v.Constant ?? evaluated[v], StringComparer.Ordinal);
        var outputs = part.SelectMany(n => n.Outputs).Where(o => o.Name.Length > 0).ToArray();
        var results = SubgraphRun.Run(graph, part, known, [.. outputs.Select(o => o.Name)]);
        for (var i = 0; i < outputs.Length; i++)
        {
            evaluated[outputs[i]] = results[i];
        }
    }

    /// <summary>Gives what a Shape or Size node computes at one of the two sizes.</summary>
    public static Tensor ShapeOf(Node node, Func<Dim, long> size)
    {
        var dims = node.Inputs[0]!.KnownShape.Dims.Select(size).ToArray();
        if (node.Is("Size"))
        {
            return Tensor.From<long>([], [Tensor.CountOf(dims)]);
        }

        var rank = dims.Length;
        var start = Clamp(node.Attributes.Int("start", 0));
        var end = Clamp(node.Attributes.Int("end", rank));
        return Tensor.From<long>([Math.Max(0, end - start)], dims.AsSpan(start, Math.Max(0, end - start)));

        int Clamp(long axis) => (int)Math.Clamp(axis < 0 ? axis + rank : axis, 0, rank);
    }
}
