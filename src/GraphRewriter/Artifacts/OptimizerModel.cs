using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Optimizer;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>Reads what optimizer the optimizer graph of training artifacts is.</summary>
internal static class OptimizerModel
{
    private static readonly string[] Glue = ["SequenceConstruct", "InplaceClipGradNorm"];

    /// <summary>Reads the optimizer.</summary>
    /// <param name="model">The optimizer graph.</param>
    /// <param name="path">Its file, for messages.</param>
    /// <exception cref="MacOnnxException">The optimizer is none of those known (MAC0802).</exception>
    public static KeptOptimizer Read(ModelProto model, string path)
    {
        var nodes = model.Graph.Node.Where(n => !Glue.Contains(n.OpType)).ToArray();
        var clip = model.Graph.Node.FirstOrDefault(n => n.OpType == "InplaceClipGradNorm");
        if (nodes.Length == 0 || nodes.Any(n => !SameAs(n, nodes[0])))
        {
            throw Unknown(path, "its nodes differ: one optimizer with one set of numbers is understood");
        }

        if (clip is not null && Text(clip, "norm_type", "fro") != "fro")
        {
            throw Unknown(path, $"{clip.OpType} takes the norm '{Text(clip, "norm_type", "fro")}', and 'fro' is known");
        }

        var largest = clip is null ? 0 : Number(clip, "max_norm", 1);
        var node = nodes[0];
        var clipping = clip is null ? "" : FormattableString.Invariant($", gradients clipped to {largest}");
        switch (node.OpType)
        {
            case "AdamWOptimizer":
                return Adam("adam_mode", "correct_bias", "weight_decay", 0.01f);
            case "AdamOptimizer" when node.Input.Count <= 7:
                return Adam("weight_decay_mode", "do_bias_correction", "lambda", 0);
            case "SGDOptimizerV2" or "SGDOptimizer":
                return new(
                    new GradientDescentRule(),
                    h => h with { MaxGradientNorm = largest },
                    $"SGD without momentum{clipping}"
                );
            case var other:
                throw Unknown(path, $"{other} is not known with these inputs");
        }

        KeptOptimizer Adam(string mode, string correction, string decay, float defaultDecay)
        {
            var (kind, corrects) = (Integer(node, mode, 0), Integer(node, correction, 1) != 0);
            if (kind is not (0 or 1))
            {
                throw Unknown(path, $"{node.OpType} has the mode {kind}, and 0 and 1 are known");
            }

            var numbers = new Hyperparameters
            {
                Beta1 = Number(node, "alpha", 0.9f),
                Beta2 = Number(node, "beta", 0.999f),
                Epsilon = Number(node, "epsilon", 1e-8f),
                WeightDecay = Number(node, decay, defaultDecay),
                MaxGradientNorm = largest,
            };
            return new(
                new OrtAdamWRule(kind, corrects),
                h =>
                    h with
                    {
                        Beta1 = numbers.Beta1,
                        Beta2 = numbers.Beta2,
                        Epsilon = numbers.Epsilon,
                        WeightDecay = numbers.WeightDecay,
                        MaxGradientNorm = numbers.MaxGradientNorm,
                    },
                FormattableString.Invariant($"{node.OpType}, {mode} {kind}, beta {numbers.Beta1} and {numbers.Beta2}, ")
                    + FormattableString.Invariant($"epsilon {numbers.Epsilon}, weight decay {numbers.WeightDecay}")
                    + clipping
            );
        }
    }

    private static bool SameAs(NodeProto a, NodeProto b) =>
        a.OpType == b.OpType
        && a.Attribute.Count == b.Attribute.Count
        && a.Attribute.All(x => b.Attribute.Any(y => x.Equals(y)));

    private static float Number(NodeProto node, string name, float fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == name)?.F ?? fallback;

    private static long Integer(NodeProto node, string name, long fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == name)?.I ?? fallback;

    private static string Text(NodeProto node, string name, string fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == name)?.S.ToStringUtf8() ?? fallback;

    private static MacOnnxException Unknown(string path, string why) =>
        new("MAC0802", path, $"The optimizer cannot be kept: {why}.", "Choose another one: RewriteOptions.Optimizer.");
}
