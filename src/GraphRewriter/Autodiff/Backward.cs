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
    /// <returns>
    /// The gradient of every value between the wanted ones and the loss; a wanted value that the loss does not depend
    /// on is missing.
    /// </returns>
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
                        $"{g.Key} "
                        + $"({string.Join(", ", g.Take(3).Select(n => n.Name))}{(g.Count() > 3 ? ", ..." : "")}"
                        + $"{(OpTable.Find(g.First())?.Refused is { } reason ? $": {reason}" : "")})"
                    )
            );
            throw new MacOnnxException(
                "MAC0101",
                model ?? graph.Name,
                $"No gradient is known for {list}.",
                "Freeze the parameters behind them with RewriteOptions.Frozen, or add a row to the operator table."
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
                i => !row.Constant.Contains(i) && node.Inputs[i] is { } v && path.Values.Contains(v)
            );
            var result = rule(context);
            for (var i = 0; i < node.Inputs.Count; i++)
            {
                if (!context.Needs(i))
                {
                    continue;
                }

                var (input, term) = (node.Inputs[i]!, i < result.Length ? result[i] : null);
                if (term is null)
                {
                    throw new InvalidOperationException($"The rule of {node} gives no gradient for its input {i}.");
                }

                var gradient = Stamp(
                    row.Broadcasts ? Broadcasting.Undo(term.Value, node.Outputs[0].KnownShape, input) : term.Value,
                    input
                );
                gradients[input] = gradients.TryGetValue(input, out var other)
                    ? Stamp(new Term(builder, other) + new Term(builder, gradient), input)
                    : gradient;
            }
        }

        return gradients;
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
            var row = OpTable.Find(node);
            if (
                Differentiated(node, row).Any(forward.Contains)
                && (row is null || row.Gradient is not null || row.IsObstacle)
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
                values.UnionWith(Differentiated(node, OpTable.Find(node)).Where(forward.Contains));
            }
        }

        nodes.Reverse();
        return (values, nodes);
    }

    /// <summary>Gives what a node reads, less the inputs that its row says nothing flows back to.</summary>
    private static IEnumerable<Value> Differentiated(Node node, OpRule? row) =>
        row is null || row.Constant.Length == 0
            ? node.Reads
            : node.Inputs.Where((v, i) => v is not null && !row.Constant.Contains(i)).OfType<Value>();

    private static List<Node> WithoutRule(IEnumerable<Node> nodes) =>
        [.. nodes.Where(n => OpTable.Find(n) is null or { IsObstacle: true })];

    private static Value Stamp(Term gradient, Value like)
    {
        (gradient.V.Shape, gradient.V.Type) = (like.Shape, like.Type);
        return gradient;
    }
}
