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
    /// <summary>No node that a pass should have replaced.</summary>
    public static readonly IReadOnlyDictionary<Node, UnsupportedUseException> NothingRefused =
        new Dictionary<Node, UnsupportedUseException>();

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
    /// <exception cref="MacOnnxException">Gradients do not pass some nodes in between; the message names all of
    /// them.</exception>
    public static Dictionary<Value, Value> Differentiate(
        Graph graph,
        Value loss,
        Value seed,
        IReadOnlyCollection<Value> wanted,
        string? model = null
    )
    {
        var gradients = Differentiate(graph, [(loss, seed)], wanted, NothingRefused, out var obstacles);
        return obstacles.Count == 0
            ? gradients
            : throw Obstacle.Error(obstacles, wanted.ToDictionary(w => w, w => w.Name), model ?? graph.Name);
    }

    /// <summary>
    /// Appends the gradients of a scalar, and gives every node that they do not pass: behind one they are zero.
    /// </summary>
    /// <param name="graph">The graph.</param>
    /// <param name="loss">The value that differentiation starts from.</param>
    /// <param name="seed">The gradient of the scalar with respect to <paramref name="loss"/>.</param>
    /// <param name="wanted">The values whose gradients are wanted.</param>
    /// <param name="refused">Nodes that a pass should have replaced, and why it could not.</param>
    /// <param name="obstacles">The nodes, in graph order; empty where the gradients are right.</param>
    public static Dictionary<Value, Value> Differentiate(
        Graph graph,
        Value loss,
        Value seed,
        IReadOnlyCollection<Value> wanted,
        IReadOnlyDictionary<Node, UnsupportedUseException> refused,
        out IReadOnlyList<Obstacle> obstacles
    ) => Differentiate(graph, [(loss, seed)], wanted, refused, out obstacles);

    /// <summary>Appends the gradients of a sum of several values, each weighted with a seed.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="seeds">The values that differentiation starts from, each with the gradient of it.</param>
    /// <param name="wanted">The values whose gradients are wanted; in a subgraph also such from outside.</param>
    /// <param name="refused">As in the other overload.</param>
    /// <param name="obstacles">As in the other overload.</param>
    public static Dictionary<Value, Value> Differentiate(
        Graph graph,
        IReadOnlyList<(Value Value, Value Gradient)> seeds,
        IReadOnlyCollection<Value> wanted,
        IReadOnlyDictionary<Node, UnsupportedUseException> refused,
        out IReadOnlyList<Obstacle> obstacles
    )
    {
        var path = Path(graph, seeds.Select(s => s.Value), wanted.ToHashSet());
        var builder = new GraphBuilder(graph) { Prefix = "backward/" };
        var gradients = new Dictionary<Value, Value>();
        foreach (var (value, gradient) in seeds)
        {
            gradients[value] = gradients.TryGetValue(value, out var other)
                ? Stamp(new Term(builder, other) + new Term(builder, gradient), value)
                : gradient;
        }
        var found = new List<Obstacle>();
        foreach (var node in path.Nodes.Reverse())
        {
            var row = OpTable.Find(node);
            if (row is { Gradient: null, IsObstacle: false } || !node.Outputs.Any(gradients.ContainsKey))
            {
                continue;
            }

            builder.Origin = $"autodiff {node}";
            Value?[] outputs = [.. node.Outputs.Select(o => gradients.GetValueOrDefault(o))];
            builder.Prefix = $"backward/{Obstacle.NameOf(node).TrimStart('/')}/";
            var context = new GradientContext(
                builder,
                node,
                outputs,
                i => row?.Constant.Contains(i) != true && node.Inputs[i] is { } v && path.Values.Contains(v)
            );
            Term?[]? result = null;
            try
            {
                if (SubgraphGradients.Has(row))
                {
                    var inside = new List<Obstacle>();
                    foreach (
                        var (value, gradient) in SubgraphGradients.Of(
                            builder,
                            node,
                            outputs,
                            path.Values.Contains,
                            inside
                        )
                    )
                    {
                        Accumulate(value, new(builder, gradient));
                    }

                    inside.Reverse();
                    found.AddRange(inside.Select(o => o with { CutOff = CutOff(node) }));
                    continue;
                }

                result = row?.Gradient?.Invoke(context);
                if (result is null)
                {
                    var use = refused.GetValueOrDefault(node);
                    found.Add(new(node, use?.Reason ?? row?.Refused ?? "", use, CutOff(node)));
                }
            }
            catch (UnsupportedUseException use)
            {
                found.Add(new(node, use.Reason, use, CutOff(node)));
            }
            catch (OpenDimensionException)
            {
                var use = new UnsupportedUseException(
                    "MAC0107",
                    $"{node}",
                    "a size is left open that the gradient needs",
                    "Fix the model's dynamic dimensions with RewriteOptions.Dimensions (NAME=SIZE)."
                );
                found.Add(new(node, use.Reason, use, CutOff(node)));
            }
            catch (MacOnnxException) when (found.Count > 0)
            {
                // What is found so far has to be said; this may follow from it.
                break;
            }

            for (var i = 0; i < node.Inputs.Count; i++)
            {
                if (!context.Needs(i))
                {
                    continue;
                }

                var input = node.Inputs[i]!;
                var term =
                    result is null ? new Term(builder, input).Zeros()
                    : i < result.Length && result[i] is { } given ? given
                    : throw new InvalidOperationException($"The rule of {node} gives no gradient for its input {i}.");
                Accumulate(
                    input,
                    result is not null && row!.Broadcasts
                        ? Broadcasting.Undo(term, node.Outputs[0].KnownShape, input)
                        : term
                );
            }
        }

        found.Reverse();
        obstacles = found;
        return gradients;

        void Accumulate(Value value, Term gradient)
        {
            var more = Stamp(gradient, value);
            gradients[value] = gradients.TryGetValue(value, out var other)
                ? Stamp(new Term(builder, other) + new Term(builder, more), value)
                : more;
        }

        Value[] CutOff(Node node)
        {
            var (seen, open) = (new HashSet<Value>(), new Stack<Node>([node]));
            while (open.TryPop(out var next))
            {
                foreach (var value in Differentiated(next, OpTable.Find(next)))
                {
                    if (path.Values.Contains(value) && seen.Add(value) && value.Producer is { } producer)
                    {
                        open.Push(producer);
                    }
                }
            }

            return [.. wanted.Where(seen.Contains)];
        }
    }

    /// <summary>
    /// Gives the values that depend on the wanted ones through differentiable operators and that the loss depends on.
    /// </summary>
    /// <remarks>
    /// An operator that is not in the table counts as differentiable: it must be reported, not ignored.
    /// </remarks>
    public static (HashSet<Value> Values, IReadOnlyList<Node> Nodes) Path(
        Graph graph,
        IEnumerable<Value> ends,
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

        var values = ends.Where(forward.Contains).ToHashSet();
        var nodes = new List<Node>();
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

    private static Value Stamp(Term gradient, Value like)
    {
        (gradient.V.Shape, gradient.V.Type) = (like.Shape, like.Type);
        return gradient;
    }
}
