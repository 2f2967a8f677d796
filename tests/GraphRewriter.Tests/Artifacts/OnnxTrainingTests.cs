using Google.Protobuf;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Artifacts;

/// <summary>ONNX's training operators by its own test data.</summary>
public sealed class OnnxTrainingTests : IDisposable
{
    private const string Training = "ai.onnx.preview.training";

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>The tolerance is that of ONNX's runner, 1e-3 relative and 1e-7 absolute, tightened to 1e-6.</summary>
    [Theory]
    [InlineData("node/test_adagrad")]
    [InlineData("node/test_adagrad_multiple")]
    [InlineData("node/test_adam")]
    [InlineData("node/test_adam_multiple")]
    [InlineData("node/test_momentum")]
    [InlineData("node/test_momentum_multiple")]
    [InlineData("node/test_nesterov_momentum")]
    [InlineData("onnx/backend/test/data/simple/test_gradient_of_add")]
    [InlineData("onnx/backend/test/data/simple/test_gradient_of_add_and_mul")]
    public void GivesWhatItsTestsExpect(string test)
    {
        var folder = Path.Combine(Repository.Shared("ort-artifacts"), "onnx", test);
        var model = ModelReader.Read(Path.Combine(folder, "model.onnx"));
        if (test.EndsWith("adam_multiple", StringComparison.Ordinal))
        {
            // Its results were computed with this epsilon, which its node lacks: the default is 1e-6.
            model.Graph.Node[0].Attribute.Add(AttributeFormat.ToProto(Float("epsilon", 1e-2f)));
        }

        var lowered = OnnxTraining.Lower(_folder.File("model.onnx", model.ToByteArray()));
        var graph = ModelProto.Parser.ParseFrom(lowered).Graph;
        Dictionary<string, Tensor> Read(string kind, IEnumerable<string> names) =>
            names
                .Index()
                .ToDictionary(
                    n => n.Item,
                    n =>
                        TensorFormat.FromProto(
                            TensorProto.Parser.ParseFrom(
                                File.ReadAllBytes(Path.Combine(folder, "test_data_set_0", $"{kind}_{n.Index}.pb"))
                            )
                        )
                );
        var inputs = Read("input", graph.Input.Select(i => i.Name));
        Onnx.Equal(Read("output", graph.Output.Select(o => o.Name)), Onnx.Run(lowered, inputs), 1e-6);
    }

    /// <summary>A graph that trains itself: the loss, its gradient and the update in one.</summary>
    [Fact]
    public void AGradientFeedsAnOptimizer()
    {
        var model = Onnx.Model(
            Onnx.Graph(
                [
                    Onnx.Node("MatMul", ["x", "w"], ["y"]),
                    Onnx.Node("Tanh", ["y"], ["h"]),
                    Onnx.Node("ReduceSum", ["h"], ["loss"], Int("keepdims", 0)),
                    Onnx.Node(
                        Training,
                        "Gradient",
                        ["w", "x"],
                        ["dw"],
                        Strings("xs", "w"),
                        Strings("zs", "x"),
                        Text("y", "loss")
                    ),
                    Onnx.Node(
                        Training,
                        "Momentum",
                        ["r", "t", "w", "dw", "v"],
                        ["w_new", "v_new"],
                        Float("alpha", 0.9f),
                        Float("beta", 1),
                        Float("norm_coefficient", 0),
                        Text("mode", "standard")
                    ),
                ],
                [
                    Onnx.Info("x", ElementType.Float, 2, 3),
                    Onnx.Info("w", ElementType.Float, 3, 2),
                    Onnx.Info("v", ElementType.Float, 3, 2),
                    Onnx.Info("r", ElementType.Float),
                    Onnx.Info("t", ElementType.Int64),
                ],
                [Onnx.Info("loss", ElementType.Float), Onnx.Info("w_new", ElementType.Float, 3, 2)]
            )
        );
        var lowered = OnnxTraining.Lower(_folder.File("m.onnx", model.ToByteArray()));
        var inputs = new Dictionary<string, Tensor>
        {
            ["x"] = Onnx.Floats(2, 3),
            ["w"] = Onnx.Floats(3, 2),
            ["v"] = Ir.Tensor.From<float>([3, 2], new float[6]),
            ["r"] = Ir.Tensor.From<float>([], [0.1f]),
            ["t"] = Ir.Tensor.From<long>([], [0]),
        };
        var losses = new List<float>();
        for (var step = 0; step < 5; step++)
        {
            var outputs = Onnx.Run(lowered, inputs);
            losses.Add(outputs["loss"].Span<float>()[0]);
            inputs["w"] = outputs["w_new"];
        }

        Assert.Equal(losses.OrderDescending(), losses);
        Assert.True(losses[^1] < losses[0] - 0.5);
    }

