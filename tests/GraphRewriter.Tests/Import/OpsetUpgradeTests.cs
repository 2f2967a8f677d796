using Google.Protobuf;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>
/// Operators brought from an older operator set to a newer one compute what ONNX Runtime computes with the older one.
/// </summary>
public class OpsetUpgradeTests
{
    public static TheoryData<string> Cases => [.. UpgradeCases.All.Keys];

    [Theory]
    [MemberData(nameof(Cases))]
    public void ComputesTheSame(string row)
    {
        var (_, opset, node, inputs) = UpgradeCases.All[row];
        var feeds = node.Input.Zip(inputs).Where(p => p.First.Length > 0).ToDictionary(p => p.First, p => p.Second);
        var model = Model(node, inputs, opset);
        var original = model.ToByteArray();
        ModelReader.Normalize(model, "m.onnx");
        Assert.Equal(OpsetUpgrade.Target, model.OpsetImport[0].Version);
        Onnx.Equal(Onnx.Run(original, feeds), Onnx.Run(model.ToByteArray(), feeds), 1e-6);
    }

    /// <summary>
    /// Up to operator set 20 there was one scale and bias a group. ONNX Runtime has no kernel for that: it is computed
    /// here.
    /// </summary>
    [Fact]
    public void GroupNormalizationTakesScaleAndBiasOfGroups()
    {
        var (x, scale, bias) = (
            Onnx.Floats(2, 6, 5),
            Tensor.From<float>([3], [1, -2, 3]),
            Tensor.From<float>([3], [0, 5, -1])
        );
        var model = Model(
            Onnx.Node("GroupNormalization", ["a", "b", "c"], ["y"], Int("num_groups", 3)),
            [x, scale, bias],
            18
        );
        ModelReader.Normalize(model, "m.onnx");
        var found = Onnx.Run(
                model.ToByteArray(),
                new Dictionary<string, Tensor>
                {
                    ["a"] = x,
                    ["b"] = scale,
                    ["c"] = bias,
                }
            )["y"]
            .Span<float>();
        for (var group = 0; group < 6; group++)
        {
            var values = x.ToDouble()[(group * 10)..((group + 1) * 10)];
            var mean = values.Average();
            var deviation = Math.Sqrt(values.Average(v => (v - mean) * (v - mean)) + 1e-5);
            for (var i = 0; i < 10; i++)
            {
                Assert.Equal(
                    ((values[i] - mean) / deviation * scale.Span<float>()[group % 3]) + bias.Span<float>()[group % 3],
                    found[(group * 10) + i],
                    1e-5
                );
            }
        }
    }

    /// <summary>
    /// Up to operator set 13 several outputs meant training mode, which ONNX Runtime's CPU kernels refuse there.
    /// </summary>
    [Fact]
    public void BatchNormalizationWithSeveralOutputsIsInTrainingMode()
    {
        var node = Onnx.Node("BatchNormalization", ["a", "b", "c", "d", "e"], ["y", "m", "v", "saved_m", "saved_v"]);
        Tensor[] inputs =
        [
            Onnx.Floats(4, 3),
            Onnx.Floats(3),
            Onnx.Floats(3),
            Onnx.Floats(3),
            Tensor.From<float>([3], [1, 2, 3]),
        ];
        var model = Model(node, inputs, 13);
        model.Graph.Output.RemoveAt(4);
        model.Graph.Output.RemoveAt(3);
        ModelReader.Normalize(model, "m.onnx");
        var upgraded = Model(
            Onnx.Node("BatchNormalization", ["a", "b", "c", "d", "e"], ["y", "m", "v"], Int("training_mode", 1)),
            inputs,
            15
        );
        var feeds = node.Input.Zip(inputs).ToDictionary(p => p.First, p => p.Second);
        Onnx.Equal(Onnx.Run(upgraded.ToByteArray(), feeds), Onnx.Run(model.ToByteArray(), feeds), 0);
    }

    [Fact]
    public void BranchesAreUpgradedToo()
    {
        var branch = Onnx.Graph(
            [Onnx.Node("ReduceMean", ["a"], ["r"], Ints("axes", 1))],
            [],
            [Onnx.Info("r", ElementType.Float, 2, 1)]
        );
        var model = Onnx.Model(
            Onnx.Graph(
                [
                    Onnx.Node(
                        "If",
                        ["yes"],
                        ["y"],
                        Onnx.Subgraph("then_branch", branch),
                        Onnx.Subgraph("else_branch", branch.Clone())
                    ),
                ],
                [Onnx.Info("a", ElementType.Float, 2, 3)],
                [Onnx.Info("y", ElementType.Float, 2, 1)],
                ("yes", new Tensor(ElementType.Bool, [], new byte[] { 1 }))
            ),
            13
        );
        var original = model.ToByteArray();
        ModelReader.Normalize(model, "m.onnx");
        var inputs = Onnx.Inputs(original);
        Onnx.Equal(Onnx.Run(original, inputs), Onnx.Run(model.ToByteArray(), inputs), 0);
    }

    private static ModelProto Model(NodeProto node, Tensor[] inputs, long opset)
    {
        var model = Onnx.Model(
            Onnx.Graph(
                [node],
                [
                    .. node
                        .Input.Zip(inputs)
                        .Where(p => p.First is not ("" or "const"))
                        .Select(p => Onnx.Info(p.First, p.Second.Type, [.. p.Second.Dims])),
                ],
                [
                    .. node.Output.Select(o => new ValueInfoProto
                    {
                        Name = o,
                        Type = new TypeProto
                        {
                            TensorType = new()
                            {
                                ElemType = (int)(
                                    o == "i" ? ElementType.Int64
                                    : inputs[0].Type == ElementType.Double ? ElementType.Double
                                    : ElementType.Float
                                ),
                            },
                        },
                    }),
                ],
                [.. node.Input.Zip(inputs).Where(p => p.First == "const")]
            ),
            opset
        );
        model.IrVersion = 8;
        return model;
    }
}
