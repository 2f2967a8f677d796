using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Activations =>
        [
            .. Each(
                X(2, 5).In(-4, 4),
                "Relu",
                "Sigmoid",
                "Tanh",
                "Softplus",
                "Softsign",
                "HardSigmoid",
                "HardSwish",
                "Mish",
                "Elu",
                "Selu",
                "Celu",
                "LeakyRelu",
                "ThresholdedRelu"
            ),
            .. Each(X(2, 5).In(-4, 4), "Gelu", "FastGelu", "QuickGelu")
                .Select(c => c with { Domain = "com.microsoft" }),
            new("Gelu", X(2, 5).In(-4, 4)) { Type = ElementType.Float },
            new("Gelu", X(2, 5).In(-4, 4))
            {
                Attributes = Attributes(Text("approximate", "tanh")),
                Type = ElementType.Float,
            },
            new("Gelu", X(2, 5).In(-4, 4)) { Opset = 23, Type = ElementType.Float },
            new("Swish", X(2, 5).In(-4, 4)) { Attributes = Attributes(Float("alpha", 1.5)), Opset = 24 },
            new("Swish", X(2, 5).In(-4, 4)) { Opset = 24 },
            new("QuickGelu", X(2, 5))
            {
                Attributes = Attributes(Float("alpha", 1)),
                Domain = "com.microsoft",
                Type = ElementType.Float,
            },
            new("FastGelu", X(2, 5).In(-4, 4), X(5)) { Domain = "com.microsoft", Type = ElementType.Float },
            new("BiasGelu", X(2, 5).In(-4, 4), X(5)) { Domain = "com.microsoft", Type = ElementType.Float },
            .. new[] { 0.3, -0.5, 0 }.Select(a => new GradientCase("LeakyRelu", X(2, 5))
            {
                Attributes = Attributes(Float("alpha", a)),
                Type = ElementType.Float,
            }),
            .. new[] { "Elu", "Celu", "ThresholdedRelu" }.Select(op => new GradientCase(op, X(2, 5).In(-2, 2))
            {
                Attributes = Attributes(Float("alpha", 0.7)),
                Type = ElementType.Float,
            }),
            new("Selu", X(2, 5))
            {
                Attributes = Attributes(Float("alpha", 1.2), Float("gamma", 0.9)),
                Type = ElementType.Float,
            },
            new("HardSigmoid", X(2, 5).In(-3, 3))
            {
                Attributes = Attributes(Float("alpha", 0.4), Float("beta", 0.4)),
                Type = ElementType.Float,
            },
            new("Shrink", X(2, 5))
            {
                Attributes = Attributes(Float("lambd", 0.4), Float("bias", 0.1)),
                Type = ElementType.Float,
            },
            new("Shrink", X(2, 5)) { Type = ElementType.Float },
            new("LpNormalization", X(2, 3, 4)),
            new("LpNormalization", X(2, 3, 4)) { Attributes = Attributes(Int("axis", 1), Int("p", 1)) },
            new("PRelu", X(2, 3, 4), X(3, 1)) { Type = ElementType.Float },
            new("PRelu", X(2, 3), X(1)) { Type = ElementType.Float },
            new("PRelu", X(2, 3), X(2, 3)) { Type = ElementType.Float },
            new("Softmax", X(2, 3, 4)),
            new("Softmax", Batch(2, 3, 4)) { Attributes = Attributes(Int("axis", 1)) },
            new("LogSoftmax", X(2, 3, 4)),
            new("LogSoftmax", X(2, 3, 4)) { Attributes = Attributes(Int("axis", 0)) },
            .. AtOpsets(new("Softmax", X(2, 3)), 13, 23),
            .. AtOpsets(new("HardSwish", X(2, 5).In(-4, 4)) { Type = ElementType.Float }, 14, 22),
        ];

    private static IEnumerable<GradientCase> Each(CaseInput x, params string[] ops) =>
        ops.Select(op => new GradientCase(op, x) { Type = ElementType.Float });
}
