using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// Finds attention by data flow: softmax(q k') v, where q, k and v are outputs of dense layers, or of convolutions that
/// see one position at a time.
/// </summary>
/// <remarks>
/// From each Softmax forward to a product that sums over the softmax's axis (the values are its other factor), and back
/// through masks,
/// biases and scaling to the product of queries and keys. Names play no part.
/// </remarks>
internal sealed class AttentionFinder
{
    private const int MostDepth = 32;

    private readonly Graph _graph;
    private readonly ILookup<Value, Node> _readers;
    private readonly Dictionary<Node, DenseProduct> _products;

    private AttentionFinder(Graph graph, IEnumerable<Parameter> parameters)
    {
        (_graph, _readers) = (graph, graph.Readers());
        _products = DenseProducts.Find(graph, parameters);
    }

    /// <summary>Finds every attention layer, in graph order.</summary>
    /// <param name="graph">The graph, with shapes.</param>
    /// <param name="parameters">Its parameters.</param>
    /// <returns>The layers, and for what only looks like one: the softmax and where the match stopped.</returns>
    public static (List<Attention> Found, List<(Node Softmax, string Reason)> NearMisses) Find(
        Graph graph,
        IEnumerable<Parameter> parameters
    )
    {
        var finder = new AttentionFinder(graph, parameters);
        var (found, misses) = (new List<Attention>(), new List<(Node, string)>());
        foreach (var softmax in graph.Nodes.Where(n => n.Is("Softmax") && n.Outputs[0].Shape is { Rank: > 1 }))
        {
            var (attention, reason) = finder.Match(softmax);
            if (attention is not null)
            {
                found.Add(attention);
            }
            else if (reason.Length > 0)
            {
                misses.Add((softmax, reason));
            }
        }

        return (found, misses);
    }

    private (Attention? Attention, string Reason) Match(Node softmax)
    {
        var axis = softmax.Outputs[0].KnownShape.Axis(softmax.Attributes.Int("axis", -1));
        if (Weighted(softmax.Outputs[0], axis) is not { } use)
        {
            return (null, "");
        }

        var masks = new List<(Value Mask, bool KeepsWhere)>();
        var stop = "";
        if (Scores(softmax.Inputs[0]!, axis, 0, masks, ref stop) is not { } scores)
        {
            return (null, $"its scores are not a product of queries and keys: {stop}");
        }

        var (product, keyInput) = scores;
        var (keys, whyKeys) = OperandTrace.Follow(_graph, product.Node.Inputs[keyInput]!, false, _products);
        var (queries, whyQueries) = OperandTrace.Follow(_graph, product.Node.Inputs[1 - keyInput]!, false, _products);
        var (values, whyValues) = OperandTrace.Follow(_graph, use.Product.Node.Inputs[use.Input]!, true, _products);
        if (keys is null || queries is null || values is null)
        {
            return (
                null,
                queries is null ? $"its queries come from no dense layer: {whyQueries}"
                : keys is null ? $"its keys come from no dense layer: {whyKeys}"
                : $"its values come from no dense layer: {whyValues}"
            );
        }

        if (
            Project(queries) is not { } q
            || Project(keys) is not { } k
            || Project(values) is not { } v
            || queries.Map() is not { } map
        )
        {
            return (null, "the columns of its projections could not be followed");
        }

        var mask = string.Join(
            ", ",
            masks.Select(m => AttentionMask.Describe(_graph, m.Mask, m.KeepsWhere)).OfType<string>().Distinct()
        );
        var (tokens, noTokens) = TokenLayout.Find(
            values,
            use.Product,
            use.Input,
            use.Probabilities,
            use.KeyAxis,
            use.HasItsAxes
        );
        HashSet<Value> tables = [.. queries.Factors().Intersect(keys.Factors())];
        Value[] idle =
        [
            .. masks
                .Select(m => m.Mask)
                .Where(m =>
                    m.Constant is { } c && c.Type.IsFloatingPoint() && c.Data.Span.IndexOfAnyExcept((byte)0) < 0
                ),
        ];
        return (
            new(
                softmax,
                map.Distinct(p => p.Unit, product.SummedAxis(1 - keyInput)).Count,
                mask.Length > 0 ? mask : null,
                q,
                k,
                v,
                tokens,
                noTokens,
                tables,
                idle
            ),
            ""
        );
    }

    /// <summary>
    /// Gives the units that reach an operand; both ways are tried where parts of the output are combined, as rotary
    /// embeddings do.
    /// </summary>
    private static Projection? Project(OperandTrace trace)
    {
        var units = new bool[trace.Layer.Count];
        for (var choice = 0; choice < (trace.HasChoice ? 2 : 1); choice++)
        {
            if (trace.Map(choice: choice) is not { } map)
            {
                return null;
            }

            foreach (var column in map.Distinct(p => p.Unit))
            {
                units[trace.Layer.Units[column]] = true;
            }
        }

        return new(trace.Product, trace.Layer.Weight, [.. units]);
    }

