using System.Globalization;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Optimizer;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>Reads what optimizer updates parameters in a graph.</summary>
internal static class OptimizerModel
{
    private static readonly string[] Glue =
    [
        "SequenceConstruct",
        "InplaceClipGradNorm",
        "ReduceAllL2",
        "IsAllFinite",
        "IsFinite",
        "All",
        "Group",
        "Identity",
        "Constant",
    ];

    /// <summary>Reads the optimizer.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="isWhole">Whether it also holds forward and backward.</param>
    /// <param name="path">Its file, for messages.</param>
    /// <exception cref="MacOnnxException">The optimizer is none of those known (MAC0802).</exception>
    public static KeptOptimizer Read(GraphProto graph, bool isWhole, string path)
    {
        var updates = ParameterUpdates.Find(graph);
        var unknown = graph.Node.FirstOrDefault(n => !Glue.Contains(n.OpType) && !ParameterUpdates.IsOptimizer(n));
        if (updates.Length == 0 || (unknown is not null && !isWhole))
        {
            throw Unknown(path, unknown is null ? "there is none" : $"{unknown.OpType} is not known in such a graph");
        }

        var kinds = updates.Select(u => KindOf(graph, u, updates, path)).Distinct().ToArray();
        if (kinds.Length > 1)
        {
            throw Unknown(path, "its nodes differ in kind, and one optimizer is understood");
        }

        var (kind, numbers) = (kinds[0], Numbers.Of(updates[0], ParameterUpdates.NumberOf(graph, updates[0].Rate)));
        return new(
            RuleOf(kind),
            h => numbers.Apply(h) with { MaxGradientNorm = kind.LargestNorm },
            updates
                .Where(u => u.Weight is not null)
                .DistinctBy(u => u.Weight)
                .ToDictionary(
                    u => u.Weight!,
                    u => Numbers.Of(u, ParameterUpdates.NumberOf(graph, u.Rate)).Formulas(numbers),
                    StringComparer.Ordinal
                ),
            Describe(updates[0], kind, numbers)
        );
    }

    /// <summary>Gives the state that an optimizer's tensors in a graph hold, as a checkpoint would.</summary>
    /// <param name="graph">The graph of forward, backward and update.</param>
    /// <param name="updates">The updates in it.</param>
    public static OrtOptimizerGroup? StateOf(GraphProto graph, ParameterUpdate[] updates)
    {
        var step = ParameterUpdates.NumberOf(graph, updates[0].Step) is > 0 and var first ? (long)first - 1 : 0;
        var moments = updates
            .DistinctBy(u => u.Weight)
            .ToDictionary(
                u => u.Weight!,
                u =>
                    (IReadOnlyDictionary<string, Ir.Tensor>)
                        u
                            .Moments.Index()
                            .Select(m => ($"momentum{m.Index}", ParameterUpdates.TensorOf(graph, m.Item)))
                            .Where(m => m.Item2 is not null)
                            .ToDictionary(m => m.Item1, m => m.Item2!.ToFloat(), StringComparer.Ordinal),
                StringComparer.Ordinal
            );
        var isStarted =
            step > 0 || moments.Values.SelectMany(m => m.Values).Any(t => t.Data.Span.ContainsAnyExcept((byte)0));
        return isStarted ? new("group0", step, 0, moments) : null;
    }

    private static UpdateRule RuleOf(Kind kind) =>
        kind.OpType switch
        {
            "AdamWOptimizer" or "AdamOptimizer" => new OrtAdamWRule(kind.Mode, kind.Correction),
            "LambOptimizer" => new LambRule(kind.Correction, kind.LeastRatio, kind.LargestRatio),
            _ => new GradientDescentRule(),
        };

    private static Kind KindOf(GraphProto graph, ParameterUpdate update, ParameterUpdate[] all, string path)
    {
        var node = update.Node;
        var kind = new Kind(update.IsOpenCoded ? "" : node.OpType)
        {
            LargestNorm = LargestNorm(graph, update, all, path),
        };
        if (node.OpType is not ("AdamWOptimizer" or "AdamOptimizer" or "LambOptimizer"))
        {
            return kind;
        }

        var isAdamW = node.OpType == "AdamWOptimizer";
        var corrects = Integer(node, isAdamW ? "correct_bias" : "do_bias_correction", 1) != 0;
        kind = kind with
        {
            Mode = Integer(node, isAdamW ? "adam_mode" : "weight_decay_mode", 0),
            Correction =
                !corrects ? BiasCorrection.None
                : ParameterUpdates.NumberOf(graph, update.Step) is 0 ? BiasCorrection.FromZero
                : BiasCorrection.FromOne,
            LeastRatio = Number(node, "ratio_min", float.NegativeInfinity),
            LargestRatio = Number(node, "ratio_max", float.PositiveInfinity),
        };
        return kind.Mode is 0 or 1
            ? kind
            : throw Unknown(path, $"{node.OpType} has the mode {kind.Mode}, and 0 and 1 are known");
    }

