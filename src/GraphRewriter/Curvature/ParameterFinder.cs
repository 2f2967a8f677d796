using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// Decides what is a weight: by what its exporter declares it, what it is used for and what it holds.
/// </summary>
/// <remarks>
/// Where the file declares nothing, a name decides only that a scalar is a parameter: one that is a path of modules.
/// Some constants cannot be told from weights and train: a table that exporters folded from learned ones (positions,
/// relative position
/// biases) looks like one that is computed (sinusoids), and a table added to scores like a learned bias. --frozen keeps
/// them as they are.
/// </remarks>
internal static class ParameterFinder
{
    /// <summary>One number of at most this, or minus infinity, in a table of zeros marks a mask.</summary>
    private const double MaskValue = -1;

    /// <summary>Finds every floating-point constant of the graph, in order of first use.</summary>
    /// <param name="graph">The graph with its loss.</param>
    /// <param name="lossSource">The value that the loss is computed from.</param>
    /// <param name="constants">The constants of the model itself, without those of the loss.</param>
    /// <param name="facts">What the file says about its constants.</param>
    /// <param name="options">Patterns of what trains and what is frozen.</param>
    public static List<Parameter> Find(
        Graph graph,
        Value lossSource,
        IReadOnlySet<Value> constants,
        InitializerFacts facts,
        RewriteOptions options
    )
    {
        var readers = graph.Readers();
        var found = graph.Constants().Where(v => v.Type.IsFloatingPoint() && constants.Contains(v)).ToArray();
        var trainable = Pattern(options.Trainable, "RewriteOptions.Trainable");
        var frozen = Pattern(options.Frozen, "RewriteOptions.Frozen");
        var (reached, _) = Backward.Path(graph, lossSource, [.. found]);
        return
        [
            .. found.Select(value =>
            {
                Use[] uses = [.. Uses(value, value, false, readers, 0)];
                var parameter = new Parameter(value, value.Constant!, [.. uses], KindOf(uses), Treatment.Trained, "");
                var (kept, reason) = Decide(parameter, reached, facts[parameter.Name], trainable, frozen);
                return parameter with { Treatment = TreatmentOf(kept), Reason = reason };
            }),
        ];
    }

    /// <summary>
    /// Keeps constants of attention from training: what multiplies queries and keys alike is a rotary table or a scale,
    /// what adds nothing but zeros to scores a mask. What the exporter declares a parameter trains.
    /// </summary>
    public static IEnumerable<Parameter> Settle(
        IEnumerable<Parameter> parameters,
        IReadOnlyList<Attention> attentions,
        InitializerFacts facts,
        RewriteOptions options
    )
    {
        var tables = attentions.SelectMany(a => a.Tables).ToHashSet();
        var masks = attentions.SelectMany(a => a.Masks).ToHashSet();
        return parameters.Select(p =>
            !p.Trains || options.Trainable is not null || facts[p.Name] is { Kind: DeclaredKind.Parameter } ? p
            : tables.Contains(p.Value)
                ? p with
                {
                    Treatment = Treatment.Constant,
                    Reason = "It multiplies queries and keys alike: a rotary table or a scale.",
                }
            : masks.Contains(p.Value)
                ? p with
                {
                    Treatment = Treatment.Constant,
                    Reason = "It adds only zeros to attention's scores: a mask that hides nothing.",
                }
            : p
        );
    }

    /// <summary>Finds embeddings whose numbers a dense weight also holds, as they are or transposed.</summary>
    public static IEnumerable<(string Embedding, string Head)> TiedCopies(IReadOnlyList<Parameter> parameters)
    {
        foreach (
            var embedding in parameters.Where(p =>
                p is { Trains: true, Kind: "embedding", Value: { Rank: 2, Type: ElementType.Float } }
            )
        )
        {
            foreach (
                var dense in parameters.Where(p =>
                    p is { Trains: true, Kind: "dense", Value: { Rank: 2, Type: ElementType.Float } }
                )
            )
            {
                if (Same(embedding.Initial, dense.Initial))
                {
                    yield return (embedding.Name, dense.Name);
                }
            }
        }

        static bool Same(Tensor a, Tensor b)
        {
            if (a.Dims.SequenceEqual(b.Dims))
            {
                return a.Data.Span.SequenceEqual(b.Data.Span);
            }

            var (x, y, rows, columns) = (
                a.Span<float>().ToArray(),
                b.Span<float>().ToArray(),
                (int)a.Dims[0],
                (int)a.Dims[1]
            );
            return b.Dims[0] == columns
                && b.Dims[1] == rows
                && x.Index().All(e => e.Item == y[(e.Index % columns * rows) + (e.Index / columns)]);
        }
    }

    private static Treatment TreatmentOf(string kept) =>
        kept switch
        {
            "" => Treatment.Trained,
            "frozen" => Treatment.Frozen,
            "statistic" => Treatment.Statistic,
            _ => Treatment.Constant,
        };

