using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>What is done with every floating-point constant of a model, decided on its forward graph.</summary>
/// <param name="Parameters">Every floating-point constant, in order of first use.</param>
/// <param name="Blocks">The curvature blocks, one for each preconditioned layer, in graph order.</param>
/// <param name="Attention">The attention layers.</param>
/// <param name="NearMisses">What looks like attention, and where the match stopped.</param>
/// <param name="TiedCopies">The pairs of weights that the model shared and its exporter stored twice.</param>
internal sealed record Plan(
    ImmutableArray<Parameter> Parameters,
    ImmutableArray<CurvatureBlock> Blocks,
    ImmutableArray<Attention> Attention,
    ImmutableArray<(Node Softmax, string Reason)> NearMisses,
    ImmutableArray<(string Embedding, string Head)> TiedCopies
)
{
    /// <summary>Gets the parameters that the optimizer updates.</summary>
    public IEnumerable<Parameter> Trained => Parameters.Where(p => p.Trains);

    /// <summary>Gets the parameters and statistics that are inputs of the graphs.</summary>
    public IEnumerable<Parameter> Kept => Parameters.Where(p => p.IsKept);

    /// <summary>Makes the plan.</summary>
    /// <param name="graph">The forward graph with its loss, with shapes.</param>
    /// <param name="lossSource">The value that the loss is computed from.</param>
    /// <param name="constants">The constants of the model itself, without those of the loss.</param>
    /// <param name="facts">What the file says about its constants.</param>
    /// <param name="options">The options.</param>
    /// <exception cref="MacOnnxException">A parameter that would train is double (MAC0103).</exception>
    public static Plan Make(
        Graph graph,
        Value lossSource,
        IReadOnlySet<Value> constants,
        InitializerFacts facts,
        RewriteOptions options
    )
    {
        var found = ParameterFinder.Find(graph, lossSource, constants, facts, options);
        var (attention, misses) = AttentionFinder.Find(graph, found);
        Parameter[] settled = [.. ParameterFinder.Settle(found, attention, facts, options)];
        if (settled.FirstOrDefault(p => p.Trains && p.Value.Type == ElementType.Double) is { } wide)
        {
            throw new MacOnnxException(
                "MAC0103",
                wide.Name,
                "The parameter is double; parameters train in float, float16 or bfloat16.",
                "Convert the model to float before it is exported, or freeze the parameter with RewriteOptions.Frozen."
            );
        }

        var sliced = SlicedWeight.Find(graph, settled);
        settled = WithKinds(settled, sliced.SelectMany(s => new[] { s.Weight, s.Bias }).OfType<Parameter>());
        var (blocks, remarks) = BlocksOf(graph, settled, sliced, attention, options);
        return new(
            [.. settled.Select(p => p with { Reason = remarks.GetValueOrDefault(p, p.Reason) })],
            [.. blocks],
            [.. attention],
            [.. misses],
            [.. ParameterFinder.TiedCopies(settled)]
        );
    }

    /// <summary>Describes a parameter for the report.</summary>
    public ParameterReport Report(Parameter parameter)
    {
        var block = Blocks.FirstOrDefault(b => b.Layer.Weight == parameter || b.Layer.Bias == parameter);
        var treatment = parameter.Treatment switch
        {
            Treatment.Trained => block is null ? "plain" : $"{block.Name} {block.Layer.Kind}",
            var other => other.ToString().ToLowerInvariant(),
        };
        return new(
            parameter.Name,
            parameter.Dims,
            parameter.Kind,
            treatment,
            parameter.Reason,
            [.. parameter.Uses.Select(u => u.Node.ToString()).Distinct()]
        );
    }

    private static Parameter[] WithKinds(Parameter[] parameters, IEnumerable<Parameter> changed)
    {
        var kinds = changed.Distinct().ToDictionary(p => p, p => p.Kind);
        return [.. parameters.Select(p => p with { Kind = kinds.GetValueOrDefault(p, p.Kind) })];
    }

    private static (List<CurvatureBlock> Blocks, Dictionary<Parameter, string> Remarks) BlocksOf(
        Graph graph,
        IReadOnlyList<Parameter> parameters,
        IReadOnlyList<SlicedWeight> sliced,
        IReadOnlyList<Attention> attention,
        RewriteOptions options
    )
    {
        if (options.Curvature == CurvatureKind.None)
        {
            return ([], []);
        }

        var (layers, remarks) = LayerFinder.Find(graph, parameters, sliced, attention, options);
        var blocks = layers
            .Select(
                (layer, i) =>
                    i == 0 && options.FirstLayer == FirstLayerMode.Full && layer.HasOneInput
                        ? (CurvatureBlock)new SecondMomentBlock(layer)
                        : new MacBlock(layer, options.InverseScaled)
            )
            .ToList();
        foreach (var block in blocks)
        {
            remarks[block.Layer.Weight] = block.Remark;
        }

        return (blocks, remarks);
    }
}