    /// <summary>Follows probabilities forward to the product that weights values with them.</summary>
    private (Contraction Product, int Input, Value Probabilities, int KeyAxis, bool HasItsAxes)? Weighted(
        Value probabilities,
        int axis
    )
    {
        var open = new Queue<(Value Value, int Axis, Value Kept, int KeptAxis, bool HasItsAxes)>([
            (probabilities, axis, probabilities, axis, true),
        ]);
        var seen = new HashSet<Value>();
        while (open.TryDequeue(out var at))
        {
            foreach (var node in _readers[at.Value].Where(_ => seen.Count < MostDepth))
            {
                if (Contraction.Of(node) is { } product)
                {
                    var input = ReferenceEquals(node.Inputs[0], at.Value) ? 1 : 0;
                    if (
                        product.SummedAxis(1 - input) == at.Axis
                        && node.Inputs[input]!.Constant is null
                        && !_products.ContainsKey(node)
                    )
                    {
                        return (product, input, at.Kept, at.KeptAxis, at.HasItsAxes);
                    }

                    continue;
                }

                if (
                    KeepsProbabilities(node, at.Value)
                    && Across(node, at.Value, at.Axis, forward: true) is { } next
                    && seen.Add(node.Outputs[0])
                )
                {
                    // What dropout (also spelled as a product with a mask) leaves is not what the mean attention is of.
                    var keeps =
                        ReferenceEquals(at.Kept, at.Value) && !(node.Is("Dropout") || node.Is("Mul") || node.Is("Div"));
                    open.Enqueue(
                        (
                            node.Outputs[0],
                            next,
                            keeps ? node.Outputs[0] : at.Kept,
                            keeps ? next : at.KeptAxis,
                            keeps || (at.HasItsAxes && OpTable.FlowOf(node) != Flow.Axes)
                        )
                    );
                }
            }
        }

        return null;
    }

    /// <summary>
    /// Follows scores back to the product of queries and keys; gives which of its inputs is the keys.
    /// </summary>
    private (Contraction Product, int KeyInput)? Scores(
        Value value,
        int axis,
        int depth,
        List<(Value, bool)> masks,
        ref string stop
    )
    {
        if (value.Producer is not { } node || depth > MostDepth)
        {
            return null;
        }

        if (Contraction.Of(node) is { } product)
        {
            var key = product.Result[axis];
            var keyInput = product.Left.Contains(key, StringComparison.Ordinal) ? 0 : 1;
            if (
                _products.ContainsKey(node)
                || node.Inputs.Any(i => i!.Constant is not null)
                || product.Operand(1 - keyInput).Contains(key, StringComparison.Ordinal)
            )
            {
                stop = stop.Length > 0 ? stop : $"{node} multiplies with a weight";
                return null;
            }

            return (product, keyInput);
        }

        if (OpTable.FlowOf(node) is not (Flow.Axes or Flow.Linear or Flow.Pointwise))
        {
            stop = stop.Length > 0 ? stop : $"they come through {node}";
            return null;
        }

        foreach (var i in OpTable.Find(node)!.DataInputs(node))
        {
            if (
                node.Inputs[i] is { Constant: null } input
                && Across(node, input, axis, forward: false) is { } before
                && Scores(input, before, depth + 1, masks, ref stop) is { } found
            )
            {
                if (node.Is("Where"))
                {
                    masks.Add((node.Inputs[0]!, i == 1));
                }
                else if (node.OpType is "Add" or "Sub" or "Min")
                {
                    masks.Add((node.Inputs[1 - i]!, true));
                }

                return found;
            }
        }

        return null;
    }

    /// <summary>Whether an operator moves probabilities, scales them or leaves some out.</summary>
    private static bool KeepsProbabilities(Node node, Value probabilities) =>
        node is { Domain: "", OpType: "Where" or "Mul" or "Div" }
        || (
            ReferenceEquals(node.Inputs[0], probabilities)
            && (OpTable.FlowOf(node) is Flow.Axes || node is { Domain: "", OpType: "Identity" or "Cast" or "Dropout" })
        );

    /// <summary>Gives where an axis is on the other side of an operator; null where it does not stay whole.</summary>
    private static int? Across(Node node, Value input, int axis, bool forward)
    {
        if (input.Shape is not { } before || node.Outputs[0].Shape is not { } after)
        {
            return null;
        }

        var (from, to) = forward ? (before, after) : (after, before);
        if (node.Is("Transpose"))
        {
            var perm =
                node.Attributes.Ints("perm")
                ?? [.. Enumerable.Range(0, before.Rank).Select(a => (long)(before.Rank - 1 - a))];
            return forward ? Array.IndexOf(perm, axis) : (int)perm[axis];
        }

        // Elsewhere the axes from this one on are the same on both sides, or those before it and itself.
        var tail = from.Rank - axis;
        return tail <= to.Rank && Enumerable.Range(1, tail).All(a => to[-a].SameAs(from[-a])) ? to.Rank - tail
            : axis < to.Rank && Enumerable.Range(0, axis + 1).All(a => to[a].SameAs(from[a])) ? axis
            : null;
    }
}