    public static Regex? Pattern(string? pattern, string option)
    {
        try
        {
            return pattern is null
                ? null
                : new Regex(pattern, RegexOptions.CultureInvariant | RegexOptions.NonBacktracking);
        }
        catch (Exception e) when (e is ArgumentException or NotSupportedException)
        {
            throw new MacOnnxException(
                "MAC0301",
                option,
                $"'{pattern}' is not a regular expression: {e.Message}",
                "Correct the pattern.",
                e
            );
        }
    }

    private static (string Fixed, string Reason) Decide(
        Parameter parameter,
        HashSet<Value> reached,
        InitializerFact? known,
        Regex? trainable,
        Regex? frozen
    )
    {
        var value = parameter.Value;
        if (parameter.Kind == "statistic")
        {
            return ("statistic", "Running statistics follow the data, not the gradient.");
        }

        if (parameter.Kind == "rotary")
        {
            return ("constant", "A table of rotary embeddings.");
        }

        if (!reached.Contains(value))
        {
            return ("constant", "The loss does not depend on it differentiably.");
        }

        if (known is not { } fact)
        {
            return ("constant", "It is computed from shapes alone.");
        }

        if (frozen?.IsMatch(value.Name) == true)
        {
            return ("frozen", "Matched by RewriteOptions.Frozen.");
        }

        if (trainable is not null)
        {
            return trainable.IsMatch(value.Name) ? ("", "") : ("frozen", "Not matched by RewriteOptions.Trainable.");
        }

        var isNode = !fact.IsInitializer;
        return fact.Kind == DeclaredKind.Parameter ? ("", "")
            : fact.Kind == DeclaredKind.Buffer ? ("constant", "Its exporter declares it a buffer.")
            : fact.Kind == DeclaredKind.ConstantTensor ? ("constant", "Its exporter declares it a constant.")
            : value.Rank == 0 && !fact.IsModulePath ? ("constant", "A scalar: a constant of the arithmetic.")
            : isNode && value.Constant!.ElementCount == 1
                ? ("constant", "A Constant node with one element: a constant of the arithmetic.")
            : isNode && value.Constant!.IsUniform
                ? ("constant", "A Constant node whose elements are all equal: a constant of the arithmetic.")
            : value.Constant!.IsUniform
            && parameter.Uses.All(u => u.Node.OpType is "ScatterND" or "ScatterElements" or "Scatter")
                ? ("constant", "Its elements are all equal and only fill a table by position.")
            : IsMask(value.Constant!) ? ("constant", "A mask: it holds only zeros and one negative number.")
            : ("", "");
    }

    private static bool IsMask(Tensor tensor)
    {
        if (tensor.Type != ElementType.Float)
        {
            return false;
        }

        var (zeros, hidden) = (false, 0f);
        foreach (var element in tensor.Span<float>())
        {
            if (element != 0 && (!(element <= MaskValue) || (hidden != 0 && element != hidden)))
            {
                return false;
            }

            (zeros, hidden) = (zeros || element == 0, element != 0 ? element : hidden);
        }

        return zeros && hidden != 0;
    }

    private static string KindOf(IEnumerable<Use> uses)
    {
        var kinds = uses.Select(KindOf).Distinct().ToArray();
        return kinds.Length == 1 ? kinds[0] : "other";
    }

    private static string KindOf(Use use) =>
        (use.Node.OpType, use.Input) switch
        {
            ("BatchNormalization", 3 or 4) => "statistic",
            (
                "BatchNormalization"
                    or "LayerNormalization"
                    or "InstanceNormalization"
                    or "GroupNormalization"
                    or "RMSNormalization"
                    or "SimplifiedLayerNormalization",
                > 0
            ) => "normalization",
            ("Conv" or "ConvTranspose", 1) => "conv",
            ("Conv" or "ConvTranspose" or "Gemm", 2) => "bias",
            ("MatMul" or "Gemm", _) when use.Value.Rank == 2 => "dense",
            ("Add", _) when use.Node.Inputs.OfType<Value>().Any(v => v.Producer is { OpType: "MatMul" or "Gemm" }) =>
                "bias",
            ("Gather" or "EmbedLayerNormalization", 0) => "embedding",
            ("RotaryEmbedding", > 0) => "rotary",
            _ => "other",
        };

    /// <summary>Follows a constant through Identity and Transpose to the nodes that compute with it.</summary>
    private static IEnumerable<Use> Uses(
        Value constant,
        Value value,
        bool transposed,
        ILookup<Value, Node> readers,
        int depth
    )
    {
        foreach (var node in readers[value])
        {
            var swaps = node.Is("Transpose") && value.Rank == 2 && node.Attributes.Ints("perm") is null or [1, 0];
            if (depth < 16 && (node.Is("Identity") || swaps))
            {
                foreach (var use in Uses(constant, node.Outputs[0], transposed ^ swaps, readers, depth + 1))
                {
                    yield return use;
                }

                continue;
            }

            for (var i = 0; i < node.Inputs.Count; i++)
            {
                if (ReferenceEquals(node.Inputs[i], value))
                {
                    yield return new Use(node, i, transposed, value);
                }
            }

            if (node.Captured.Contains(value))
            {
                yield return new Use(node, -1, transposed, value);
            }
        }
    }
}
