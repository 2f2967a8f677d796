using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Splits FusedGemm and FusedConv of com.microsoft, which ONNX Runtime's optimizer makes of a product or
/// convolution and the activation behind it.
/// </summary>
internal static class FusedActivations
{
    private static readonly string[] Own =
    [
        "activation",
        "activation_params",
        "activation_alpha",
        "activation_beta",
        "activation_gamma",
    ];

    /// <exception cref="UnsupportedUseException">The activation is none that ONNX Runtime fuses.</exception>
    public static void Expand(GraphBuilder b, Node node)
    {
        var isConv = node.OpType == "FusedConv";
        var linear = b.Op(
            isConv ? "Conv" : "Gemm",
            [.. node.Inputs.Take(3)],
            [.. node.Attributes.All.Where(a => !Own.Contains(a.Name))]
        );
        if (isConv && node.Input(3) is { } added)
        {
            linear = b.Op("Add", [linear, added]);
        }

        // FusedConv has a list of parameters, FusedGemm an attribute each.
        var list = node.Attributes.Floats("activation_params");
        double Parameter(int index, string name, float fallback) =>
            list?.Length > index ? list[index] : node.Attributes.Float($"activation_{name}", fallback);
        var activation = node.Attributes.Text("activation", "");
        var made = activation switch
        {
            "" => new Node("Identity", "", node.Name, [linear], []),
            "Relu" or "Tanh" or "Sigmoid" or "Softplus" or "Softsign" => new Node(
                activation,
                "",
                node.Name,
                [linear],
                []
            ),
            "LeakyRelu" => new Node(
                activation,
                "",
                node.Name,
                [linear],
                [Float("alpha", Parameter(0, "alpha", 0.01f))]
            ),
            "Elu" => new Node(activation, "", node.Name, [linear], [Float("alpha", Parameter(0, "alpha", 1))]),
            "HardSigmoid" => new Node(
                activation,
                "",
                node.Name,
                [linear],
                [Float("alpha", Parameter(0, "alpha", 0.2f)), Float("beta", Parameter(1, "beta", 0.5f))]
            ),
            "Clip" => new Node(
                activation,
                "",
                node.Name,
                [
                    linear,
                    b.Scalar(Parameter(0, "alpha", float.MinValue), ElementType.Float),
                    b.Scalar(Parameter(1, "beta", float.MaxValue), ElementType.Float),
                ],
                []
            ),
            _ => throw new UnsupportedUseException(
                "MAC0102",
                $"{node}",
                $"the activation is '{activation}'",
                "Use the model as it was before ONNX Runtime optimized it."
            ),
        };
        made.SetOutput(0, node.Outputs[0]);
        b.Append(made);
    }
}
