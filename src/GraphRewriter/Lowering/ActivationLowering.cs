using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>The gradients of activations.</summary>
internal static class ActivationLowering
{
    public static IEnumerable<(string OpType, LoweringRule Rule)> Rules { get; } =
    [
        ("ReluGrad", (b, node) => [Relu(new(b, node.Inputs[0]!), new(b, node.Inputs[1]!))]),
        ("GeluGrad", (b, node) => [new Term(b, node.Inputs[0]!) * Ops.Activations.GeluSlope(new(b, node.Inputs[1]!))]),
        (
            "SoftmaxGrad",
            (b, node) => [Softmax(new(b, node.Inputs[0]!), new(b, node.Inputs[1]!), node.Attributes.Int("axis", -1))]
        ),
    ];

    public static Term Relu(Term dY, Term y) => dY * y.Op("Greater", y.Scalar(0)).AsNumber(dY.Type);

    private static Term Softmax(Term dY, Term y, long axis)
    {
        var product = dY * y;
        return product - (y * product.Sum([axis]));
    }
}
