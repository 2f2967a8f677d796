using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// Finds the weights of recurrent operators, through the slices and concatenations by which exporters bring gates and
/// directions into ONNX's order.
/// </summary>
internal static class RecurrentWeights
{
    /// <summary>Numbers are exact in float up to this.</summary>
    private const long MostElements = 1 << 24;

    public static List<RecurrentLayer> Find(Graph graph, IReadOnlyList<Parameter> parameters)
    {
        var readers = graph.Readers();
        var byValue = parameters.Where(p => p.Trains).ToDictionary(p => p.Value);
        return
        [
            .. from node in graph.Nodes
            where Recurrent.Is(node)
            from input in new[] { Recurrent.W, Recurrent.R }
            from layer in Of(graph, node, input, byValue, readers)
            select layer,
        ];
    }

    private static IEnumerable<RecurrentLayer> Of(
        Graph graph,
        Node node,
        int input,
        Dictionary<Value, Parameter> parameters,
        ILookup<Value, Node> readers
    )
    {
        var operand = node.Inputs[input]!;
        var (roots, way) = (new HashSet<Value>(), new HashSet<Node>());
        var open = new Stack<Value>([operand]);
        while (open.TryPop(out var value))
        {
            if (value.Producer is not { } producer)
            {
                roots.Add(value);
            }
            else if (producer.Is("Concat") || DenseProducts.IsLayout(producer))
            {
                way.Add(producer);
                producer.Inputs.Take(producer.Is("Concat") ? int.MaxValue : 1).ToList().ForEach(v => open.Push(v!));
            }
            else
            {
                return [];
            }
        }

        if (roots.Any(r => r.Shape is not { IsStatic: true }) || operand.Shape is not { IsStatic: true } shape)
        {
            return [];
        }

        Node[] nodes = [.. way.OrderBy(graph.Position)];
        return roots
            .Where(parameters.ContainsKey)
            .Where(root => IsReadBy(root, node, input, nodes, graph, readers))
            .Select(root =>
                Directions(graph, nodes, roots, parameters[root], operand, node, input == Recurrent.R) is { } units
                    ? new RecurrentLayer(parameters[root], node, input == Recurrent.R, units)
                    : null
            )
            .OfType<RecurrentLayer>();
    }

    /// <summary>Whether all that is made of a value goes into one input of a node, by certain nodes.</summary>
    private static bool IsReadBy(Value root, Node end, int input, Node[] way, Graph graph, ILookup<Value, Node> readers)
    {
        var made = new HashSet<Value> { root };
        foreach (var node in way.Where(n => n.Reads.Any(made.Contains)))
        {
            made.UnionWith(node.Outputs);
        }

        return made.All(v => !graph.Outputs.Contains(v) && readers[v].All(n => n == end || way.Contains(n)))
            && end.Inputs.Index().All(i => i.Index == input || i.Item is null || !made.Contains(i.Item));
    }

    /// <summary>
    /// Gives the direction of each unit of a weight; null unless each is, whole and in order, one row of the operand.
    /// </summary>
    private static ImmutableArray<int>? Directions(
        Graph graph,
        Node[] way,
        HashSet<Value> roots,
        Parameter weight,
        Value operand,
        Node node,
        bool isRecurrent
    )
    {
        var (rows, inputs) = (operand.KnownShape[1].Size, operand.KnownShape[2].Size);
        if (weight.Dims[^1] != inputs || roots.Sum(r => r.KnownShape.Count) > MostElements)
        {
            return null;
        }

        float[] units = Numbers(i => (i / inputs) + 1),
            columns = Numbers(i => (i % inputs) + 1);
        var found = Enumerable.Repeat(-2, (int)(weight.Initial.ElementCount / inputs)).ToArray();
        for (var row = 0L; row < operand.KnownShape[0].Size * rows; row++)
        {
            var unit = (int)units[row * inputs] - 1;
            if (unit < 0)
            {
                continue;
            }

            for (var i = 0; i < inputs; i++)
            {
                if (units[(row * inputs) + i] != unit + 1 || columns[(row * inputs) + i] != i + 1)
                {
                    return null;
                }
            }

            if (found[unit] != -2)
            {
                return null;
            }

            // Without linear_before_reset, the new gate of a GRU sees the hidden state times the reset gate.
            var seesOther =
                isRecurrent
                && node.Is("GRU")
                && node.Attributes.Int("linear_before_reset", 0) == 0
                && row % rows >= 2 * rows / 3;
            found[unit] = seesOther ? -1 : (int)(row / rows);
        }

        return found.Contains(-2) ? null : [.. found];

        // What arrives in the operand where the weight holds numbers and everything else zeros.
        float[] Numbers(Func<long, long> number)
        {
            var known = roots.ToDictionary(
                r => r.Name,
                r =>
                {
                    long[] dims = [.. r.KnownShape.Dims.Select(d => d.Size)];
                    return Tensor.From<float>(
                        dims,
                        [
                            .. Enumerable
                                .Range(0, (int)Tensor.CountOf(dims))
                                .Select(i => r == weight.Value ? (float)number(i) : 0),
                        ]
                    );
                },
                StringComparer.Ordinal
            );
            if (way.Length == 0)
            {
                return known[operand.Name].Span<float>().ToArray();
            }

            foreach (
                var constant in way.SelectMany(n => n.Inputs)
                    .OfType<Value>()
                    .Where(v => v.Constant is not null && !roots.Contains(v))
            )
            {
                known[constant.Name] = constant.Constant!;
            }

            return SubgraphRun.Run(graph, way, known, [operand.Name])[0].Span<float>().ToArray();
        }
    }
}
