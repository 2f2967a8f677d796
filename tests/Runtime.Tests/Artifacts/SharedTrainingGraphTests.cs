using System.Globalization;
using Google.Protobuf;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>Every training graph of the reference data trains with right gradients, or is refused with all reasons.
/// The table in docs/artifacts.md has the same rows.</summary>
public sealed class SharedTrainingGraphTests
{
    private const string Ort = "ort/training_api/";
    private const string Old = "ort/history/1c316d0e39/training_api/";
    private const string Guard = "third_party/SeizureGuard/training_artifacts/";
    private const long Words = 61;
    private const string Recompute = "ort/other/transform/recompute/";

    [Theory]
    [InlineData("generated/mlp_ce_adamw/training_model.onnx", "generated/mlp_ce_adamw/checkpoint", null)]
    [InlineData("generated/mlp_mse_sgd/training_model.onnx", "generated/mlp_mse_sgd/checkpoint", null)]
    [InlineData("generated/cnn_bn_ce_adamw/training_model.onnx", "generated/cnn_bn_ce_adamw/checkpoint", null)]
    [InlineData("generated/encoder_ce_adamw/training_model.onnx", "generated/encoder_ce_adamw/checkpoint", null)]
    [InlineData("generated/lora/training_model.onnx", "generated/lora/checkpoint", null)]
    [InlineData("generated/bce_logits/training_model.onnx", "generated/bce_logits/checkpoint", null)]
    [InlineData("generated/l1/training_model.onnx", "generated/l1/checkpoint", null)]
    [InlineData(Ort + "training_model.onnx", Ort + "checkpoint.ckpt", Ort + "adamw.onnx")]
    [InlineData("ort/history/c2fd5ccbe9/training_api/training_model.onnx", Ort + "checkpoint.ckpt", null)]
    [InlineData(Old + "gradient_graph.onnx", Old + "checkpoint.ckpt", Old + "adamw.onnx")]
    [InlineData(Old + "gradient_graph.onnx", Old + "checkpoint.ckpt", Old + "optimizer_graph.onnx")]
    [InlineData(Old + "gradient_graph.onnx", Old + "checkpoint.ckpt", "ort/history/fac8dae9df/training_api/adamw.onnx")]
    [InlineData(Guard + "training_model.onnx", Guard + "checkpoint", Guard + "optimizer_model.onnx")]
    public void TheirGradientsAgreeWithFiniteDifferences(string graph, string checkpoint, string? optimizer)
    {
        var root = Repository.Shared("ort-artifacts");
        var artifacts = TrainingArtifacts.Read(
            Path.Combine(root, graph),
            optimizer is null ? null : Path.Combine(root, optimizer),
            checkpoint: Path.Combine(root, checkpoint)
        );
        var (package, _) = Rewriter.Rewrite(
            artifacts,
            new() { Optimizer = optimizer is null ? OptimizerKind.Sgd : OptimizerKind.Keep }
        );
        using var session = new MacTrainingSession(package);
        var data = RandomBatch.Make(package.Manifest, 1);
        OrtValue[] batch = [.. package.Manifest.Inputs.Select(i => OrtValues.Of(Scaled(data[i.Name], graph)))];
        var result = GradientCheck.Run(session, batch, 1, TestContext.Current.CancellationToken);
        Assert.All(result.Parameters, p => Assert.True(p.IsRight, $"{p.Name}: {p.Error}"));
        Assert.True(session.TrainStep(batch) > 0);
        Assert.True(session.OptimizerStep());
    }

    /// <summary>One model's first layer has weights near 70: data of its own scale keep the loss finite.</summary>
    private static Tensor Scaled(Tensor data, string graph) =>
        data.Type == ElementType.Float && graph.StartsWith(Guard, StringComparison.Ordinal)
            ? Tensor.From<float>(data.Dims.AsSpan(), [.. data.Span<float>().ToArray().Select(v => v / 10_000)])
            : data;

