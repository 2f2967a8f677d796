using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// A product of rows with a weight, stored [out, in] or [in, out] (Gemm, or MatMul perhaps with an Add).
/// </summary>
/// <param name="Weight">The weight.</param>
/// <param name="Bias">The bias, or null.</param>
/// <param name="Node">The product.</param>
/// <param name="IsOutputFirst">Whether the weight's first axis is the output.</param>
internal sealed record DenseLayer(Parameter Weight, Parameter? Bias, Node Node, bool IsOutputFirst)
    : Layer(Weight, Bias, Node)
{
    private ImmutableArray<ActivationMean> _means;

    public override string Kind => "dense";

    public override bool OutputFirst => IsOutputFirst;

    public override ImmutableArray<ActivationMean> Means => _means.IsDefault ? _means = WithValues(Plain) : _means;

    public override ImmutableArray<int> MeanOfUnit =>
        [.. Enumerable.Range(0, (int)Out).Select(u => Values is { IsWhole: false } v && v.Units[u] ? 1 : 0)];

    private bool IsInputTransposed => Node.Attributes.Int("transA", 0) != 0;

    public override Term Rows(Term input) =>
        IsInputTransposed ? input.Transpose(1, 0)
        : input.V.Rank == 2 ? input
        : input.Reshape(-1, In);

    /// <summary>The mean over all leading positions of the input.</summary>
    private ActivationMean Plain()
    {
        var key = $"{Input.Name}/{IsInputTransposed}";
        return ActivationMean.Of(new($"{Name}.mac_mean", Node, [1, In], key, (b, _) => RowMean(b)));
    }

    private Term RowMean(GraphBuilder b)
    {
        var features = IsInputTransposed ? 0 : Input.Rank - 1;
        long[] others = [.. Enumerable.Range(0, Input.Rank).Where(a => a != features).Select(a => (long)a)];
        return new Term(b, Input).Mean(others, keepDims: false).Cast(ElementType.Float).Reshape(1, In);
    }
}
