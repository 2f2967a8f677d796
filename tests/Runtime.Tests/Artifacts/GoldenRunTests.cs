using System.Globalization;
using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>What ONNX Runtime's own training tests compare with, reproduced on the stock runtime.</summary>
public sealed class GoldenRunTests
{
    /// <summary>
    /// Two train steps on one batch, the second replacing the first's gradients, then an update at 0.001 and a third.
    /// The file's losses have 8 digits; sums in another order differ by less than 1e-6 of them.
    /// </summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void TheLossesOfTheTrainingApisTest(bool rebuilds)
    {
        var folder = Path.Combine(Repository.Shared("ort-artifacts"), "ort", "training_api");
        string In(string file) => Path.Combine(folder, file);
        var artifacts = TrainingArtifacts.Read(
            In("training_model.onnx"),
            In("adamw.onnx"),
            In("eval_model.onnx"),
            In("checkpoint.ckpt")
        );
        var (package, _) = Rewriter.Rewrite(
            artifacts,
            new()
            {
                Optimizer = OptimizerKind.Keep,
                RebuildsBackward = rebuilds,
                Hyperparameters = new() { LearningRate = 1e-3f },
            }
        );
        using var session = new MacTrainingSession(package);
        using var images = OrtValues.Of(Tensor.From<float>([2, 784], Numbers(In("input-0.in"))));
        using var labels = OrtValues.Of(Tensor.From<int>([2], [1, 1]));
        session.TrainStep([images, labels]);
        session.ResetGradients();
        Assert.Equal(Numbers(In("loss_1.out"))[0], session.TrainStep([images, labels]), 1e-5);
        session.OptimizerStep();
        Assert.Equal(Numbers(In("loss_2.out"))[0], session.TrainStep([images, labels]), 1e-5);
    }

    /// <summary>
    /// The update of every step from the file's parameters, state and gradient. PyTorch and transformers wrote the
    /// files in float32.
    /// </summary>
    [Theory]
    [InlineData("adamw_test/cpu/adamw_test_single_weight_mode_0.json", 0, 1e-8f, 1e-2f)]
    [InlineData("adamw_test/cpu/adamw_test_multiple_weights_mode_0.json", 0, 1e-8f, 1e-2f)]
    [InlineData("adamw_test/cpu/adamw_test_single_weight_mode_1.json", 1, 1e-6f, 0f)]
    [InlineData("adamw_test/cpu/adamw_test_multiple_weights_mode_1.json", 1, 1e-6f, 0f)]
    [InlineData("sgd_test/cpu/sgd_test_single_weight.json", null, 0f, 0f)]
    [InlineData("sgd_test/cpu/sgd_test_multiple_weights.json", null, 0f, 0f)]
    public void TheUpdatesOfItsOptimizerTests(string file, int? mode, float epsilon, float decay)
    {
        var root = Path.Combine(Repository.Shared("ort-artifacts"), "ort", "other", "test_data_generation");
        using var json = JsonDocument.Parse(File.ReadAllText(Path.Combine(root, file)));
        var values = json.RootElement.GetProperty("Parameters");
        foreach (var parameter in values.EnumerateObject())
        {
            float[] At(string kind, int step) =>
                [
                    .. json
                        .RootElement.GetProperty(kind)
                        .GetProperty(parameter.Name)[step]
                        .EnumerateArray()
                        .Select(v => v.GetSingle()),
                ];

            // The loss is the product of parameter and input, so that its gradient is the input.
            var size = At("Parameters", 0).Length;
            var artifacts = ProductWith(size, mode, epsilon, decay);
            var (package, _) = Rewriter.Rewrite(
                artifacts,
                new()
                {
                    Optimizer = OptimizerKind.Keep,
                    Hyperparameters = new() { LearningRate = 1e-3f },
                }
            );
            using var session = new MacTrainingSession(package);
            Set("w", At("Parameters", 0));
            for (var step = 0; step < values.GetProperty(parameter.Name).GetArrayLength() - 1; step++)
            {
                using var gradient = OrtValues.Of(Tensor.From<float>([size], At("Gradients", step)));
                session.TrainStep([gradient]);
                session.OptimizerStep();
                var (expected, actual) = (At("Parameters", step + 1), session.GetState()["w"].Span<float>().ToArray());
                Assert.All(expected.Zip(actual), p => Assert.Equal(p.First, p.Second, 1e-6));
            }

            void Set(string name, float[] numbers) =>
                session.SetState(new Dictionary<string, Tensor> { [name] = Tensor.From<float>([size], numbers) });
        }
    }

