using System.Collections.Frozen;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>The table of operators. Each family has a file of its own beside this one.</summary>
internal static class OpTable
{
    /// <summary>The domain of gradient operators that exist only between differentiation and lowering.</summary>
    public const string GradientDomain = "maconnx.gradient";

    private static readonly Lock Adding = new();

    public static FrozenDictionary<(string Domain, string OpType), OpRule> All { get; private set; } =
        new[]
        {
            NotDifferentiable.Rules,
            Elementwise.Rules,
            Convolution.Rules,
            Pooling.Rules,
            Activations.Rules,
            Linear.Rules,
            Einsum.Rules,
            Normalization.Rules,
            Reductions.Rules,
            Layout.Rules,
            Indexing.Rules,
            Resampling.Rules,
            LossOperators.Rules,
            Sampling.Rules,
            Fourier.Rules,
            Recurrent.Rules,
            ControlFlow.Rules,
            Quantization.Rules,
            Expanded.Rules,
            Refused.Rules,
        }
            .SelectMany(rules => rules)
            .ToFrozenDictionary(rule => (rule.Domain, rule.OpType));

    /// <summary>Adds a row.</summary>
    /// <exception cref="ArgumentException">The operator has a row, or is in a domain of this library.</exception>
    public static void Add(OpRule rule)
    {
        if (rule.Domain is GradientDomain or FunctionCall.Domain)
        {
            throw new ArgumentException($"{rule.Domain} is the rewriter's own domain.", nameof(rule));
        }

        lock (Adding)
        {
            All = All.ContainsKey((rule.Domain, rule.OpType))
                ? throw new ArgumentException($"{rule.Domain}::{rule.OpType} has a row already.", nameof(rule))
                : All.Values.Append(rule).ToFrozenDictionary(r => (r.Domain, r.OpType));
        }
    }

    /// <summary>Gives how elements flow through a node; an operator without a row may mix them.</summary>
    public static Flow FlowOf(Node node) => Find(node)?.Flow ?? Flow.Mixed;

    /// <summary>Gives the row of a node's operator, or null for an operator that is not in the table.</summary>
    public static OpRule? Find(Node node) => All.GetValueOrDefault((node.Domain, node.OpType));
}