    /// <summary>Graphs of ORTModule, whose loss is in PyTorch and whose weights are not in the file.</summary>
    [Theory]
    [InlineData("recompute_gelu.onnx", "_original_module.", LossKind.CrossEntropy, "input1_dim0=4")]
    [InlineData("recompute_gelu.onnx", "_original_module.", LossKind.Mse, "input1_dim0=4")]
    [InlineData(
        "recompute_tile.onnx",
        "query_layer",
        LossKind.Mse,
        "input1_dim0=24",
        "input1_dim1=4",
        "query_layer_dim2=3"
    )]
    public void GraphsOfModulesTakeALoss(string file, string parameters, LossKind loss, params string[] dimensions)
    {
        var model = ModelReader.Read(Path.Combine(Repository.Shared("ort-artifacts"), Recompute, file));
        var sizes = dimensions
            .Select(d => d.Split('='))
            .ToDictionary(d => d[0], d => long.Parse(d[1], CultureInfo.InvariantCulture));
        foreach (var rebuilds in new[] { false, true })
        {
            var (package, _) = Rewriter.Rewrite(
                TrainingArtifacts.Read(model.ToByteArray(), checkpoint: Weights(model.Graph, parameters)),
                new()
                {
                    Loss = loss,
                    Dimensions = sizes,
                    RebuildsBackward = rebuilds,
                }
            );
            using var session = new MacTrainingSession(package);
            var data = RandomBatch.Make(package.Manifest, 1);
            string[] names = [.. package.Manifest.Inputs.Select(i => i.Name), package.Manifest.Target!.Name];
            OrtValue[] batch = [.. names.Select(n => OrtValues.Of(data[n]))];
            var result = GradientCheck.Run(session, batch, 1, TestContext.Current.CancellationToken);
            Assert.NotEmpty(result.Parameters);
            Assert.All(result.Parameters, p => Assert.True(p.IsRight, $"{p.Name}: {p.Error}"));
            session.TrainStep(batch);
            Assert.True(session.OptimizerStep());
        }
    }

    /// <summary>
    /// A language model of three layers, narrower and of fewer words than in the file, and in single precision: half
    /// precision has too few digits for differences.
    /// </summary>
    [Fact]
    public void ALanguageModelOfOrtModuleTrains()
    {
        var path = Path.Combine(Repository.Shared("ort-artifacts"), Recompute, "3layer_bloom_optimized_training.onnx");
        var model = ModelReader.Read(path);
        Shrink(model.Graph);
        var (package, _) = Rewriter.Rewrite(
            TrainingArtifacts.Read(model.ToByteArray(), checkpoint: Weights(model.Graph, "_original_module."))
        );
        Assert.Contains(package.Manifest.Parameters, p => p.Treatment == "MAC dense");
        using var session = new MacTrainingSession(package);
        var random = new Random(1);
        long[] shape = [2, 6];
        Tensor Integers(Func<int, long> value) => Tensor.From<long>(shape, [.. Enumerable.Range(0, 12).Select(value)]);
        var data = new Dictionary<string, Tensor>
        {
            ["inputs_input_ids"] = Integers(_ => random.NextInt64(Words)),
            ["inputs_attention_mask"] = Integers(_ => 1),
            ["inputs_labels"] = Integers(i => i % 5 == 0 ? -100 : random.NextInt64(Words)),
        };
        OrtValue[] batch = [.. package.Manifest.Inputs.Select(i => OrtValues.Of(data[i.Name]))];
        var result = GradientCheck.Run(session, batch, 1, TestContext.Current.CancellationToken);
        Assert.Equal(package.Manifest.Trained.Length, result.Parameters.Length);
        Assert.All(result.Parameters, p => Assert.True(p.IsRight, $"{p.Name}: {p.Error}"));
        session.TrainStep(batch);
        Assert.True(session.OptimizerStep());
    }

    private static void Shrink(GraphProto graph)
    {
        var sizes = new Dictionary<long, long>
        {
            [250880] = Words,
            [4096] = 256,
            [3072] = 192,
            [1024] = 64,
            [64] = 4,
        };
        foreach (var tensor in graph.Input.Concat(graph.Output).Select(i => i.Type.TensorType))
        {
            tensor.ElemType = tensor.ElemType == (int)ElementType.Float16 ? (int)ElementType.Float : tensor.ElemType;
            foreach (var dim in tensor.Shape.Dim.Where(d => sizes.ContainsKey(d.DimValue)))
            {
                dim.DimValue = sizes[dim.DimValue];
            }
        }

        graph.ValueInfo.Clear();
        foreach (
            var proto in graph.Initializer.Concat(graph.Node.SelectMany(n => n.Attribute).Select(a => a.T)).ToArray()
        )
        {
            if (proto?.DataType is (int)ElementType.Float16 or (int)ElementType.Int64)
            {
                var tensor = TensorFormat.FromProto(proto).ToFloat();
                if (tensor.Type == ElementType.Int64)
                {
                    long[] numbers = [.. tensor.ToInt64().Select(n => sizes.GetValueOrDefault(n, n))];
                    tensor = Tensor.From<long>(tensor.Dims.AsSpan(), numbers);
                }

                var name = proto.Name;
                proto.Int32Data.Clear();
                proto.Int64Data.Clear();
                proto.Dims.Clear();
                proto.MergeFrom(TensorFormat.ToProto(tensor, name));
            }
        }

        foreach (var attribute in graph.Node.SelectMany(n => n.Attribute).Where(a => a.Name is "to" or "output_type"))
        {
            attribute.I = attribute.I == (int)ElementType.Float16 ? (int)ElementType.Float : attribute.I;
        }
    }

