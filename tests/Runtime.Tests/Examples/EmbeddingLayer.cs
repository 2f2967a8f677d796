using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>A table whose rows indices select: the product of one-hot rows with a weight [in, out].</summary>
internal sealed record EmbeddingLayer(Parameter Weight, Node Node) : Layer(Weight, null, Node)
{
    public override string Kind => "embedding";

    public override bool OutputFirst => false;

    public override bool HasOneInput => false; // the input is indices, so only MAC's mean is defined

    /// <summary>The mean one-hot row: how often a batch holds each index.</summary>
    public override ImmutableArray<ActivationMean> Means =>
        [
            ActivationMean.Of(
                new($"{Weight.Name}.mac_mean", Node, [1, In], null, (b, _) => Rows(new(b, Node.Inputs[1]!)).Mean([0]))
            ),
        ];

    public override ImmutableArray<int> MeanOfUnit => [.. new int[Out]];

    public override Term Rows(Term input)
    {
        var values = new Term(input.B, input.B.Constant(Ir.Tensor.From<float>([2], [0, 1])));
        return input.Reshape(-1).Op("OneHot", input.B.Int64s(In), values, Int("axis", -1));
    }
}
