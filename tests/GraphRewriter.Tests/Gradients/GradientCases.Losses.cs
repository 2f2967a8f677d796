using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Losses =>
        [
            .. Loss("NegativeLogLikelihoodLoss"),
            .. Loss("SoftmaxCrossEntropyLoss"),
            new("SoftmaxCrossEntropyLoss", X(4, 3), Labels) { Outputs = [true, true] },
            new("SoftmaxCrossEntropyLoss", X(4, 3), Labels) { Outputs = [false, true] },
            new("SoftmaxCrossEntropyLoss", X(4, 3), Labels) { Outputs = [true, false] },
        ];

    private static CaseInput Labels => Data([4], new[] { 2L, 0, 1, 2 });

    private static CaseInput ClassWeights => Data([3], new[] { 0.5, 1, 2 });

    private static IEnumerable<GradientCase> Loss(string op) =>
        [
            new(op, X(4, 3), Labels),
            new(op, Batch(4, 3), Labels with { Dynamic = true }),
            new(op, X(4, 3), Data([4], new[] { 2, 0, 1, 2 })),
            .. new[] { "mean", "sum", "none" }.SelectMany(reduction =>
                new GradientCase[]
                {
                    new(op, X(4, 3), Labels, ClassWeights) { Attributes = Attributes(Text("reduction", reduction)) },
                    new(op, X(4, 3), Labels)
                    {
                        Attributes = Attributes(Text("reduction", reduction), Int("ignore_index", -100)),
                    },
                    new(op, X(2, 3, 2), Data([2, 2], new[] { 2L, 255, 1, 2 }), ClassWeights)
                    {
                        Attributes = Attributes(Text("reduction", reduction), Int("ignore_index", 255)),
                    },
                    new(op, X(2, 3, 1, 2), Data([2, 1, 2], new[] { 2, 0, 1, 2 }))
                    {
                        Attributes = Attributes(Text("reduction", reduction), Int("ignore_index", 0)),
                    },
                    new(op, Batch(2, 3, 2), Data([2, 2], new[] { 2L, 0, 1, 2 }) with { Dynamic = true })
                    {
                        Attributes = Attributes(Text("reduction", reduction)),
                    },
                }
            ),
            .. AtOpsets(new(op, X(4, 3), Labels), 13, 23),
        ];
}
