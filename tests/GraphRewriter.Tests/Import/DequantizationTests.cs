using Google.Protobuf;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>Models with quantized numbers compute the same, and train, once their weights are float.</summary>
public sealed class DequantizationTests : IDisposable
{
    private const string Contrib = "com.microsoft";

    /// <summary>The quantization of activations: 0.02 a step from -2.56 to 2.54.</summary>
    private const float Step = 0.02f;

    private readonly TempFolder _folder = new();

    /// <summary>Each row: the operator, and its nodes from quantized "q" [2, 3, 4, 4] or real "x" to "y".</summary>
    private static readonly Dictionary<string, NodeProto[]> Rows = new()
    {
        ["DequantizeLinear of weights"] =
        [
            Onnx.Node("DequantizeLinear", ["w_quantized", "channels", "none4"], ["w"], Int("axis", 0)),
            Onnx.Node("DequantizeLinear", ["bias", "steps"], ["b"], Int("axis", 0)),
            Onnx.Node("DequantizeLinear", ["q", "step", "zero"], ["r"]),
            Onnx.Node("Conv", ["r", "w", "b"], ["y"], Ints("pads", 1, 1, 1, 1)),
        ],
        ["QLinearConv"] =
        [
            Onnx.Node(
                "QLinearConv",
                ["q", "step", "zero", "w_quantized", "channels", "none4", "wide", "zero", "bias"],
                ["p"],
                Ints("pads", 1, 1, 1, 1),
                Ints("strides", 2, 1)
            ),
            Onnx.Node("DequantizeLinear", ["p", "wide", "zero"], ["y"]),
        ],
        ["layout between quantized operators"] =
        [
            Onnx.Node("MaxPool", ["q"], ["m"], Ints("kernel_shape", 2, 2)),
            Onnx.Node("Transpose", ["m"], ["t"], Ints("perm", 0, 2, 3, 1)),
            Onnx.Node(Contrib, "QLinearSigmoid", ["t", "step", "zero", "small", "low"], ["p"]),
            Onnx.Node("DequantizeLinear", ["p", "small", "low"], ["y"]),
        ],
        ["QLinearMatMul"] =
        [
            Onnx.Node("QLinearMatMul", ["q", "step", "zero", "m_quantized", "columns", "none5", "wide", "zero"], ["p"]),
            Onnx.Node("DequantizeLinear", ["p", "wide", "zero"], ["y"]),
        ],
        ["QGemm"] =
        [
            Onnx.Node("Reshape", ["q", "rows"], ["f"]),
            Onnx.Node(
                Contrib,
                "QGemm",
                ["f", "step", "zero", "m_quantized", "columns", "none5", "bias5", "wide", "zero"],
                ["p"]
            ),
            Onnx.Node("DequantizeLinear", ["p", "wide", "zero"], ["y"]),
        ],
        ["MatMulInteger"] =
        [
            Onnx.Node("DynamicQuantizeLinear", ["x"], ["d", "ds", "dz"]),
            Onnx.Node("MatMulInteger", ["d", "m_quantized", "dz", "none5"], ["i"]),
            Onnx.Node("Cast", ["i"], ["c"], Int("to", 1)),
            Onnx.Node("Mul", ["ds", "columns"], ["s"]),
            Onnx.Node("Mul", ["c", "s"], ["y"]),
        ],
        ["ConvInteger"] =
        [
            Onnx.Node("DynamicQuantizeLinear", ["x"], ["d", "ds", "dz"]),
            Onnx.Node("ConvInteger", ["d", "w_quantized", "dz", "none"], ["i"], Ints("pads", 0, 1, 0, 1)),
            Onnx.Node("Cast", ["i"], ["c"], Int("to", 1)),
            Onnx.Node("Mul", ["ds", "step"], ["s"]),
            Onnx.Node("Mul", ["c", "s"], ["y"]),
        ],
        ["MatMulIntegerToFloat"] =
        [
            Onnx.Node(
                Contrib,
                "MatMulIntegerToFloat",
                ["q", "m_quantized", "step", "columns", "zero", "none5", "floats5"],
                ["y"]
            ),
        ],
        ["DynamicQuantizeMatMul"] =
        [
            Onnx.Node(Contrib, "DynamicQuantizeMatMul", ["x", "m_quantized", "columns", "none5", "floats5"], ["y"]),
        ],
        ["QLinearAdd and others"] =
        [
            Onnx.Node(Contrib, "QLinearAdd", ["q", "step", "zero", "q", "step", "zero", "wide", "zero"], ["a"]),
            Onnx.Node(Contrib, "QLinearMul", ["a", "wide", "zero", "q", "step", "zero", "wide", "zero"], ["m"]),
            Onnx.Node(Contrib, "QLinearLeakyRelu", ["m", "wide", "zero", "wide", "zero"], ["l"], Float("alpha", 0.3)),
            Onnx.Node(
                Contrib,
                "QLinearConcat",
                ["wide", "zero", "l", "wide", "zero", "q", "step", "zero"],
                ["c"],
                Int("axis", 1)
            ),
            Onnx.Node(
                Contrib,
                "QLinearAveragePool",
                ["c", "wide", "zero", "step", "zero"],
                ["p"],
                Ints("kernel_shape", 3, 3),
                Ints("pads", 1, 1, 1, 1)
            ),
            Onnx.Node(Contrib, "QLinearGlobalAveragePool", ["p", "step", "zero", "step", "zero"], ["g"]),
            Onnx.Node(
                Contrib,
                "QLinearSoftmax",
                ["g", "step", "zero", "small", "low"],
                ["f"],
                Int("axis", 1),
                Int("opset", 13)
            ),
            Onnx.Node("DequantizeLinear", ["f", "small", "low"], ["y"]),
        ],
        ["QAttention"] =
        [
            Onnx.Node("Reshape", ["q", "tokens"], ["t"]),
            Onnx.Node(
                Contrib,
                "QAttention",
                ["t", "attention", "floats12", "step", "step", "", "zero", "none"],
                ["y"],
                Int("num_heads", 2)
            ),
        ],
        ["MatMulNBits"] = [Blocked("MatMulNBits", ["x", "blocks", "block_scales"], 4)],
        ["MatMulNBits with zero points"] = [Blocked("MatMulNBits", ["x", "blocks", "block_scales", "block_zeros"], 4)],
        ["MatMulNBits with real zero points"] =
        [
            Blocked("MatMulNBits", ["x", "blocks", "block_scales", "block_scales"], 4),
        ],
        ["MatMulNBits of 8 bits"] = [Blocked("MatMulNBits", ["x", "bytes", "block_scales"], 8)],
        ["GatherBlockQuantized"] =
        [
            Onnx.Node(
                Contrib,
                "GatherBlockQuantized",
                ["table", "ids", "table_scales"],
                ["y"],
                Int("block_size", 16),
                Int("gather_axis", 0),
                Int("quantize_axis", 1)
            ),
        ],
    };