    /// <summary>Makes artifacts whose loss is the sum of w g, g an input.</summary>
    private static TrainingArtifacts ProductWith(int size, int? mode, float epsilon, float decay)
    {
        var training = new ModelProto
        {
            IrVersion = 8,
            Graph = new() { Name = "product" },
        };
        var graph = training.Graph;
        training.OpsetImport.Add(new OperatorSetIdProto { Version = 17 });
        training.OpsetImport.Add(new OperatorSetIdProto { Domain = "com.microsoft", Version = 1 });
        graph.Input.Add(Info("g", size));
        graph.Input.Add(Info("w", size));
        graph.Input.Add(Info("w_grad.accumulation.buffer", size));
        graph.Input.Add(Info("reset", 1, ElementType.Bool));
        graph.Output.Add(Info("loss"));
        graph.Output.Add(Info("flag", 1, ElementType.Bool));
        graph.Initializer.Add(Scalar("loss_grad", 1));
        Add("Mul", "", ["w", "g"], "product");
        Add("ReduceSum", "", ["product"], "loss").Attribute.Add(Integer("keepdims", 0));
        Add("Mul", "", ["g", "loss_grad"], "w_grad");
        Add("InPlaceAccumulatorV2", "com.microsoft", ["w_grad.accumulation.buffer", "w_grad", "reset"], "flag");
        var optimizer = new ModelProto
        {
            IrVersion = 8,
            Graph = new() { Name = "optimizer" },
        };
        var update = new NodeProto
        {
            OpType = mode is null ? "SGDOptimizerV2" : "AdamWOptimizer",
            Domain = "com.microsoft",
        };
        update.Input.AddRange(["learning_rate", "step", "params", "gradients"]);
        if (mode is { } m)
        {
            update.Attribute.Add([Integer("adam_mode", m), Number("epsilon", epsilon), Number("weight_decay", decay)]);
        }

        optimizer.OpsetImport.Add(new OperatorSetIdProto { Domain = "com.microsoft", Version = 1 });
        optimizer.Graph.Node.Add(update);
        return TrainingArtifacts.Read(
            Google.Protobuf.MessageExtensions.ToByteArray(training),
            Google.Protobuf.MessageExtensions.ToByteArray(optimizer),
            null,
            new OrtCheckpointFile
            {
                Trainable = new Dictionary<string, Tensor> { ["w"] = Tensor.From<float>([size], new float[size]) },
            }
        );

        NodeProto Add(string opType, string domain, string[] inputs, string output)
        {
            var node = new NodeProto
            {
                OpType = opType,
                Domain = domain,
                Name = output,
            };
            node.Input.AddRange(inputs);
            node.Output.Add(output);
            graph.Node.Add(node);
            return node;
        }
    }

    private static AttributeProto Integer(string name, long value) =>
        new()
        {
            Name = name,
            Type = AttributeProto.Types.AttributeType.Int,
            I = value,
        };

    private static AttributeProto Number(string name, float value) =>
        new()
        {
            Name = name,
            Type = AttributeProto.Types.AttributeType.Float,
            F = value,
        };

    private static TensorProto Scalar(string name, float value) =>
        new()
        {
            Name = name,
            DataType = (int)ElementType.Float,
            FloatData = { value },
        };

    private static ValueInfoProto Info(string name, int? size = null, ElementType type = ElementType.Float)
    {
        var shape = new TensorShapeProto();
        if (size is { } s)
        {
            shape.Dim.Add(new TensorShapeProto.Types.Dimension { DimValue = s });
        }

        return new()
        {
            Name = name,
            Type = new()
            {
                TensorType = new() { ElemType = (int)type, Shape = shape },
            },
        };
    }

    /// <summary>Reads a name in a line and numbers behind it.</summary>
    private static float[] Numbers(string path) =>
        [
            .. File.ReadAllLines(path)[1]
                .Trim('[', ']')
                .Split(',')
                .Select(n => float.Parse(n, CultureInfo.InvariantCulture)),
        ];
}
