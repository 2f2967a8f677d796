using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Artifacts;

/// <summary>A forward operator and the operator of ONNX Runtime that computes its gradient.</summary>
/// <param name="Name">The gradient operator, and what is particular about the case.</param>
/// <param name="Parameters">What is differentiated by: each P gets its gradient from the value P_grad.</param>
/// <param name="Forward">Computes y.</param>
/// <param name="Gradient">Computes the gradients from y_grad.</param>
/// <param name="Constants">What else is read.</param>
internal sealed record GradientOperatorCase(
    string Name,
    (string Name, long[] Dims)[] Parameters,
    NodeProto[] Forward,
    NodeProto[] Gradient,
    params (string Name, Tensor Tensor)[] Constants
)
{
    public string Operator => Name.Split(',', ' ')[0];

    public override string ToString() => Name;
}

/// <summary>One case or more for every row of the import table.</summary>
internal static class GradientOperatorCases
{
    private const string Ms = "com.microsoft";

    public static IEnumerable<GradientOperatorCase> All { get; } =
    [
        Unary("ReluGrad", Node("Relu"), "y"),
        Unary("ReluGrad of the input", Node("Relu"), "x"),
        Unary("LeakyReluGrad", Node("LeakyRelu", Float("alpha", 0.2f)), "y", Float("alpha", 0.2f)),
        Unary("SigmoidGrad", Node("Sigmoid"), "y"),
        Unary("TanhGrad", Node("Tanh"), "y"),
        Unary("GeluGrad", Of(Ms, "Gelu", ["x"]), "x"),
        Unary("FastGeluGrad", Of(Ms, "FastGelu", ["x"]), "x"),
        Unary("QuickGeluGrad", Of(Ms, "QuickGelu", ["x"], Float("alpha", 1.3f)), "x", Float("alpha", 1.3f)),
        new(
            "BiasGeluGrad_dX",
            [("x", [3, 4])],
            [Of(Ms, "BiasGelu", ["x", "b"])],
            [Grad("BiasGeluGrad_dX", ["y_grad", "x", "b"])],
            ("b", Onnx.Floats(4))
        ),
        new(
            "BiasFastGeluGrad_dX",
            [("x", [3, 4])],
            [Of(Ms, "FastGelu", ["x", "b"])],
            [Grad("BiasFastGeluGrad_dX", ["y_grad", "x", "b"])],
            ("b", Onnx.Floats(4))
        ),
        Unary("SoftmaxGrad_13", Node("Softmax", Int("axis", 0)), "y", Int("axis", 0)),
        Unary("LogSoftmaxGrad_13", Node("LogSoftmax", Int("axis", -1)), "y", Int("axis", -1)),
        Flattened("SoftmaxGrad", "Softmax"),
        Flattened("LogSoftmaxGrad", "LogSoftmax"),
        CrossEntropy("SoftmaxCrossEntropyLossGrad", []),
        CrossEntropy("SoftmaxCrossEntropyLossGrad, sum", [Text("reduction", "sum")]),
        CrossEntropy("SoftmaxCrossEntropyLossGrad, none", [Text("reduction", "none")]),
        CrossEntropy("SoftmaxCrossEntropyLossGrad, ignored label", [Int("ignore_index", 2)]),
        CrossEntropy("SoftmaxCrossEntropyLossGrad, weights", [Int("ignore_index", 2)], "weights"),
        new(
            "SoftmaxCrossEntropyLossInternalGrad",
            [("x", [4, 3])],
            [Onnx.Node("SoftmaxCrossEntropyLoss", ["x", "labels"], ["y", "p"], Int("ignore_index", 2))],
            [Grad("SoftmaxCrossEntropyLossInternalGrad", ["y_grad", "p", "labels", "", "ignored"])],
            ("labels", Ir.Tensor.From<int>([4], [0, 2, 1, 0])),
            ("ignored", Ir.Tensor.From<long>([], [2]))
        ),
        Scaled("Scale", "Mul", 0),
        Scaled("Scale down", "Div", 1),
        new(
            "DropoutGrad",
            [("x", [3, 4])],
            [Onnx.Node("Dropout", ["x", "ratio", "on"], ["y", "mask"])],
            [Grad("DropoutGrad", ["y_grad", "mask", "ratio", "on"])],
            ("ratio", Ir.Tensor.From<float>([], [0.4f])),
            ("on", Ir.Tensor.From<bool>([], [true]))
        ),
        new(
            "DivGrad",
            [("x", [3, 4]), ("w", [4])],
            [Node("Div", ["x", "w"])],
            [Grad("DivGrad", ["y_grad", "x", "w"], ["x_grad", "w_grad"])]
        ),
        Picked("GatherGrad", 0, [2, 0, 2]),
        Picked("GatherGrad, axis 1", 1, [1, -1, 1]),
        new(
            "GatherElementsGrad",
            [("x", [3, 4])],
            [Node("GatherElements", ["x", "i"], Int("axis", 1))],
            [Grad("GatherElementsGrad", ["y_grad", "s", "i"], ["x_grad"], Int("axis", 1))],
            ("i", Ir.Tensor.From<long>([3, 2], [0, 0, 1, 3, 2, 2])),
            ("s", Onnx.Ints(3, 4))
        ),
        new(
            "SliceGrad",
            [("x", [4, 5])],
            [Node("Slice", ["x", "b", "e", "a", "t"])],
            [Grad("SliceGrad", ["y_grad", "s", "b", "e", "a", "t"])],
            ("b", Onnx.Ints(3, 0)),
            ("e", Onnx.Ints(-5, 5)),
            ("a", Onnx.Ints(0, 1)),
            ("t", Onnx.Ints(-1, 2)),
            ("s", Onnx.Ints(4, 5))
        ),
        new(
            "GatherNDGrad",
            [("x", [3, 4])],
            [Node("GatherND", ["x", "i"])],
            [Grad("GatherNDGrad", ["s", "i", "y_grad"])],
            ("i", Ir.Tensor.From<long>([3, 2], [0, 1, 2, -1, 0, 1])),
            ("s", Onnx.Ints(3, 4))
        ),
        new(
            "GatherNDGrad, one batch dimension",
            [("x", [2, 3, 2])],
            [Node("GatherND", ["x", "i"], Int("batch_dims", 1))],
            [Grad("GatherNDGrad", ["s", "i", "y_grad"], ["x_grad"], Int("batch_dims", 1))],
            ("i", Ir.Tensor.From<long>([2, 1], [2, 0])),
            ("s", Onnx.Ints(2, 3, 2))
        ),
        new(
            "GatherGrad, PyTorch's embedding with a padding row",
            [("x", [4, 3])],
            [Of("org.pytorch.aten", "ATen", ["x", "i", "padding", "no", "no"], Text("operator", "embedding"))],
            [
                Onnx.Node(
                    "org.pytorch.aten",
                    "ATen",
                    ["y_grad", "i", "rows", "padding", "no", "no"],
                    ["x_grad"],
                    Text("operator", "embedding_backward")
                ),
            ],
            ("i", Ir.Tensor.From<long>([2, 2], [2, 0, 2, 1])),
            ("rows", Onnx.Ints(4)),
            ("padding", Ir.Tensor.From<long>([], [-1])),
            ("no", Ir.Tensor.From<bool>([], [false]))
        ),
        new(
            "InvertibleLayerNormalizationGrad",
            [("x", [3, 5]), ("w", [5]), ("b", [5])],
            [Onnx.Node("LayerNormalization", ["x", "w", "b"], ["y", "mean", "deviation"])],
            [
                Grad(
                    "InvertibleLayerNormalizationGrad",
                    ["y_grad", "y", "w", "b", "deviation"],
                    ["x_grad", "w_grad", "b_grad"]
                ),
            ]
        ),
        new(
            "SoftmaxCrossEntropyLossInternalGrad, the loss too",
            [("x", [4, 3])],
            [
                Of(Ms, "SoftmaxCrossEntropyLossInternal", ["x", "labels", "weights", "ignored"], Int("output_type", 1))
                    .With(n => n.Output.Add("p")),
            ],
            [
                Grad(
                    "SoftmaxCrossEntropyLossInternalGrad",
                    ["y_grad", "p", "labels", "weights", "ignored"],
                    null,
                    Int("output_type", 1)
                ),
            ],
            ("labels", Ir.Tensor.From<int>([4], [0, 2, 1, 0])),
            ("weights", Ir.Tensor.From<float>([3], [1, 0.5f, 2])),
            ("ignored", Ir.Tensor.From<long>([], [1]))
        ),
        new(
            "DropoutGrad, with bias and residual",
            [("x", [3, 4]), ("b", [4]), ("r", [3, 4])],
            [Of(Ms, "BiasDropout", ["x", "b", "r", "ratio", "on"]).With(n => n.Output.Add("mask"))],
            [
                Grad("DropoutGrad", ["y_grad", "mask", "ratio", "on"]),
                Onnx.Node("ReduceSum", ["x_grad", "first"], ["b_grad"], Int("keepdims", 0)),
                Onnx.Node("Identity", ["y_grad"], ["r_grad"]),
            ],
            ("first", Onnx.Ints(0)),
            ("ratio", Ir.Tensor.From<float>([], [0.4f])),
            ("on", Ir.Tensor.From<bool>([], [true]))
        ),
        new(
            "DropoutGrad, bit mask",
            [("x", [3, 4])],
            [Of(Ms, "BitmaskDropout", ["x", "ratio", "on"]).With(n => n.Output.Add("mask"))],
            [Grad("BitmaskDropoutGrad", ["y_grad", "mask", "ratio", "on"])],
            ("ratio", Ir.Tensor.From<float>([], [0.4f])),
            ("on", Ir.Tensor.From<bool>([], [true]))
        ),
        new(
            "Scale, axes of a sum computed",
            [("x", [3, 1, 4]), ("w", [2, 1])],
            [Node("Mul", ["x", "w"])],
            [
                Grad("Scale", ["y_grad", "one"], ["g"]),
                Onnx.Node("Shape", ["x"], ["xs"]),
                Onnx.Node("Shape", ["w"], ["ws"]),
                Onnx.Node(Ms, "BroadcastGradientArgs", ["xs", "ws"], ["xa", "wa"]),
                Onnx.Node("Mul", ["g", "w"], ["xg"]),
                Onnx.Node("ReduceSum", ["xg", "xa"], ["xr"], Int("noop_with_empty_axes", 1)),
                Onnx.Node("Reshape", ["xr", "xs"], ["x_grad"]),
                Onnx.Node("Mul", ["g", "x"], ["wg"]),
                Onnx.Node("ReduceSum", ["wg", "wa"], ["wr"], Int("noop_with_empty_axes", 1)),
                Onnx.Node("Reshape", ["wr", "ws"], ["w_grad"]),
            ],
            ("one", Ir.Tensor.From<float>([], [1]))
        ),
        new(
            "Scale, of a concatenation with lengths",
            [("x", [2, 3]), ("w", [2, 2])],
            [
                Onnx.Node(Ms, "ConcatTraining", ["x", "w"], ["y", "lengths"], Int("axis", -1)),
                Onnx.Node("Identity", ["lengths"], ["counts"]),
            ],
            [
                Grad("Scale", ["y_grad", "one"], ["g"]),
                Onnx.Node(Ms, "SplitTraining", ["g", "counts"], ["x_grad", "w_grad"], Int("axis", 1)),
            ],
            ("one", Ir.Tensor.From<float>([], [1]))
        ),
        new(
            "LayerNormalizationGrad",
            [("x", [3, 5]), ("w", [5]), ("b", [5])],
            [Onnx.Node("LayerNormalization", ["x", "w", "b"], ["y", "mean", "deviation"])],
            [Grad("LayerNormalizationGrad", ["y_grad", "x", "w", "mean", "deviation"], ["x_grad", "w_grad", "b_grad"])]
        ),
        new(
            "SimplifiedLayerNormalizationGrad",
            [("x", [3, 5]), ("w", [5])],
            [Onnx.Node("SimplifiedLayerNormalization", ["x", "w"], ["y", "deviation"])],
            [Grad("SimplifiedLayerNormalizationGrad", ["y_grad", "x", "w", "deviation"], ["x_grad", "w_grad"])]
        ),
        new(
            "BatchNormalizationGrad",
            [("x", [3, 2, 3]), ("w", [2]), ("b", [2])],
            [Onnx.Node(Ms, "BatchNormInternal", ["x", "w", "b", "m", "v"], ["y", "m1", "v1", "mean", "deviation"])],
            [
                Grad(
                    "BatchNormalizationGrad",
                    ["y_grad", "x", "w", "mean", "deviation"],
                    ["x_grad", "w_grad", "b_grad"],
                    Float("epsilon", 1e-5f)
                ),
            ],
            ("m", Ir.Tensor.From<float>([2], [0, 0])),
            ("v", Ir.Tensor.From<float>([2], [1, 1]))
        ),
        Convolved("ConvGrad", "Conv", [3, 2, 3, 3], Ints("pads", 1, 1, 1, 1), Ints("strides", 2, 1)),
        // ONNX Runtime 1.19's own kernel takes auto_pad for no padding here.
        Convolved("ConvGrad, auto_pad", "Conv", [3, 2, 3, 3], Text("auto_pad", "SAME_UPPER"), Ints("strides", 2, 2)),
        Convolved("ConvTransposeGrad", "ConvTranspose", [2, 3, 3, 3], Ints("strides", 2, 2)),
        new(
            "MaxPoolGrad",
            [("x", [1, 2, 5, 5])],
            [Onnx.Node("MaxPool", ["x"], ["y", "places"], Ints("kernel_shape", 3, 3), Ints("strides", 1, 1))],
            [Onnx.Node("MaxPoolGrad", ["y_grad", "places"], ["x_grad"], Ints("kernel_shape", 3, 3))]
        ),
        // Windows that overlap in three dimensions: there ONNX Runtime 1.19's own kernel is wrong.
        new(
            "AveragePoolGrad",
            [("x", [1, 1, 4, 4, 4])],
            [Node("AveragePool", ["x"], Ints("kernel_shape", 2, 2, 2), Ints("strides", 1, 1, 1))],
            [Onnx.Node("AveragePoolGrad", ["y_grad"], ["x_grad"], Ints("kernel_shape", 2, 2, 2))]
        ),
    ];

