using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// A product with a weight, or with a part of one: which output unit of the weight each column of the product is.
/// </summary>
/// <param name="Weight">The weight.</param>
/// <param name="Units">The unit of each column.</param>
/// <param name="Count">The number of units of the weight.</param>
/// <param name="Slice">For a part: whether the units are the weight's rows, each with all its inputs in their order;
/// null where it is not such a slice.</param>
/// <param name="UnitAxis">The axis of the product that its columns lie along: the last, or 1 of a convolution.</param>
internal sealed record DenseProduct(Parameter Weight, int[] Units, int Count, bool? Slice = null, int UnitAxis = -1);

/// <summary>
/// Finds the products whose second factor is a weight, whole or sliced: packed projections are sliced where queries and
/// keys come from different inputs. A convolution that sees one position at a time is such a product.
/// </summary>
internal static class DenseProducts
{
    public static Dictionary<Node, DenseProduct> Find(Graph graph, IEnumerable<Parameter> parameters)
    {
        var weights = parameters.Where(p => p.Value.Rank == 2).ToDictionary(p => p.Value);
        var found = new Dictionary<Node, DenseProduct>();
        foreach (
            var use in weights
                .Values.SelectMany(p => p.Uses.Select(u => (u.Node, u.Input, p)))
                .Where(u => u.Input == 1 && IsProduct(u.Node) && u.Node.Outputs[0].KnownShape[-1].IsStatic)
        )
        {
            var count = (int)use.Node.Outputs[0].KnownShape[-1].Size;
            found[use.Node] = new(use.p, [.. Enumerable.Range(0, count)], count);
        }

        foreach (var weight in parameters)
        {
            var count = (int)weight.Dims.FirstOrDefault();
            foreach (var use in weight.Uses.Where(u => u.Input == 1 && IsPointwise(u.Node)))
            {
                found[use.Node] = new(weight, [.. Enumerable.Range(0, count)], count, UnitAxis: 1);
            }
        }

        foreach (
            var node in graph.Nodes.Where(n =>
                IsProduct(n)
                && !found.ContainsKey(n)
                && n.Inputs[1]!.Producer is not null
                && n.Inputs[1]!.Shape is { Rank: 2, IsStatic: true }
            )
        )
        {
            if (Part(node, weights) is { } part)
            {
                found[node] = part;
            }
        }

        return found;
    }

    /// <summary>Whether a node is a convolution that multiplies each position's channels with one matrix.</summary>
    public static bool IsPointwise(Node node) =>
        node.Is("Conv")
        && node.Attributes.Int("group", 1) == 1
        && node.Inputs[1]!.Shape is { IsStatic: true } weight
        && weight.Dims.Skip(2).All(d => d.Size == 1)
        && (node.Attributes.Ints("strides") ?? []).All(s => s == 1)
        && (node.Attributes.Ints("pads") ?? []).All(p => p == 0);

    private static bool IsProduct(Node node) => node.Is("MatMul") || node.Is("Gemm");

    private static DenseProduct? Part(Node product, Dictionary<Value, Parameter> weights)
    {
        if (
            Way(product.Inputs[1]!) is not { } way
            || !weights.TryGetValue(way.Root, out var weight)
            || Push(way, [.. weight.Value.KnownShape.Dims.Select(d => d.Size)]) is not { } map
        )
        {
            return null;
        }

        var isTransposed = product.Attributes.Int("transB", 0) != 0;
        long[] dims = [.. weight.Value.KnownShape.Dims.Select(d => d.Size)];
        var units = map.Along(isTransposed ? 0 : 1)!.OfType<Place>().ToArray();
        var inputs = map.Along(isTransposed ? 1 : 0)!.OfType<Place>().ToArray();
        foreach (var axis in new[] { 0, 1 })
        {
            int Unit(Place place) => axis == 0 ? place.Row : place.Unit;
            int Input(Place place) => axis == 0 ? place.Unit : place.Row;
            if (inputs.All(i => Unit(i) == Unit(inputs[0])))
            {
                var isSlice =
                    inputs.Select(Input).SequenceEqual(Enumerable.Range(0, (int)dims[1 - axis]))
                    && units.All(u => Input(u) == Input(units[0]));
                return new(weight, [.. units.Select(Unit)], (int)dims[axis], isSlice ? axis == 0 : null);
            }
        }

        return null;
    }

    /// <summary>Whether a node only moves the elements of its first input, as constants say.</summary>
    public static bool IsLayout(Node node) =>
        (OpTable.FlowOf(node) is Flow.Axes or Flow.Elements || node.Is("Identity"))
        && OpTable.Find(node)!.DataInputs(node).SequenceEqual([0])
        && node.Inputs.Skip(1).All(i => i is not { Constant: null });

    /// <summary>Follows a value back through layouts to what no node computes.</summary>
    public static (Value Root, List<(Node Node, Value Output)> Nodes)? Way(Value value)
    {
        var way = new List<(Node, Value)>();
        while (value.Producer is { } node)
        {
            if (!IsLayout(node))
            {
                return null;
            }

            way.Add((node, value));
            value = node.Inputs[0]!;
        }

        way.Reverse();

        return (value, way);
    }

    /// <summary>Gives which element of the root of a way arrives where at its end; null where it has no map.</summary>
    /// <param name="way">The way.</param>
    /// <param name="dims">The dimensions of the root.</param>
    public static ElementMap? Push((Value Root, List<(Node Node, Value Output)> Nodes) way, params long[] dims) =>
        way.Nodes.Aggregate(
            ElementMap.Of(dims),
            (map, step) =>
                ElementMap.Through(
                    step.Node,
                    step.Output,
                    [map],
                    v => [.. v.KnownShape.Dims.Select(d => d.IsStatic ? d.Size : -1)],
                    v => v.Constant?.ToInt64()
                )
        );
}
