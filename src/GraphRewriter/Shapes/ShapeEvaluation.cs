using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Shapes;

/// <summary>Evaluates what a graph computes from shapes alone, such as the target of a Reshape.</summary>
internal static class ShapeEvaluation
{
    /// <summary>Results with more elements than this stay in the graph.</summary>
    private const long LargestResult = 1 << 16;

    /// <summary>What needs a value with more elements than this is not evaluated: a mask of 4096 x 4096.</summary>
    private const double MostElements = 1 << 24;

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
            // A computed value whose rank is not known yet looks like a scalar.
            return node.Inputs[0]! is { Shape: { } shape } read
                && shape.Dims.All(d => d.IsKnown)
                && (shape.Rank > 0 || read.Producer is null);
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

    /// <summary>Computes a value from constants and shapes at one of the two sizes.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="value">The value.</param>
    /// <param name="size">Gives a dimension at that size.</param>
    /// <param name="leaf">Gives what an input of the graph holds; null where nothing is known of them.</param>
    /// <returns>The value; null where it depends on what is not known, or ONNX Runtime does not compute it.</returns>
    public static Tensor? Evaluate(Graph graph, Value value, Func<Dim, long> size, Func<Value, Tensor?>? leaf = null)
    {
        var known = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        var (nodes, seen, open) = (new HashSet<Node>(), new HashSet<Value>(), new Stack<Value>([value]));
        var isKnown = true;
        while (open.TryPop(out var at))
        {
            if (!seen.Add(at))
            {
                continue;
            }

            if (at.Shape?.Dims.Aggregate(1.0, (n, d) => n * Math.Max(d.First, d.Second)) > MostElements)
            {
                return null;
            }

            if (at.Producer is not { } node)
            {
                isKnown &= (at.Constant ?? leaf?.Invoke(at)) is { } tensor && known.TryAdd(at.Name, tensor);
            }
            else if (
                (node.Is("Shape") || node.Is("Size"))
                && node.Inputs[0]!.Shape is { } shape
                && shape.Dims.All(d => d.IsKnown)
            )
            {
                known[at.Name] = ShapeOf(node, size);
            }
            else if (nodes.Add(node))
            {
                node.Reads.ToList().ForEach(open.Push);
            }
        }

        try
        {
            return !isKnown ? null
                : nodes.Count == 0 ? known[value.Name]
                : SubgraphRun.Run(graph, [.. nodes.OrderBy(graph.Position)], known, [value.Name])[0];
        }
        catch (OnnxRuntimeException)
        {
            return null;
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