    private static NodeProto With(this NodeProto node, Action<NodeProto> change)
    {
        change(node);
        return node;
    }

    private static NodeProto Node(string op, params Attr[] attributes) => Node(op, ["x"], attributes);

    private static NodeProto Node(string op, string[] inputs, params Attr[] attributes) =>
        Onnx.Node(op, inputs, ["y"], attributes);

    private static NodeProto Of(string domain, string op, string[] inputs, params Attr[] attributes) =>
        Onnx.Node(domain, op, inputs, ["y"], attributes);

    private static NodeProto Grad(string op, string[] inputs, string[]? outputs = null, params Attr[] attributes) =>
        Onnx.Node(Ms, op, inputs, outputs ?? ["x_grad"], attributes);

    private static GradientOperatorCase Unary(string name, NodeProto forward, string read, params Attr[] attributes) =>
        new(name, [("x", [3, 4])], [forward], [Grad(name.Split(' ')[0], ["y_grad", read], null, attributes)]);

    /// <summary>Before operator set 13 all axes from 1 on were one.</summary>
    private static GradientOperatorCase Flattened(string name, string forward) =>
        new(
            name,
            [("x", [2, 2, 3])],
            [
                Onnx.Node("Reshape", ["x", "flat"], ["a"]),
                Onnx.Node(forward, ["a"], ["p"], Int("axis", 1)),
                Onnx.Node("Reshape", ["p", "full"], ["y"]),
            ],
            [Grad(name, ["y_grad", "y"], null, Int("axis", 1))],
            ("flat", Onnx.Ints(2, 6)),
            ("full", Onnx.Ints(2, 2, 3))
        );

