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
    /// <summary>Finds sliced weights; before gradients are there, which read slices too.</summary>
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
                found.Add(new(products.Key, SlicedBias(slices, graph, readers, byValue), slices));
                found[^1].Weight.Kind = "dense";
                found[^1].Bias?.Kind = "bias";
            }
        }

        return found;
    }

    /// <summary>Gives the layer, and what to say of it.</summary>
    public (Layer Layer, string Reason) Layer()
    {
        var outputFirst = Products[0].Product.Slice == true;
        var slices = Products
            .Select(
                (p, n) =>
                    new Layer("dense", Weight, Bias, outputFirst, 1, p.Node)
                    {
                        Name = $"{Weight.Name}.slice{n}",
                        Units = [.. Enumerable.Range(0, p.Product.Count).Select(u => p.Product.Units.Contains(u))],
                    }
            )
            .ToArray();
        return (
            new Layer("dense", Weight, Bias, outputFirst, 1, Products[0].Node) { Slices = slices },
            $"{slices.Length} products take slices of it, each with its own mean input."
        );
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
            var numbers = Tensor.From<float>(
                [.. shape.Dims.Select(d => d.Size)],
                [.. Enumerable.Range(0, product.Count).Select(i => (float)i)]
            );
            if (!DenseProducts.Push(graph, way, added, numbers).Select(n => (int)n).SequenceEqual(product.Units))
            {
                return null;
            }
        }

        return
            root is not null
            && parameters.TryGetValue(root, out var bias)
            && bias is { Trains: true, Layer: null }
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