    /// <summary>Gives the largest norm of all gradients, 0 where they are not clipped.</summary>
    private static float LargestNorm(GraphProto graph, ParameterUpdate update, ParameterUpdate[] all, string path)
    {
        if (graph.Node.FirstOrDefault(n => n.OpType == "InplaceClipGradNorm") is { } clip)
        {
            var norm = Text(clip, "norm_type", "fro");
            return norm == "fro"
                ? Number(clip, "max_norm", 1)
                : throw Unknown(path, $"{clip.OpType} takes the norm '{norm}', and 'fro' is known");
        }

        if (update.Norm is not { } name)
        {
            return 0;
        }

        var gradients = all.Select(u => u.Gradient).ToHashSet();
        return
            graph.Node.FirstOrDefault(n => n.Output.Contains(name)) is { OpType: "ReduceAllL2" } node
            && gradients.SetEquals(node.Input)
            ? Listed(update, "max_norm_clip", 1)
            : throw Unknown(
                path,
                $"{update.Node.OpType} clips by '{name}', which is not the norm of all its gradients"
            );
    }

    private static string Describe(ParameterUpdate update, Kind kind, Numbers numbers)
    {
        var clipping = kind.LargestNorm > 0 ? Text($", gradients clipped to {kind.LargestNorm}") : "";
        var rate = numbers.Rate is { } lr ? Text($", learning rate {lr}") : "";
        var mode = kind.OpType switch
        {
            "AdamWOptimizer" => Text($", adam_mode {kind.Mode}"),
            "AdamOptimizer" => Text($", weight_decay_mode {kind.Mode}"),
            _ => "",
        };
        return RuleOf(kind) is GradientDescentRule
            ? $"SGD without momentum{rate}{clipping}"
            : $"{update.Node.OpType}{mode}"
                + Text($", beta {numbers.Beta1} and {numbers.Beta2}, epsilon {numbers.Epsilon}, ")
                + Text($"weight decay {numbers.WeightDecay}{rate}{clipping}");

        static string Text(FormattableString text) => FormattableString.Invariant(text);
    }

    /// <summary>Gives an attribute that has a number, or one for each parameter.</summary>
    private static float Listed(ParameterUpdate update, string name, float fallback) =>
        update.Node.Attribute.FirstOrDefault(a => a.Name == name) switch
        {
            { Floats.Count: > 0 } list => list.Floats[Math.Min(update.Index, list.Floats.Count - 1)],
            { } number => number.F,
            null => fallback,
        };

    private static float Number(NodeProto node, string name, float fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == name)?.F ?? fallback;

    private static long Integer(NodeProto node, string name, long fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == name)?.I ?? fallback;

    private static string Text(NodeProto node, string name, string fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == name)?.S.ToStringUtf8() ?? fallback;

    private static MacOnnxException Unknown(string path, string why) =>
        new("MAC0802", path, $"The optimizer cannot be kept: {why}.", "Choose another one: RewriteOptions.Optimizer.");

    /// <summary>What all parameters of an optimizer have in common.</summary>
    private sealed record Kind(string OpType)
    {
        public long Mode { get; init; }

        public BiasCorrection Correction { get; init; }

        public float LeastRatio { get; init; }

        public float LargestRatio { get; init; }

        public float LargestNorm { get; init; }
    }

    /// <summary>What may differ from parameter to parameter.</summary>
    private sealed record Numbers(float Beta1, float Beta2, float Epsilon, float WeightDecay, double? Rate)
    {
        public static Numbers Of(ParameterUpdate update, double? rate)
        {
            var isAdamW = update.Node.OpType == "AdamWOptimizer";
            return update.IsOpenCoded || update.Node.OpType.StartsWith("SGD", StringComparison.Ordinal)
                ? new(0, 0, 0, 0, rate)
                : new(
                    Listed(update, "alpha", 0.9f),
                    Listed(update, "beta", 0.999f),
                    Listed(update, "epsilon", update.Node.OpType == "LambOptimizer" ? 1e-6f : 1e-8f),
                    Listed(update, isAdamW ? "weight_decay" : "lambda", isAdamW ? 0.01f : 0),
                    rate
                );
        }

        public Hyperparameters Apply(Hyperparameters others)
        {
            others = Rate is { } rate ? others with { LearningRate = (float)Math.Abs(rate) } : others;
            return Epsilon == 0
                ? others
                : others with
                {
                    Beta1 = Beta1,
                    Beta2 = Beta2,
                    Epsilon = Epsilon,
                    WeightDecay = WeightDecay,
                };
        }

        /// <summary>Gives the formulas of the numbers that are not those of the first parameter.</summary>
        public IReadOnlyDictionary<string, string> Formulas(Numbers first)
        {
            var formulas = new Dictionary<string, string>(StringComparer.Ordinal);
            Add("beta1", Beta1, first.Beta1);
            Add("beta2", Beta2, first.Beta2);
            Add("epsilon", Epsilon, first.Epsilon);
            Add("weight_decay", WeightDecay, first.WeightDecay);
            if (Rate != first.Rate && first.Rate is { } rate && rate != 0)
            {
                formulas["learning_rate"] = $"{Digits((Rate ?? rate) / rate)} * learning_rate";
            }

            return formulas;

            void Add(string name, float own, float others)
            {
                if (own != others)
                {
                    formulas[name] = Digits(own);
                }
            }
        }

        /// <summary>Formulas read no exponents.</summary>
        private static string Digits(double number) => ((decimal)number).ToString(CultureInfo.InvariantCulture);
    }
}