    /// <summary>The algorithm's graph reads values of the model's; the first values are computed.</summary>
    [Fact]
    public void TheAlgorithmOfAModelFileRuns()
    {
        var model = Onnx.Model(
            Onnx.Graph(
                [Onnx.Node("MatMul", ["x", "w"], ["y"])],
                [Onnx.Info("x", ElementType.Float, 2, 3)],
                [Onnx.Info("y", ElementType.Float, 2, 1)],
                ("w", Onnx.Floats(3, 1))
            )
        );
        model.OpsetImport.Add(new OperatorSetIdProto { Domain = Training, Version = 1 });
        var info = new TrainingInfoProto
        {
            Initialization = Onnx.Graph(
                [Onnx.Node("ConstantOfShape", ["shape"], ["zeros"])],
                [],
                [Onnx.Info("zeros", ElementType.Float, 3, 1)],
                ("shape", Onnx.Ints(3, 1))
            ),
            Algorithm = Onnx.Graph(
                [
                    Onnx.Node("Sub", ["y", "target"], ["d"]),
                    Onnx.Node("Mul", ["d", "d"], ["squares"]),
                    Onnx.Node("ReduceMean", ["squares"], ["loss"], Int("keepdims", 0)),
                    Onnx.Node(
                        Training,
                        "Gradient",
                        ["w", "x", "target"],
                        ["dw"],
                        Strings("xs", "w"),
                        Strings("zs", "x", "target"),
                        Text("y", "loss")
                    ),
                    Onnx.Node(Training, "Adagrad", ["r", "t", "w", "dw", "h"], ["w_new", "h_new"]),
                    Onnx.Node("Add", ["t", "one"], ["t_new"]),
                ],
                [Onnx.Info("target", ElementType.Float, 2, 1)],
                [
                    Onnx.Info("loss", ElementType.Float),
                    Onnx.Info("w_new", ElementType.Float, 3, 1),
                    Onnx.Info("h_new", ElementType.Float, 3, 1),
                    Onnx.Info("t_new", ElementType.Int64),
                ],
                ("h", Onnx.Floats(3, 1)),
                ("r", Ir.Tensor.From<float>([], [0.5f])),
                ("t", Ir.Tensor.From<long>([], [0])),
                ("one", Ir.Tensor.From<long>([], [1]))
            ),
        };
        info.InitializationBinding.Add(new StringStringEntryProto { Key = "h", Value = "zeros" });
        foreach (var name in (string[])["w", "h", "t"])
        {
            info.UpdateBinding.Add(new StringStringEntryProto { Key = name, Value = $"{name}_new" });
        }

        model.TrainingInfo.Add(info);
        var step = OnnxTraining.ReadTrainingInfo(_folder.File("m.onnx", model.ToByteArray()));
        Assert.All(step.State["h"].Span<float>().ToArray(), v => Assert.Equal(0, v));
        var inputs = new Dictionary<string, Tensor>(step.State)
        {
            ["x"] = Onnx.Floats(2, 3),
            ["target"] = Ir.Tensor.From<float>([2, 1], [1, -1]),
        };
        var losses = new List<float>();
        for (var n = 0; n < 60; n++)
        {
            var outputs = Onnx.Run(step.Model.ToArray(), inputs);
            losses.Add(outputs["loss"].Span<float>()[0]);
            foreach (var (name, output) in step.Updates)
            {
                inputs[name] = outputs[output];
            }
        }

        // Two equations, three unknowns: the loss can reach zero.
        Assert.True(losses[^1] < 0.05 * losses[0], $"{losses[0]} to {losses[^1]}");
        Assert.Equal(60, inputs["t"].ToInt64()[0]);

        info.UpdateBinding[0].Value = "nothing";
        var damaged = _folder.File("d.onnx", model.ToByteArray());
        Assert.Equal(
            "MAC0807",
            Assert.Throws<MacOnnxException>(() => OnnxTraining.ReadTrainingInfo(damaged)).Diagnostic.Id
        );
    }

    [Fact]
    public void AGradientOfAGradientIsRefused()
    {
        var model = Onnx.Model(
            Onnx.Graph(
                [
                    Onnx.Node("Mul", ["x", "x"], ["y"]),
                    Onnx.Node(Training, "Gradient", ["x"], ["dx"], Strings("xs", "x"), Text("y", "y")),
                    Onnx.Node("Mul", ["dx", "x"], ["z"]),
                    Onnx.Node(Training, "Gradient", ["dx"], ["ddx"], Strings("xs", "x"), Text("y", "z")),
                ],
                [Onnx.Info("x", ElementType.Float)],
                [Onnx.Info("ddx", ElementType.Float)]
            )
        );
        var path = _folder.File("m.onnx", model.ToByteArray());
        Assert.Equal("MAC0807", Assert.Throws<MacOnnxException>(() => OnnxTraining.Lower(path)).Diagnostic.Id);
    }
}
