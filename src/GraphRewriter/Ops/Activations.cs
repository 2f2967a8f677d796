using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Activation functions.</summary>
/// <remarks>
/// Those that ONNX Runtime fuses into the operator before them (Relu, LeakyRelu, Sigmoid, Tanh, HardSigmoid) read only
/// their own
/// output, so that the fusion stays possible.
/// </remarks>
internal static class Activations
{
    private const double RootHalf = 0.7071067811865476;
    private const double RootTwoOverPi = 0.7978845608028654;
    private const double OneOverRootTwoPi = 0.3989422804014327;

    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("Relu", g => [g.Of(g.Internal("ReluGrad", [g.DY(), g.Y()], 1).Outputs[0])], Flow: Flow.Pointwise),
        new("LeakyRelu", LeakyRelu, Flow: Flow.Pointwise),
        new("PRelu", PRelu, Broadcasts: true, Flow: Flow.Pointwise),
        new("ThresholdedRelu", g => [g.DY() * Where(g.X(), "Greater", g.Float("alpha", 1))], Flow: Flow.Pointwise),
        new("Shrink", g => [g.DY() * Where(g.X().Abs(), "Greater", g.Float("lambd", 0.5f))], Flow: Flow.Pointwise),
        new("Elu", g => [g.DY() * Negative(g, 1, g.Y() + g.Float("alpha", 1))], Flow: Flow.Pointwise),
        new(
            "Selu",
            g =>
                [
                    g.DY()
                        * Negative(
                            g,
                            g.Float("gamma", 1.0507010f),
                            g.Y() + (g.Float("gamma", 1.0507010f) * g.Float("alpha", 1.6732632f))
                        ),
                ],
            Flow: Flow.Pointwise
        ),
        new("Celu", g => [g.DY() * Negative(g, 1, (g.Y() / g.Float("alpha", 1)) + 1)], Flow: Flow.Pointwise),
        new("Sigmoid", g => [g.DY() * (g.Y() * (1 - g.Y()))], Flow: Flow.Pointwise),
        new("Tanh", g => [g.DY() * (1 - (g.Y() * g.Y()))], Flow: Flow.Pointwise),
        new("Softplus", g => [g.DY() * g.X().Sigmoid()], Flow: Flow.Pointwise),
        new("Softsign", Softsign, Flow: Flow.Pointwise),
        new(
            "HardSigmoid",
            g => [g.DY() * g.Float("alpha", 0.2f) * (Where(g.Y(), "Greater", 0) * Where(g.Y(), "Less", 1))],
            Flow: Flow.Pointwise
        ),
        new("HardSwish", HardSwish, Flow: Flow.Pointwise),
        new("Mish", Mish, Flow: Flow.Pointwise),
        new("Swish", g => [Swish(g, g.Float("alpha", 1))], Flow: Flow.Pointwise),
        new(
            "Gelu",
            g => [g.Text("approximate", "none") == "tanh" ? g.DY() * TanhGeluSlope(g.X()) : Gelu(g)],
            Flow: Flow.Pointwise
        ),
        new(
            "Softmax",
            g => [g.Of(g.Internal("SoftmaxGrad", [g.DY(), g.Y()], 1, Attr.Int("axis", g.Axis("axis", -1))).Outputs[0])]
        ),
        new("LpNormalization", g => [LpNormalization(g)], Flow: Flow.Rows),
        new("LogSoftmax", g => [LogSoftmax(g.DY(), g.Y(), g.Axis("axis", -1))]),
        new("Gelu", g => [Gelu(g)], "com.microsoft", Flow: Flow.Pointwise),
        new(
            "BiasGelu",
            g => Both(g.DY() * GeluSlope(g.X(0) + g.X(1))),
            "com.microsoft",
            Broadcasts: true,
            Flow: Flow.Pointwise
        ),
        new(
            "FastGelu",
            g => Both(g.DY() * TanhGeluSlope(g.Has(1) ? g.X(0) + g.X(1) : g.X(0))),
            "com.microsoft",
            Broadcasts: true,
            Flow: Flow.Pointwise
        ),
        new("QuickGelu", g => [Swish(g, g.Float("alpha", 1.702f))], "com.microsoft", Flow: Flow.Pointwise),
    ];

    /// <summary>Gives the gradient of LogSoftmax from its output.</summary>
    public static Term LogSoftmax(Term dy, Term y, int axis) => dy - (y.Exp() * dy.Sum([axis]));

    private static Term?[] Both(Term gradient) => [gradient, gradient];

    /// <summary>Gives 1 where a comparison with a number holds, else 0.</summary>
    private static Term Where(Term x, string comparison, double bound) =>
        x.Op(comparison, x.Scalar(bound)).AsNumber(x.Type);

    /// <summary>Gives one slope where the input is positive, another elsewhere.</summary>
    private static Term Negative(GradientContext g, double positive, Term otherwise) =>
        g.X().Scalar(positive).Where(g.X().Op("Greater", g.X().Scalar(0)), otherwise);

    private static Term?[] LeakyRelu(GradientContext g)
    {
        // The output tells the sign of the input as long as the slope is not negative.
        var slope = g.Float("alpha", 0.01f);
        var sign = slope >= 0 ? g.Y() : g.X();
        return [g.DY() * sign.Scalar(1).Where(sign.Op("Greater", sign.Scalar(0)), sign.Scalar(slope))];
    }

    private static Term?[] PRelu(GradientContext g) =>
        [g.DY() * Negative(g, 1, g.X(1)), g.Needs(1) ? g.DY() * g.X().Op("Min", g.X().Scalar(0)) : null];

    private static Term?[] Softsign(GradientContext g)
    {
        var d = 1 + g.X().Abs();
        return [g.DY() / (d * d)];
    }

    private static Term?[] HardSwish(GradientContext g)
    {
        var gate = g.X().Op("HardSigmoid", Attr.Float("alpha", 1.0 / 6), Attr.Float("beta", 0.5));
        return [g.DY() * (gate + (g.X() / 6 * Where(g.X().Abs(), "Less", 3)))];
    }

    private static Term?[] Mish(GradientContext g)
    {
        var t = g.X().Op("Softplus").Tanh();
        return [g.DY() * (t + (g.X() * g.X().Sigmoid() * (1 - (t * t))))];
    }

    /// <summary>x sigmoid(alpha x).</summary>
    private static Term Swish(GradientContext g, double alpha)
    {
        var s = (alpha == 1 ? g.X() : g.X() * alpha).Sigmoid();
        return g.DY() * (s + (g.Y() * alpha * (1 - s)));
    }

    private static Term Gelu(GradientContext g) => g.Of(g.Internal("GeluGrad", [g.DY(), g.X(), g.Y()], 1).Outputs[0]);

    /// <summary>The normal distribution function plus x times its density.</summary>
    public static Term GeluSlope(Term x) =>
        (((x * RootHalf).Op("Erf") + 1) * 0.5) + (x * (OneOverRootTwoPi * (x * x * -0.5).Exp()));

    private static Term TanhGeluSlope(Term x)
    {
        var square = x * x;
        var t = (x * (RootTwoOverPi + (square * (RootTwoOverPi * 0.044715)))).Tanh();
        return 0.5 * (1 + t + (x * (1 - (t * t)) * (RootTwoOverPi + (square * (3 * RootTwoOverPi * 0.044715)))));
    }

    private static Term LpNormalization(GradientContext g)
    {
        var (axis, absolute) = (g.Axis("axis", -1), g.Int("p", 2) == 1);
        var norm = g.X().Op(absolute ? "ReduceL1" : "ReduceL2", g.Ints64(axis));
        return (g.DY() - ((absolute ? g.X().Op("Sign") : g.Y()) * (g.DY() * g.Y()).Sum([axis]))) / norm;
    }
}
