using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Autodiff;

/// <summary>Reverse-mode differentiation: appends to a graph the nodes that compute the gradient of a scalar.</summary>
/// <remarks>
/// Everything that is not particular to an operator happens here, once: which nodes lie between parameters and loss,
/// adding what
/// flows back along several edges, undoing broadcasting, shapes of gradients, and what to say about operators without a
/// rule.
/// </remarks>
internal static class Backward
{
    /// <summary>Appends the gradients of a scalar with respect to <paramref name="wanted"/>.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="loss">The value that differentiation starts from.</param>
    /// <param name="seed">The gradient of the scalar with respect to <paramref name="loss"/>.</param>
    /// <param name="wanted">The values whose gradients are wanted.</param>
    /// <param name="model">The model, for messages.</param>
    /// <returns>The gradient of each wanted value; a value that the loss does not depend on is missing.</returns>
    /// <exception cref="MacOnnxException">Operators without a rule lie in between; the message names all of
    /// them.</exception>
    public static Dictionary<Value, Value> Differentiate(
        Graph graph,
        Value loss,
        Value seed,
        IEnumerable<Value> wanted,
        string? model = null
    )
    {
        var targets = wanted.ToHashSet();
        var path = Path(graph, loss, targets);
        if (WithoutRule(path.Nodes) is { Count: > 0 } unknown)
        {
            var list = string.Join(
                ", ",
                unknown
                    .GroupBy(n => n.QualifiedOp, StringComparer.Ordinal)
                    .Select(g =>
                        $"{g.Key} ({string.Join(", ", g.Take(3).Select(n => n.Name))}{(g.Count() > 3 ? ", ..." : "")}{(OpTable.Find(g.First())?.Refused is { } reason ? $": {reason}" : "")})"
                    )
            );
            throw new MacOnnxException(
                "MAC0101",
                model ?? graph.Name,
                $"No gradient is known for {list}.",
                "Freeze the parameters behind them with --frozen, or add a row to the operator table."
            );
        }

        var builder = new GraphBuilder(graph) { Prefix = "backward/" };
        var gradients = new Dictionary<Value, Value> { [loss] = seed };
        foreach (var node in path.Nodes.Reverse())
        {
            if (OpTable.Find(node) is not { Gradient: { } rule } row || !node.Outputs.Any(gradients.ContainsKey))
            {
                continue;
            }

            builder.Origin = $"autodiff {node}";
            builder.Prefix = $"backward/{(node.Name.Length > 0 ? node.Name : node.Outputs[0].Name).TrimStart('/')}/";
            var context = new GradientContext(
                builder,
                node,
                [.. node.Outputs.Select(o => gradients.GetValueOrDefault(o))],
                i => node.Inputs[i] is { } v && path.Values.Contains(v)
            );
            var result = rule(context);
            for (var i = 0; i < result.Length && i < node.Inputs.Count; i++)
            {
                if (result[i] is { } term && node.Inputs[i] is { } input && path.Values.Contains(input))
                {
                    var gradient = Stamp(
                        row.Broadcasts ? Broadcasting.Undo(term, node.Outputs[0].KnownShape, input) : term,
                        input
                    );
                    gradients[input] = gradients.TryGetValue(input, out var other)
                        ? Stamp(new Term(builder, other) + new Term(builder, gradient), input)
                        : gradient;
                }
            }
        }

        return targets.Where(gradients.ContainsKey).ToDictionary(t => t, t => gradients[t]);
    }

    /// <summary>
    /// Gives the nodes on the way from the wanted values to the loss that have no rule, in graph order.
    /// </summary>
    public static IReadOnlyList<Node> WithoutRule(Graph graph, Value loss, IEnumerable<Value> wanted) =>
        WithoutRule(Path(graph, loss, wanted.ToHashSet()).Nodes);

    /// <summary>
    /// Gives the values that depend on the wanted ones through differentiable operators and that the loss depends on.
    /// </summary>
    /// <remarks>
    /// An operator that is not in the table counts as differentiable: it must be reported, not ignored.
    /// </remarks>
    public static (HashSet<Value> Values, IReadOnlyList<Node> Nodes) Path(
        Graph graph,
        Value loss,
        HashSet<Value> wanted
    )
    {
        var forward = new HashSet<Value>(wanted);
        foreach (var node in graph.Nodes)
        {
            if (
                node.Reads.Any(forward.Contains)
                && (OpTable.Find(node) is not { } row || row.Gradient is not null || row.IsObstacle)
            )
            {
                forward.UnionWith(node.Outputs.Where(o => o.Type.IsFloatingPoint() || o.Type == ElementType.Undefined));
            }
        }

        var values = new HashSet<Value>();
        var nodes = new List<Node>();
        if (forward.Contains(loss))
        {
            values.Add(loss);
        }

        for (var i = graph.Nodes.Count - 1; i >= 0; i--)
        {
            var node = graph.Nodes[i];
            if (node.Outputs.Any(values.Contains))
            {
                nodes.Add(node);
                values.UnionWith(node.Reads.Where(forward.Contains));
            }
        }

        nodes.Reverse();
        return (values, nodes);
    }

    private static List<Node> WithoutRule(IEnumerable<Node> nodes) =>
        [.. nodes.Where(n => OpTable.Find(n) is null or { IsObstacle: true })];

    private static Value Stamp(Term gradient, Value like)
    {
        (gradient.V.Shape, gradient.V.Type) = (like.Shape, like.Type);
        return gradient;
    }
}