    public static TheoryData<string> Cases => [.. Rows.Keys];

    public void Dispose() => _folder.Dispose();

    [Theory]
    [MemberData(nameof(Cases))]
    public void TheModelComputesTheSame(string name)
    {
        var width = name.StartsWith("MatMulNBits", StringComparison.Ordinal) ? 32 : 4;
        var model = Model(Rows[name], width);
        var inputs = new Dictionary<string, Tensor> { ["x"] = Onnx.Floats(2, 3, 4, width) };
        var expected = Onnx.Run(model.ToByteArray(), inputs)["y"];
        Dequantization.Apply(model);
        Assert.DoesNotContain(
            model.Graph.Node,
            n =>
                n.OpType.Contains("Integer", StringComparison.Ordinal)
                || n.OpType.StartsWith('Q') && n.OpType != "QuantizeLinear"
        );
        Assert.DoesNotContain(model.Graph.Initializer, t => t.Name.EndsWith("_quantized", StringComparison.Ordinal));
        var found = Onnx.Run(model.ToByteArray(), inputs)["y"];

        // A sum that lies between two steps may be rounded to either, at each of the few quantizations on the way; the
        // widest step is 0.1. Without quantized results only float32 rounding is left.
        var rounds = name is "QLinearConv" or "QLinearMatMul" or "QGemm" or "QLinearAdd and others";
        Assert.Equal(expected.Dims, found.Dims);
        var errors = expected.ToDouble().Zip(found.ToDouble(), (a, b) => Math.Abs(a - b)).ToArray();
        Assert.InRange(
            errors.Max(),
            0,
            rounds ? 0.11
                : name.Contains("layout", StringComparison.Ordinal) ? 0.0041
                : 2e-5
        );
        Assert.InRange(
            errors.Average(),
            0,
            rounds ? 2e-3 : 2e-5 + (name.Contains("layout", StringComparison.Ordinal) ? 1e-3 : 0)
        );
    }

