using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Normalization =>
        [
            .. new[]
            {
                BatchNorm([3, 4, 5, 6]),
                BatchNorm([3, 4, 7]),
                BatchNorm([2, 3, 2, 3, 2]),
                BatchNorm([6, 4]),
                BatchNorm([3, 4, 5, 6], Int("training_mode", 1)),
                BatchNorm([3, 4, 7], Int("training_mode", 1), Float("epsilon", 0.1)),
                BatchNorm([2, 3, 2, 3, 2], Int("training_mode", 1), Float("momentum", 0.3)),
                BatchNorm([6, 4], Int("training_mode", 1)),
                Norm("LayerNormalization", [3, 5], X(5).In(0.5, 2), X(5)),
                Norm("LayerNormalization", [2, 3, 4], X(4).In(0.5, 2)),
                Norm("LayerNormalization", [2, 3, 4], X(3, 4), X(3, 4)) with
                {
                    Attributes = Attributes(Int("axis", 1), Float("epsilon", 0.01)),
                },
                Norm("LayerNormalization", [2, 3, 4], X(4), X(4)) with
                {
                    Type = ElementType.Double,
                    Step = null,
                    Tolerance = null,
                },
                Norm("SimplifiedLayerNormalization", [2, 3, 4], X(4)),
                Norm("RMSNormalization", [2, 3, 4], X(4)) with
                {
                    Opset = 23,
                },
                Norm("RMSNormalization", [2, 3, 4], X(3, 4)) with
                {
                    Opset = 23,
                    Attributes = Attributes(Int("axis", 1), Float("epsilon", 0.01)),
                },
                Norm("SkipLayerNormalization", [2, 3, 4], X(2, 3, 4), X(4), X(4), X(4)) with
                {
                    Domain = "com.microsoft",
                },
                Norm("SkipLayerNormalization", [2, 3, 4], X(3, 4), X(4)) with
                {
                    Domain = "com.microsoft",
                    Outputs = [true, null, null, true],
                },
                Norm("SkipSimplifiedLayerNormalization", [2, 3, 4], X(2, 3, 4), X(4), X(4)) with
                {
                    Domain = "com.microsoft",
                    Outputs = [true, null, null, true],
                },
                Norm("InstanceNormalization", [2, 3, 4, 5], X(3), X(3)),
                Norm("InstanceNormalization", [2, 3, 4], X(3), X(3)) with
                {
                    Attributes = Attributes(Float("epsilon", 0.1)),
                },
                Norm("GroupNormalization", [2, 6, 3, 2], X(6), X(6)) with
                {
                    Attributes = Attributes(Int("num_groups", 3)),
                },
                Norm("GroupNormalization", [2, 4, 3], X(4), X(4)) with
                {
                    Attributes = Attributes(Int("num_groups", 1)),
                },
                Norm("GroupNormalization", [2, 6, 3, 2], X(3), X(3)) with
                {
                    Attributes = Attributes(Int("num_groups", 3)),
                    Opset = 18,
                },
                Norm("LRN", [2, 7, 3, 2]) with
                {
                    Attributes = Attributes(Int("size", 3), Float("alpha", 0.5)),
                },
                Norm("LRN", [2, 7, 3, 2]) with
                {
                    Attributes = Attributes(Int("size", 5), Float("alpha", 0.3), Float("beta", 1.5), Float("bias", 2)),
                },
            }.SelectMany(row =>
                new[]
                {
                    row,
                    row with
                    {
                        Inputs =
                        [
                            .. row.Inputs.Select(x =>
                                x.Dims.SequenceEqual(row.Inputs[0].Dims) ? x with { Dynamic = true } : x
                            ),
                        ],
                    },
                }
            ),
        ];

    private static GradientCase BatchNorm(long[] x, params Attr[] attributes) =>
        Norm("BatchNormalization", x, [X(x[1]).In(0.5, 2), X(x[1]), .. Statistics(x[1], attributes)]) with
        {
            Attributes = attributes,
        };

    /// <summary>Running statistics, which matter in inference mode alone.</summary>
    private static CaseInput[] Statistics(long channels, Attr[] attributes)
    {
        var (mean, variance) = (X(channels), X(channels).In(0.5, 2));
        return attributes.Any(a => a.Name == "training_mode") ? [mean.Fixed, variance.Fixed] : [mean, variance];
    }

    /// <summary>
    /// A normalization, in float32: with this step truncation and rounding are both near 1e-4 of the slope.
    /// </summary>
    private static GradientCase Norm(string op, long[] x, params CaseInput[] others) =>
        new(op, [X(x), .. others])
        {
            Type = ElementType.Float,
            Step = 0.02,
            Tolerance = 1e-3,
        };
}
