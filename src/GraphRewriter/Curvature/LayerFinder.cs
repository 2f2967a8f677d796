using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>Finds dense and convolution layers from their weights forward.</summary>
internal static class LayerFinder
{
    /// <summary>
    /// Makes a layer of every trained weight that is one, and says of every other matrix why it is not.
    /// </summary>
    public static List<Layer> Find(Graph graph, IReadOnlyList<Parameter> parameters, IReadOnlyList<SlicedWeight> sliced)
    {
        var readers = graph.Readers();
        var byValue = parameters.ToDictionary(p => p.Value);
        var layers = new List<Layer>();
        foreach (var weight in parameters.Where(p => p.Trains))
        {
            if (weight.Value.Rank < 2 || weight.Kind is "bias" or "normalization")
            {
                continue;
            }

            var (layer, reason) =
                sliced.FirstOrDefault(s => s.Weight == weight)?.Layer() ?? Match(weight, byValue, readers, graph);
            weight.Reason = reason;
            if (layer is not null)
            {
                layers.Add(layer);
                weight.Layer = layer;
                if (layer.Bias is { } bias)
                {
                    bias.Layer = layer;
                }
            }
        }

        return [.. layers.OrderBy(l => graph.Position(l.Node))];
    }

    private static (Layer? Layer, string Reason) Match(
        Parameter weight,
        Dictionary<Value, Parameter> parameters,
        ILookup<Value, Node> readers,
        Graph graph
    )
    {
        if (weight.Uses.Count != 1)
        {
            var uses = weight.Uses.Select(u => u.Node.ToString()).Distinct().ToArray();
            return (
                null,
                $"It has {weight.Uses.Count} uses ({string.Join(", ", uses.Take(3))}{(uses.Length > 3 ? ", ..." : "")}): their gradients come as one sum, which no single layer's mean input fits."
            );
        }

        if (graph.Outputs.Contains(weight.Value))
        {
            return (null, "It is an output of the model.");
        }

        var (node, input, transposed, _) = weight.Uses[0];
        switch (node.QualifiedOp, input)
        {
            case ("Conv", 1):
                return (
                    new Layer(
                        "conv",
                        weight,
                        Own(node.Input(2), parameters),
                        true,
                        (int)node.Attributes.Int("group", 1),
                        node
                    ),
                    ""
                );
            case ("Gemm", 1):
                return node.Attributes.Float("alpha", 1) != 1 || node.Attributes.Float("beta", 1) != 1
                    ? (null, "Its Gemm scales the product (alpha or beta is not 1).")
                    : (
                        new Layer(
                            "dense",
                            weight,
                            Own(node.Input(2), parameters),
                            (node.Attributes.Int("transB", 0) != 0) ^ transposed,
                            1,
                            node
                        ),
                        ""
                    );
            case ("MatMul", 1) when weight.Value.Rank == 2:
                return (
                    new Layer("dense", weight, AddedBias(node, parameters, readers, graph), transposed, 1, node),
                    ""
                );
            case ("MatMul" or "Gemm", 0):
                return (null, "It is the left factor of its product.");
            case ("MatMul", _):
                return (null, $"It is a stack of matrices (rank {weight.Value.Rank}).");
            case ("ConvTranspose", 1):
                return (null, "MAC is defined for convolutions, not for transposed ones.");
            case ("Gather", 0):
                return (null, "An embedding: its inputs are indices.");
            default:
                return (null, $"{node.QualifiedOp} computes with it before any layer does.");
        }
    }

    /// <summary>Gives the trained parameter that a value is, if that is its only use.</summary>
    private static Parameter? Own(Value? value, Dictionary<Value, Parameter> parameters) =>
        value is not null
        && parameters.TryGetValue(value, out var parameter)
        && parameter is { Trains: true, Uses.Count: 1, Layer: null }
            ? parameter
            : null;

    /// <summary>
    /// Gives the bias of MatMul + Add: the only reader of the product adds one number for each output unit.
    /// </summary>
    private static Parameter? AddedBias(
        Node product,
        Dictionary<Value, Parameter> parameters,
        ILookup<Value, Node> readers,
        Graph graph
    )
    {
        var result = product.Outputs[0];
        if (
            graph.Outputs.Contains(result)
            || readers[result].ToArray() is not [{ OpType: "Add" } add]
            || add.Inputs.Count != 2
        )
        {
            return null;
        }

        var bias = Own(ReferenceEquals(add.Inputs[0], result) ? add.Inputs[1] : add.Inputs[0], parameters);
        return
            bias is not null
            && bias.Value.Constant!.ElementCount == result.KnownShape[-1].Size
            && bias.Value.KnownShape[-1].SameAs(result.KnownShape[-1])
            ? bias
            : null;
    }
}
