using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>What is done with every floating-point constant of a model, decided on its forward graph.</summary>
/// <param name="Parameters">Every floating-point constant, in order of first use.</param>
/// <param name="Blocks">The curvature blocks, one for each preconditioned layer, in graph order.</param>
/// <param name="HiddenMatrices">
/// The trained matrices and kernels of layers whose outputs are not what the loss is computed from.
/// </param>
/// <param name="Levels">
/// For each trained parameter the largest number of trained matrices and kernels between its use and the loss.
/// </param>
/// <param name="Attention">The attention layers.</param>
/// <param name="NearMisses">What looks like attention, and where the match stopped.</param>
/// <param name="TiedCopies">The pairs of weights that the model shared and its exporter stored twice.</param>
internal sealed record Plan(
    ImmutableArray<Parameter> Parameters,
    ImmutableArray<CurvatureBlock> Blocks,
    ImmutableArray<Parameter> HiddenMatrices,
    IReadOnlyDictionary<Parameter, int> Levels,
    ImmutableArray<Attention> Attention,
    ImmutableArray<(Node Softmax, string Reason)> NearMisses,
    ImmutableArray<(string Embedding, string Head)> TiedCopies
)
{
    /// <summary>The largest matrix that the host inverts: 4,096 rows take 64 MiB and seven seconds of a core.</summary>
    private const long LargestFactor = 4096;

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
            [.. Hidden(settled, lossSource)],
            LevelsOf(graph, settled),
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

    /// <summary>
    /// Gives the matrices and kernels but those of the last products: what the loss's source comes from, any layers
    /// without products (normalizations, layouts) passed over.
    /// </summary>
    private static IEnumerable<Parameter> Hidden(IEnumerable<Parameter> parameters, Value lossSource)
    {
        var (last, seen, open) = (new HashSet<Node>(), new HashSet<Value>(), new Stack<Value>([lossSource]));
        while (open.TryPop(out var value))
        {
            if (!seen.Add(value) || value.Producer is not { } node)
            {
                continue;
            }

            if (node.OpType is "MatMul" or "Gemm" or "Conv" or "ConvTranspose" or "Einsum" or "FusedMatMul")
            {
                last.Add(node);
                continue;
            }

            foreach (var input in node.Reads)
            {
                open.Push(input);
            }
        }

        return parameters.Where(p => IsMatrix(p) && !p.Uses.Any(u => last.Contains(u.Node)));
    }

    private static bool IsMatrix(Parameter parameter) =>
        parameter
            is { Trains: true, Kind: "dense", Dims.Length: 2 }
                or { Trains: true, Kind: "conv", Dims.Length: >= 2 };

    private static Dictionary<Parameter, int> LevelsOf(Graph graph, IReadOnlyList<Parameter> parameters)
    {
        var products = parameters.Where(IsMatrix).SelectMany(p => p.Uses).Select(u => u.Node).ToHashSet();
        var after = new Dictionary<Value, int>();
        int Behind(Node node) => node.Outputs.Max(o => after.GetValueOrDefault(o));
        foreach (var node in graph.Nodes.Reverse().Where(n => n.Outputs.Count > 0))
        {
            var level = Behind(node) + (products.Contains(node) ? 1 : 0);
            foreach (var input in node.Reads)
            {
                after[input] = Math.Max(after.GetValueOrDefault(input), level);
            }
        }

        return parameters
            .Where(p => p.Trains && p.Uses.Length > 0)
            .ToDictionary(p => p, p => p.Uses.Max(u => Behind(u.Node)));
    }

    private static (List<CurvatureBlock> Blocks, Dictionary<Parameter, string> Remarks) BlocksOf(
        Graph graph,
        IReadOnlyList<Parameter> parameters,
        IReadOnlyList<SlicedWeight> sliced,
        IReadOnlyList<Attention> attention,
        RewriteOptions options
    )
    {
        var (curvature, _) = options.Methods;
        if (curvature == CurvatureKind.None)
        {
            return ([], []);
        }

        // Only MAC weighs the input rows of attention's values.
        var weighs = curvature is CurvatureKind.Mac or CurvatureKind.Smac;
        var (layers, remarks) = LayerFinder.Find(
            graph,
            parameters,
            sliced,
            attention,
            weighs ? options : options with { ValueStatistic = ValueStatistic.None }
        );
        var blocks = layers.Select((layer, i) => BlockOf(layer, isFirst: i == 0, curvature, options)).ToList();
        foreach (var block in blocks)
        {
            remarks[block.Layer.Weight] = block.Remark;
        }

        return (blocks, remarks);
    }

    private static CurvatureBlock BlockOf(Layer layer, bool isFirst, CurvatureKind curvature, RewriteOptions options)
    {
        if (isFirst && options.FirstLayer == FirstLayerMode.Full && layer.HasOneInput)
        {
            return new FoofBlock(layer, IsExact: true);
        }

        var mac = new MacBlock(layer, options.InverseScaled);
        if (curvature == CurvatureKind.Mac)
        {
            return mac;
        }

        if (curvature == CurvatureKind.Smac)
        {
            return new SmacBlock(mac);
        }

        var largest = Math.Max(layer.RowSize, curvature == CurvatureKind.Kfac ? layer.Out : 0);
        var reason =
            !layer.HasOneInput ? "its units do not all see the same input rows"
            : curvature != CurvatureKind.Eva && largest > LargestFactor
                ? FormattableString.Invariant($"a factor would have {largest:N0} rows, more than {LargestFactor:N0}")
            : null;
        return (reason, curvature) switch
        {
            // The other methods keep the factor 1 / rho, so what stands in for them does too.
            ({ } why, _) => new MacBlock(layer, InverseScaled: true)
            {
                Fallback = $"MAC in place of {NameOf(curvature)}: {why}.",
            },
            (_, CurvatureKind.Kfac) => new KfacBlock(layer),
            (_, CurvatureKind.Foof) => new FoofBlock(layer, IsExact: false),
            (_, CurvatureKind.Eva) => new EvaBlock(layer),
            _ => throw new InvalidOperationException($"No block for {curvature}."),
        };
    }

    private static string NameOf(CurvatureKind curvature) =>
        curvature switch
        {
            CurvatureKind.Kfac => "K-FAC",
            CurvatureKind.Foof => "FOOF",
            var other => other.ToString(),
        };
}