    /// <summary>
    /// Layers of each kind, one behind the other: the float weights train, gradients pass the quantizations, and the
    /// exported model is the original.
    /// </summary>
    [Fact]
    public void QuantizedModelsTrain()
    {
        var model = Model(
            [
                .. Rows["QLinearConv"][..1],
                Onnx.Node(Contrib, "QLinearGlobalAveragePool", ["p", "wide", "zero", "step", "zero"], ["g"]),
                Onnx.Node("Flatten", ["g"], ["f"]),
                Onnx.Node("DequantizeLinear", ["f", "step", "zero"], ["r"]),
                Onnx.Node("Gemm", ["r", "head", "floats5"], ["y"]),
            ],
            4
        );
        var path = _folder.File("m.onnx", model.ToByteArray());
        var error = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path, new() { Frozen = "head|floats5" }));
        Assert.Contains("RewriteOptions.Dequantize", error.Message, StringComparison.Ordinal);
        var note = "Some weights are stored as integers and do not train (RewriteOptions.Dequantize changes that).";
        Assert.Contains(note, Rewriter.Inspect(path).Notes);

        var (package, report) = Rewriter.Rewrite(path, new() { Dequantize = true });
        Assert.Equal(["w", "bias/float", "head", "floats5"], package.Manifest.Trained);
        Assert.DoesNotContain(note, report.Notes);
        var exported = _folder.File("trained.onnx");
        package.ExportInferenceModel(exported, package.Weights);
        var inputs = new Dictionary<string, Tensor> { ["x"] = Onnx.Floats(2, 3, 4, 4) };
        var (expected, found) = (Onnx.Run(path, inputs)["y"], Onnx.Run(exported, inputs)["y"]);

        // One step of the pool's result, 0.02, times weights of at most 1.
        Assert.All(expected.ToDouble().Zip(found.ToDouble()), p => Assert.Equal(p.First, p.Second, 0.05));
    }

    /// <summary>The slope is 1 where the number is in the range, 0 where it is cut off.</summary>
    [Theory]
    [InlineData("one step")]
    [InlineData("channels")]
    [InlineData("dynamic")]
    public void GradientsGoStraightThrough(string kind)
    {
        NodeProto[] nodes = kind switch
        {
            "dynamic" =>
            [
                Onnx.Node("DynamicQuantizeLinear", ["v"], ["d", "ds", "dz"]),
                Onnx.Node("DequantizeLinear", ["d", "ds", "dz"], ["y"]),
            ],
            "channels" =>
            [
                Onnx.Node("QuantizeLinear", ["v", "channels", "none4"], ["d"], Int("axis", 0)),
                Onnx.Node("DequantizeLinear", ["d", "channels", "none4"], ["y"], Int("axis", 0)),
            ],
            _ =>
            [
                Onnx.Node("QuantizeLinear", ["v", "step", "zero"], ["d"]),
                Onnx.Node("DequantizeLinear", ["d", "step", "zero"], ["y"]),
            ],
        };
        var model = Onnx.Model(
            Onnx.Graph(
                [
                    .. nodes,
                    Onnx.Node("Mul", ["y", "k"], ["m"]),
                    Onnx.Node("ReduceSum", ["m"], ["loss"], Int("keepdims", 0)),
                ],
                [Onnx.Info("k", ElementType.Float, 4, 3)],
                [Onnx.Info("loss", ElementType.Float)],
                ("v", Ir.Tensor.From<float>([4, 3], [0.5f, -3, 9, 1, 2.55f, -2.6f, -0.3f, 1.3f, 4, -7, 0.01f, 0])),
                ("step", Ir.Tensor.From<float>([], [Step])),
                ("zero", new Tensor(ElementType.UInt8, [], new byte[] { 128 })),
                ("channels", Ir.Tensor.From<float>([4], [0.02f, 0.01f, 0.03f, 0.005f])),
                ("none4", new Tensor(ElementType.Int8, [4], new byte[4]))
            ),
            19
        );
        var path = _folder.File("m.onnx", model.ToByteArray());
        var package = Rewriter.Rewrite(path, new() { Loss = LossKind.Output, Optimizer = OptimizerKind.Sgd }).Package;
        Assert.Equal(["v"], package.Manifest.Trained);
        var k = Onnx.Floats(4, 3);
        var outputs = Onnx.Run(
            package.Model(PackageFiles.Training).ToArray(),
            new Dictionary<string, Tensor> { ["k"] = k, ["v"] = package.Weights["v"] }
        );
        double[] reached = kind switch
        {
            "dynamic" => [.. Enumerable.Repeat(1.0, 12)],
            // +-2.56, +-1.28, +-3.84, +-0.64 but for the last step above
            "channels" => [1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 1],
            // 2.55 is less than half a step above 2.54; -2.6 is two below -2.56.
            _ => [1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1],
        };
        var gradient = outputs.Values.Single(t => t.Dims is [4, 3]).ToDouble();
        Assert.Equal(reached.Zip(k.ToDouble(), (r, f) => r * f), gradient);
    }

    private static NodeProto Blocked(string op, string[] inputs, int bits) =>
        Onnx.Node(Contrib, op, inputs, ["y"], Int("K", 32), Int("N", 6), Int("bits", bits), Int("block_size", 16));

    /// <summary>x, quantized to q, and what the rows read.</summary>
    private static ModelProto Model(NodeProto[] nodes, int width)
    {
        var quantize = Onnx.Node("QuantizeLinear", ["x", "step", "zero"], ["q"]);
        var isReal = nodes.All(n => !n.Input.Contains("q"));
        var graph = Onnx.Graph(
            isReal ? nodes : [quantize, .. nodes],
            [Onnx.Info("x", ElementType.Float, 2, 3, 4, width)],
            [
                new ValueInfoProto
                {
                    Name = "y",
                    Type = new TypeProto { TensorType = new() { ElemType = 1 } },
                },
            ]
        );
        (string Name, Tensor Tensor)[] constants =
        [
            ("step", Ir.Tensor.From<float>([], [Step])),
            ("zero", new Tensor(ElementType.UInt8, [], new byte[] { 128 })),
            ("wide", Ir.Tensor.From<float>([], [0.1f])),
            ("small", Ir.Tensor.From<float>([], [1 / 256f])),
            ("low", new Tensor(ElementType.UInt8, [], new byte[] { 0 })),
            ("none", new Tensor(ElementType.Int8, [], new byte[1])),
            ("none4", new Tensor(ElementType.Int8, [4], new byte[4])),
            ("none5", new Tensor(ElementType.Int8, [5], new byte[5])),
            ("w_quantized", new Tensor(ElementType.Int8, [4, 3, 3, 3], Bytes(108))),
            ("channels", Ir.Tensor.From<float>([4], [0.002f, 0.001f, 0.003f, 0.0015f])),
            ("bias", Ir.Tensor.From<int>([4], [50, -20, 1000, 7])),
            ("steps", Ir.Tensor.From<float>([4], [0.00004f, 0.00002f, 0.00006f, 0.00003f])),
            ("m_quantized", new Tensor(ElementType.Int8, [4, 5], Bytes(20))),
            ("columns", Ir.Tensor.From<float>([5], [0.01f, 0.02f, 0.015f, 0.005f, 0.01f])),
            ("bias5", Ir.Tensor.From<int>([5], [500, -200, 1000, 70, 0])),
            ("floats5", Onnx.Floats(5)),
            ("head", Onnx.Floats(4, 5)),
            ("rows", Onnx.Ints(-1, 4)),
            ("tokens", Onnx.Ints(2, 12, 4)),
            ("attention", new Tensor(ElementType.Int8, [4, 12], Bytes(48))),
            ("floats12", Onnx.Floats(12)),
            ("blocks", new Tensor(ElementType.UInt8, [6, 2, 8], Bytes(96))),
            ("bytes", new Tensor(ElementType.UInt8, [6, 2, 16], Bytes(192))),
            ("block_scales", Ir.Tensor.From<float>([12], Onnx.Floats(12).Span<float>())),
            ("block_zeros", new Tensor(ElementType.UInt8, [6], Bytes(6))),
            ("table", new Tensor(ElementType.UInt8, [7, 16], Bytes(112))),
            ("table_scales", Ir.Tensor.From<float>([7, 2], Onnx.Floats(7, 2).Span<float>())),
            ("ids", Ir.Tensor.From<long>([2, 2], [3, 0, 6, 6])),
        ];
        var used = graph.Node.SelectMany(n => n.Input).ToHashSet(StringComparer.Ordinal);
        graph.Initializer.AddRange(
            constants.Where(c => used.Contains(c.Name)).Select(c => TensorFormat.ToProto(c.Tensor, c.Name))
        );
        var model = Onnx.Model(graph, 19);
        return model;
    }

    private static byte[] Bytes(int count) => [.. Enumerable.Range(0, count).Select(i => (byte)(i * 37 % 251))];
}