    private static GradientOperatorCase CrossEntropy(string name, Attr[] attributes, params string[] weights) =>
        new(
            name,
            [("x", [4, 3])],
            [Onnx.Node("SoftmaxCrossEntropyLoss", ["x", "labels", .. weights], ["y", "p"], attributes)],
            [Grad("SoftmaxCrossEntropyLossGrad", ["y_grad", "p", "labels", .. weights], null, attributes)],
            ("labels", Ir.Tensor.From<long>([4], [0, 2, 1, 0])),
            ("weights", Ir.Tensor.From<float>([3], [1, 0.5f, 2]))
        );

    private static GradientOperatorCase Scaled(string name, string forward, long down) =>
        new(
            name,
            [("x", [3, 4])],
            [Node(forward, ["x", "k"])],
            [Grad("Scale", ["y_grad", "n"], null, Int("scale_down", down))],
            ("k", Ir.Tensor.From<float>([], [3])),
            ("n", Ir.Tensor.From<long>([], [3]))
        );

    private static GradientOperatorCase Picked(string name, long axis, long[] indices) =>
        new(
            name,
            [("x", [3, 4])],
            [Node("Gather", ["x", "i"], Int("axis", axis))],
            [Grad("GatherGrad", ["s", "i", "y_grad"], null, Int("axis", axis))],
            ("i", Onnx.Ints(indices)),
            ("s", Onnx.Ints(3, 4))
        );

    private static GradientOperatorCase Convolved(string name, string op, long[] kernel, params Attr[] attributes) =>
        new(
            name,
            [("x", [1, 2, 5, 4]), ("w", kernel), ("b", [3])],
            [Node(op, ["x", "w", "b"], attributes)],
            [Grad(name.Split(',')[0], ["y_grad", "x", "w"], ["x_grad", "w_grad", "b_grad"], attributes)]
        );
}
