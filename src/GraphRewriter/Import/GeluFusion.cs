using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Makes one Gelu of the five operators that older exporters spell it with, x * 0.5 * (1 + erf(x / sqrt(2))): it and
/// its gradient are then a pass each.
/// </summary>
internal sealed class GeluFusion
{
    private static readonly double RootTwo = Math.Sqrt(2);

    private readonly Func<Value, bool> _isArithmetic;

    private GeluFusion(Func<Value, bool> isArithmetic) => _isArithmetic = isArithmetic;

    /// <summary>Fuses every such product whose parts nothing else reads.</summary>
    /// <param name="graph">The graph, with shapes.</param>
    /// <param name="isArithmetic">Whether a constant is a number of the arithmetic, not a parameter.</param>
    public static void Apply(Graph graph, Func<Value, bool> isArithmetic) => new GeluFusion(isArithmetic).Apply(graph);

    private void Apply(Graph graph)
    {
        var readers = graph.Readers();
        var outputs = graph.Outputs.ToHashSet();
        foreach (var erf in graph.Nodes.Where(n => n.Is("Erf")).ToArray())
        {
            if (
                Argument(erf.Inputs[0]!) is { } x
                && Product(erf, x) is { } product
                && product.Outputs[0].Rank == x.Rank
            )
            {
                graph.Replace(
                    product,
                    new Node("Gelu", "", product.Name, [x], [], product.Outputs) { Origin = $"fusion {product}" }
                );
            }
        }

        graph.Prune();

        // The last product, or null where the operators around erf are others.
        Node? Product(Node erf, Value x)
        {
            if (Only(erf, "Add") is not { } sum || !Is(Other(sum, erf), 1) || Only(sum, "Mul") is not { } first)
            {
                return null;
            }

            var factor = Other(first, sum);
            return factor.Producer is { } half
                && half.Is("Mul")
                && half.Inputs.Contains(x)
                && half.Inputs.Any(v => Is(v!, 0.5))
                    ? first
                : Only(first, "Mul") is { } second
                && ((factor == x && Is(Other(second, first), 0.5)) || (Is(factor, 0.5) && Other(second, first) == x))
                    ? second
                : null;
        }

        Node? Only(Node node, string reader) =>
            readers[node.Outputs[0]].ToArray() is [var only] && only.Is(reader) && !outputs.Contains(node.Outputs[0])
                ? only
                : null;
    }

    /// <summary>Gives x where a value is x / sqrt(2); null where it is not.</summary>
    private Value? Argument(Value value) =>
        value.Producer switch
        {
            { } div when div.Is("Div") && Is(div.Inputs[1]!, RootTwo) => div.Inputs[0],
            { } mul when mul.Is("Mul") && Is(mul.Inputs[1]!, 1 / RootTwo) => mul.Inputs[0],
            { } mul when mul.Is("Mul") && Is(mul.Inputs[0]!, 1 / RootTwo) => mul.Inputs[1],
            _ => null,
        };

    private static Value Other(Node node, Node source) =>
        node.Inputs[ReferenceEquals(node.Inputs[0]!.Producer, source) ? 1 : 0]!;

    /// <summary>Whether a value is a constant of one element that is a number, as exporters round it.</summary>
    private bool Is(Value value, double number) =>
        value.Constant is { Type: ElementType.Float, ElementCount: 1 } constant
        && _isArithmetic(value)
        && Math.Abs(constant.Span<float>()[0] - number) < 1e-4;
}