    /// <summary>Makes a checkpoint of the inputs whose names start so: small random numbers.</summary>
    private static OrtCheckpointFile Weights(GraphProto graph, string prefix)
    {
        var random = new Random(2);
        long[] open = [48, 2, 3];
        return new()
        {
            Trainable = graph
                .Input.Where(i => i.Name.StartsWith(prefix, StringComparison.Ordinal))
                .ToDictionary(
                    i => i.Name,
                    i =>
                    {
                        long[] dims =
                        [
                            .. i.Type.TensorType.Shape.Dim.Select((d, axis) => d.HasDimValue ? d.DimValue : open[axis]),
                        ];
                        var scale = i.Name.Contains("layernorm.weight", StringComparison.Ordinal) ? 1 : 0;
                        return Tensor.From<float>(
                            dims,
                            [
                                .. Enumerable
                                    .Range(0, (int)Tensor.CountOf(dims))
                                    .Select(_ => scale + ((random.NextSingle() - 0.5f) / 10)),
                            ]
                        );
                    }
                ),
        };
    }

    [Theory]
    [InlineData(Recompute + "recompute_gelu.onnx", "MAC0804", "checkpoint")]
    [InlineData(Recompute + "recompute_tile.onnx", "MAC0804", "checkpoint")]
    [InlineData(Recompute + "3layer_bloom_optimized_training.onnx", "MAC0804", "checkpoint")]
    [InlineData("ort/other/transform/fusion/bitmask_bias_dropout_fusion_basic.onnx", "MAC0804", "gradient")]
    [InlineData("ort/other/transform/fusion/bitmask_dropout_replacement_basic.onnx", "MAC0804", "gradient")]
    [InlineData("ort/other/transform/fusion/bitmask_bias_dropout_replacement_basic.onnx", "MAC0804", "gradient")]
    [InlineData("ort/other/test_training_model_0.onnx", "MAC0801", "Send")]
    [InlineData("ort/other/test_training_model_1.onnx", "MAC0801", "Send", "Recv")]
    [InlineData("ort/other/test_training_model_2.onnx", "MAC0801", "Recv")]
    [InlineData("ort/other/avoid_reuse_of_buffer_for_node_output_with_no_consumers.onnx", "MAC0804", "gradient")]
    [InlineData("ort/other/transform/computation_reduction/reshape/mlm_bert_e2e.onnx", "MAC0804", "gradient")]
    [InlineData(Ort + "ort_format/training_model.ort", "MAC0016", ".ort")]
    [InlineData(Ort + "ort_format/eval_model.ort", "MAC0016", ".ort")]
    public void TheOthersAreRefused(string graph, string id, params string[] named)
    {
        var path = Path.Combine(Repository.Shared("ort-artifacts"), graph);
        var error = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path, new() { Loss = LossKind.Output }));
        Assert.True(error.Diagnostic.Id == id, error.Message);
        Assert.All(named, n => Assert.Contains(n, error.Message, StringComparison.Ordinal));
    }

    [Fact]
    public void OperatorsOfTheUsersOwnAreNamed()
    {
        var folder = Path.Combine(Repository.Shared("ort-artifacts"), Ort, "custom_ops");
        var artifacts = TrainingArtifacts.Read(
            Path.Combine(folder, "training_model.onnx"),
            checkpoint: Path.Combine(folder, "checkpoint")
        );
        var error = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(artifacts));
        Assert.Equal("MAC0013", error.Diagnostic.Id);
        Assert.Contains("CustomOpOne", error.Message, StringComparison.Ordinal);
    }
}
