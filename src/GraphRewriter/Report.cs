using System.Collections.Immutable;

namespace MacOnnx.GraphRewriter;

/// <summary>What was understood of one floating-point constant of the model.</summary>
/// <param name="Name">The initializer's name, or the output's name of a Constant node.</param>
/// <param name="Shape">The dimensions.</param>
/// <param name="Kind">What it is: <c>dense</c>, <c>conv</c>, <c>bias</c>, <c>normalization</c>, <c>embedding</c>,
/// <c>recurrent</c>, <c>rotary</c>, <c>statistic</c>, <c>constant</c> or <c>other</c>.</param>
/// <param name="Treatment">How it is updated: <c>MAC dense</c>, <c>MAC conv</c>, <c>MAC recurrent</c>, <c>plain</c>,
/// <c>frozen</c>, <c>statistic</c> or <c>constant</c>.</param>
/// <param name="Reason">Why it is not preconditioned, or not trained; empty where nothing needs saying.</param>
/// <param name="UsedBy">The operators that read it, by name.</param>
public sealed record ParameterReport(
    string Name,
    ImmutableArray<long> Shape,
    string Kind,
    string Treatment,
    string Reason,
    ImmutableArray<string> UsedBy
)
{
    /// <summary>Gets whether training changes it by the optimizer.</summary>
    public bool IsTrained => Treatment is not ("frozen" or "statistic" or "constant");

    /// <summary>Gets the number of elements.</summary>
    public long ElementCount => Ir.Tensor.CountOf(Shape.AsSpan());
}

/// <summary>One operator between the parameters and the loss that gradients do not pass.</summary>
/// <param name="Operator">The operator, with its domain where that is not ai.onnx.</param>
/// <param name="Nodes">The nodes.</param>
/// <param name="Reason">Why, and what to do; empty for an operator that is not known.</param>
/// <param name="Parameters">The parameters that are cut off from the loss.</param>
public sealed record OperatorReport(
    string Operator,
    ImmutableArray<string> Nodes,
    string Reason,
    ImmutableArray<string> Parameters
);

/// <summary>
/// Output units of a layer, one after another: rows of a weight stored [out, in], columns of one stored [in, out].
/// </summary>
/// <param name="First">The first unit.</param>
/// <param name="End">The unit after the last.</param>
public readonly record struct UnitRange(int First, int End);

/// <summary>The layer that gives attention its queries, keys or values.</summary>
/// <param name="Parameter">The name of its weight.</param>
/// <param name="Rows">The output units that are used, ascending and merged; empty for all of them.</param>
public sealed record AttentionProjectionReport(string Parameter, ImmutableArray<UnitRange> Rows)
{
    /// <summary>Gives the ranges as <c>[0:32][64:96]</c>; nothing for all units.</summary>
    public string Show() => string.Concat(Rows.Select(r => $"[{r.First}:{r.End}]"));
}

/// <summary>One attention layer.</summary>
/// <param name="Heads">The number of query heads.</param>
/// <param name="Mask">What hides keys or is added to scores, in the order of application: <c>causal</c>, <c>padding</c>
/// (from an input), <c>relative position bias</c>, <c>shifted windows</c>, <c>additive</c> (any other constant); null
/// for nothing.</param>
/// <param name="Q">The queries' projection.</param>
/// <param name="K">The keys' projection.</param>
/// <param name="V">The values' projection.</param>
public sealed record AttentionReport(
    long Heads,
    string? Mask,
    AttentionProjectionReport Q,
    AttentionProjectionReport K,
    AttentionProjectionReport V
);

/// <summary>What the rewriter understood of a model, and what it does with it.</summary>
/// <param name="Model">The model file.</param>
/// <param name="Opset">The operator set of the model as exported.</param>
/// <param name="NodeCount">The number of nodes, functions inlined.</param>
/// <param name="Parameters">Every floating-point constant of the model.</param>
/// <param name="OperatorsWithoutGradient">The operators that keep the model from training.</param>
/// <param name="Attention">Every attention layer, in graph order.</param>
/// <param name="StateBytes">The bytes that the optimizer keeps beside the parameters.</param>
/// <param name="Notes">What a user should know: merged batch normalizations, the class axis, fixed dimensions.</param>
public sealed record RewriteReport(
    string Model,
    long Opset,
    int NodeCount,
    ImmutableArray<ParameterReport> Parameters,
    ImmutableArray<OperatorReport> OperatorsWithoutGradient,
    ImmutableArray<AttentionReport> Attention,
    long StateBytes,
    ImmutableArray<string> Notes
);
