using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>Finds dense and convolution layers from their weights forward, on the forward graph alone.</summary>
internal sealed class LayerFinder
{
    private readonly Graph _graph;
    private readonly RewriteOptions _options;
    private readonly IReadOnlyList<Attention> _attention;
    private readonly Dictionary<Value, Parameter> _parameters;
    private readonly ILookup<Value, Node> _readers;
    private readonly HashSet<Parameter> _taken = [];

    private LayerFinder(
        Graph graph,
        IEnumerable<Parameter> parameters,
        IReadOnlyList<Attention> attention,
        RewriteOptions options
    )
    {
        (_graph, _attention, _options, _readers) = (graph, attention, options, graph.Readers());
        _parameters = parameters.ToDictionary(p => p.Value);
    }

    /// <summary>Makes a layer of every trained weight that is one.</summary>
    /// <param name="graph">The graph, with shapes.</param>
    /// <param name="parameters">Its parameters.</param>
    /// <param name="sliced">The weights that several products take slices of.</param>
    /// <param name="recurrent">The weights of recurrent operators.</param>
    /// <param name="attention">The attention layers.</param>
    /// <param name="options">How attention's values and depthwise convolutions are treated.</param>
    /// <returns>The layers in graph order; and why every other matrix is not one.</returns>
    public static (List<Layer> Layers, Dictionary<Parameter, string> Reasons) Find(
        Graph graph,
        IReadOnlyList<Parameter> parameters,
        IReadOnlyList<SlicedWeight> sliced,
        IReadOnlyList<RecurrentLayer> recurrent,
        IReadOnlyList<Attention> attention,
        RewriteOptions options
    )
    {
        var finder = new LayerFinder(graph, parameters, attention, options);
        var (layers, reasons) = (new List<Layer>(), new Dictionary<Parameter, string>());
        foreach (var weight in parameters.Where(p => p.Trains && p.Dims.Length >= 2))
        {
            if (weight.Kind is "bias" or "normalization")
            {
                continue;
            }

            var (layer, reason) =
                sliced.FirstOrDefault(s => s.Weight == weight) is { } slices ? (slices.Layer(finder.WithValues), "")
                : recurrent.FirstOrDefault(r => r.Weight == weight) is { } rows ? (rows with { Weight = weight }, "")
                : finder.Match(weight);
            if (layer is null)
            {
                reasons[weight] = reason;
                continue;
            }

            layers.Add(layer);
            if (layer.Bias is { } bias)
            {
                finder._taken.Add(bias);
            }
        }

        return ([.. layers.OrderBy(l => graph.Position(l.Node))], reasons);
    }

    private (Layer? Layer, string Reason) Match(Parameter weight)
    {
        if (weight.Uses.Length != 1)
        {
            var uses = weight.Uses.Select(u => u.Node.ToString()).Distinct().ToArray();
            var some = $"{string.Join(", ", uses.Take(3))}{(uses.Length > 3 ? ", ..." : "")}";
            return (
                null,
                $"It has {weight.Uses.Length} uses ({some}): their gradients come as one sum, which no single "
                    + "layer's activation mean fits."
            );
        }

        if (_graph.Outputs.Contains(weight.Value))
        {
            return (null, "It is an output of the model.");
        }

        var (node, input, transposed, _) = weight.Uses[0];
        switch (node.QualifiedOp, input)
        {
            case ("Conv", 1):
                var own = Own(node.Input(2), weight.Dims[0]);
                return (WithValues(new ConvolutionLayer(weight, own, node, _options.Depthwise)), "");
            case ("Gemm", 1):
                if (node.Attributes.Float("alpha", 1) != 1 || node.Attributes.Float("beta", 1) != 1)
                {
                    return (null, "Its Gemm scales the product (alpha or beta is not 1).");
                }

                var outputFirst = (node.Attributes.Int("transB", 0) != 0) ^ transposed;
                var bias = Own(node.Input(2), weight.Dims[outputFirst ? 0 : 1]);
                return (WithValues(new DenseLayer(weight, bias, node, outputFirst)), "");
            case ("MatMul", 1) when weight.Dims.Length == 2:
                return (WithValues(new DenseLayer(weight, AddedBias(node), node, transposed)), "");
            case ("MatMul" or "Gemm", 0):
                return (null, "It is the left factor of its product.");
            case ("MatMul", _):
                return (null, $"It is a stack of matrices (rank {weight.Dims.Length}).");
            case ("ConvTranspose", 1):
                return (null, "MAC is defined for convolutions, not for transposed ones.");
            case ("Gather", 0):
                return (null, "An embedding: its inputs are indices.");
            default:
                return (null, $"{node.QualifiedOp} computes with it before any layer does.");
        }
    }

    /// <summary>Gives a layer that gives attention its values a weighted mean for them.</summary>
    private T WithValues<T>(T layer, ImmutableArray<bool> units = default)
        where T : Layer
    {
        var (values, remark) = ValueRows.Of(layer, units, _attention, _options.ValueStatistic);
        return layer with { Values = values, Remark = remark };
    }

    /// <summary>
    /// Gives the trained parameter that a value is, if that is its only use and it holds one number for each unit.
    /// </summary>
    private Parameter? Own(Value? value, long units) =>
        value is not null
        && _parameters.TryGetValue(value, out var parameter)
        && parameter is { Trains: true, Uses.Length: 1 }
        && !_taken.Contains(parameter)
        && parameter.Initial.ElementCount == units
        && parameter.Dims is [.., var last]
        && last == units
            ? parameter
            : null;

    /// <summary>
    /// Gives the bias of MatMul + Add: the only reader of the product adds one number for each output unit.
    /// </summary>
    private Parameter? AddedBias(Node product)
    {
        var result = product.Outputs[0];
        return
            !_graph.Outputs.Contains(result)
            && _readers[result].ToArray() is [{ OpType: "Add", Inputs.Count: 2 } add]
            && result.KnownShape[-1] is { IsStatic: true } units
            ? Own(ReferenceEquals(add.Inputs[0], result) ? add.Inputs[1] : add.Inputs[0], units.Size)
            : null;
    }
}
