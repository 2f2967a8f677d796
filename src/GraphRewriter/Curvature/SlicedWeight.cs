using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// A weight that several products take slices of, and nothing else reads: a dense layer for each slice.
/// </summary>
/// <param name="Weight">The weight.</param>
/// <param name="Bias">What the products add, sliced alike; or null.</param>
/// <param name="Products">The products.</param>
internal sealed record SlicedWeight(
    Parameter Weight,
    Parameter? Bias,
    IReadOnlyList<(Node Node, DenseProduct Product)> Products
)
{
    /// <summary>Finds sliced weights in the forward graph.</summary>
    public static List<SlicedWeight> Find(Graph graph, IReadOnlyList<Parameter> parameters)
    {
        var readers = graph.Readers();
        var byValue = parameters.ToDictionary(p => p.Value);
        var found = new List<SlicedWeight>();
        foreach (
            var products in DenseProducts
                .Find(graph, parameters)
                .GroupBy(p => p.Value.Weight, p => (Node: p.Key, Product: p.Value))
        )
        {
            (Node Node, DenseProduct Product)[] slices = [.. products.OrderBy(p => graph.Position(p.Node))];
            var units = slices.SelectMany(s => s.Product.Units).ToArray();
            if (
                products.Key.Trains
                && slices.All(s => s.Product.Slice == slices[0].Product.Slice && IsPlain(s.Node))
                && slices[0].Product.Slice is not null
                && units.Distinct().Count() == units.Length
                && Ends(products.Key.Value, graph, readers)?.SetEquals(slices.Select(s => s.Node)) == true
            )
            {
                var bias = SlicedBias(slices, graph, readers, byValue);
                found.Add(
                    new(products.Key with { Kind = "dense" }, bias is null ? null : bias with { Kind = "bias" }, slices)
                );
            }
        }

        return found;
    }

    /// <summary>Gives the layer.</summary>
    /// <param name="withValues">Gives a slice with some units of the weight what attention's values take.</param>
    public Layer Layer(Func<DenseLayer, ImmutableArray<bool>, DenseLayer> withValues)
    {
        var outputFirst = Products[0].Product.Slice == true;
        var slices = new List<(DenseLayer Layer, ImmutableArray<bool> Units)>();
        foreach (var (node, product) in Products)
        {
            var name = $"{Weight.Name}.slice{slices.Count}";
            ImmutableArray<bool> units = [.. Enumerable.Range(0, product.Count).Select(u => product.Units.Contains(u))];
            slices.Add((withValues(new DenseLayer(Weight, Bias, node, outputFirst) { Name = name }, units), units));
        }

        var remarks = slices.Select(s => s.Layer.Remark).Where(r => r.Length > 0);
        return new SlicedLayer(Weight, Bias, [.. slices])
        {
            Remark = string.Join(
                ' ',
                remarks.Prepend($"{slices.Count} products take slices of it, each with its own activation mean.")
            ),
        };
    }

    private static bool IsPlain(Node node) =>
        node.Attributes.Float("alpha", 1) == 1
        && node.Attributes.Float("beta", 1) == 1
        && node.Attributes.Int("transA", 0) == 0;

    /// <summary>Gives the parameter whose slices all products add, each the slice of its own units.</summary>
    private static Parameter? SlicedBias(
        (Node Node, DenseProduct Product)[] slices,
        Graph graph,
        ILookup<Value, Node> readers,
        Dictionary<Value, Parameter> parameters
    )
    {
        Value? root = null;
        var adders = new HashSet<Node>();
        foreach (var (node, product) in slices)
        {
            var adder =
                node.Input(2) is not null ? node
                : readers[node.Outputs[0]].ToArray() is [{ OpType: "Add", Domain: "" } add]
                && !graph.Outputs.Contains(node.Outputs[0])
                    ? add
                : null;
            var added = adder == node ? node.Input(2) : adder?.Inputs.FirstOrDefault(i => i != node.Outputs[0]);
            if (
                adder is null
                || added is null
                || DenseProducts.Way(added) is not { } way
                || (root is not null && root != way.Root)
                || way.Root.Shape is not { IsStatic: true } shape
                || shape.Count != product.Count
            )
            {
                return null;
            }

            root = way.Root;
            adders.Add(adder);
            var elements = DenseProducts.Push(way, [.. shape.Dims.Select(d => d.Size)])?.Reshape(product.Units.Length);
            var width = (int)shape[-1].Size;
            if (
                elements?.Along(0) is not { } places
                || !places.Select(p => (p!.Value.Row * width) + p.Value.Unit).SequenceEqual(product.Units)
            )
            {
                return null;
            }
        }

        return
            root is not null
            && parameters.TryGetValue(root, out var bias)
            && bias.Trains
            && Ends(root, graph, readers)?.SetEquals(adders) == true
            ? bias
            : null;
    }

    /// <summary>
    /// Gives the nodes that compute with a value or with what layouts make of it; null where an output of the graph or
    /// a subgraph holds it.
    /// </summary>
    private static HashSet<Node>? Ends(Value value, Graph graph, ILookup<Value, Node> readers)
    {
        var (ends, open) = (new HashSet<Node>(), new Stack<Value>([value]));
        while (open.TryPop(out var at))
        {
            if (graph.Outputs.Contains(at))
            {
                return null;
            }

            foreach (var node in readers[at])
            {
                if (DenseProducts.IsLayout(node) && !node.Captured.Any() && node.Inputs[0] == at)
                {
                    node.Outputs.ToList().ForEach(open.Push);
                }
                else
                {
                    ends.Add(node);
                }
            }
        }

        return ends;
    }
}
