using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Import;

public sealed class FusedActivationsTests
{
    public static TheoryData<string, string, float[]> Cases =>
        new()
        {
            { "FusedGemm", "Relu", [] },
            { "FusedGemm", "Tanh", [] },
            { "FusedGemm", "LeakyRelu", [0.3f] },
            { "FusedConv", "Relu", [] },
            { "FusedConv", "Sigmoid", [] },
            { "FusedConv", "LeakyRelu", [0.3f] },
            { "FusedConv", "Clip", [-0.1f, 0.4f] },
            { "FusedConv", "HardSigmoid", [0.3f, 0.4f] },
            { "FusedConv and sum", "Relu", [] },
        };

    [Theory]
    [MemberData(nameof(Cases))]
    public void PartsGiveWhatTheFusedOperatorGives(string form, string activation, float[] parameters)
    {
        var graph = new Graph { Name = form, Opsets = { [""] = OpsetUpgrade.Target, ["com.microsoft"] = 1 } };
        var b = new GraphBuilder(graph);
        var inputs = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        var random = new Random(4);
        Value Input(params long[] dims)
        {
            var value = b.Input($"input{inputs.Count}", ElementType.Float, Shape.Of(dims));
            inputs[value.Name] = Tensor.From<float>(
                dims,
                [.. Enumerable.Range(0, (int)Tensor.CountOf(dims)).Select(_ => random.NextSingle() - 0.5f)]
            );
            return value;
        }

        var isConv = form != "FusedGemm";
        Value[] operands = isConv
            ? [Input(2, 3, 5, 5), Input(4, 3, 3, 3), Input(4)]
            : [Input(3, 5), Input(4, 5), Input(4)];
        var node = b.Node(
            isConv ? "FusedConv" : form,
            "com.microsoft",
            form.EndsWith("sum", StringComparison.Ordinal) ? [.. operands, Input(2, 4, 3, 3)] : operands,
            1,
            [
                Text("activation", activation),
                .. isConv
                    ? Params(parameters)
                    :
                    [
                        Int("transB", 1),
                        .. parameters.Length > 0 ? [Float("activation_alpha", parameters[0])] : Array.Empty<Attr>(),
                    ],
            ]
        );
        (node.Outputs[0].Type, node.Outputs[0].Shape) = (
            ElementType.Float,
            isConv ? Shape.Of(2, 4, 3, 3) : Shape.Of(3, 4)
        );
        graph.Outputs.Add(node.Outputs[0]);
        var expected = Onnx.Run(ModelWriter.ToBytes(graph), inputs);
        FusedOperators.Apply(graph, []);
        Assert.All(graph.Nodes, n => Assert.Empty(n.Domain));

        // The same sums of at most 27 products in float32, in another order.
        Onnx.Equal(expected, Onnx.Run(ModelWriter.ToBytes(graph), inputs), 1e-6);
    }

    private static Attr[] Params(float[] values) => values.Length > 0 ? [Floats("activation_params", values)] : [];
}
