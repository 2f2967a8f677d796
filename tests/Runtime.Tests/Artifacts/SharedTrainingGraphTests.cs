using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>Every training graph of the reference data trains with right gradients, or is refused with all reasons.
/// The table in docs/artifacts.md has the same rows.</summary>
public sealed class SharedTrainingGraphTests
{
    private const string Ort = "ort/training_api/";
    private const string Old = "ort/history/1c316d0e39/training_api/";
    private const string Guard = "third_party/SeizureGuard/training_artifacts/";
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

    [Theory]
    [InlineData(Recompute + "recompute_gelu.onnx", "MAC0801", "YieldOp")]
    [InlineData(Recompute + "recompute_tile.onnx", "MAC0801", "YieldOp")]
    [InlineData(
        Recompute + "3layer_bloom_optimized_training.onnx",
        "MAC0801",
        "BroadcastGradientArgs",
        "YieldOp",
        "ATen"
    )]
    [InlineData("ort/other/transform/fusion/bitmask_bias_dropout_fusion_basic.onnx", "MAC0013", "BitmaskDropoutGrad")]
    [InlineData("ort/other/transform/fusion/bitmask_dropout_replacement_basic.onnx", "MAC0804", "gradient")]
    [InlineData("ort/other/transform/fusion/bitmask_bias_dropout_replacement_basic.onnx", "MAC0804", "gradient")]
    [InlineData("ort/other/test_training_model_0.onnx", "MAC0801", "Send")]
    [InlineData("ort/other/test_training_model_1.onnx", "MAC0801", "Send", "Recv")]
    [InlineData("ort/other/test_training_model_2.onnx", "MAC0801", "Recv")]
    [InlineData("ort/other/avoid_reuse_of_buffer_for_node_output_with_no_consumers.onnx", "MAC0013", "ConcatTraining")]
    [InlineData(
        "ort/other/transform/computation_reduction/reshape/mlm_bert_e2e.onnx",
        "MAC0013",
        "SoftmaxCrossEntropyLossInternal"
    )]
    [InlineData(Ort + "ort_format/training_model.ort", "MAC0016", ".ort")]
    [InlineData(Ort + "ort_format/eval_model.ort", "MAC0016", ".ort")]
    public void TheOthersAreRefused(string graph, string id, params string[] named)
    {
        var path = Path.Combine(Repository.Shared("ort-artifacts"), graph);
        var error = Assert.Throws<MacOnnxException>(() =>
            TrainingArtifacts.Read(path).HoldTraining
                ? Rewriter.Rewrite(TrainingArtifacts.Read(path))
                : Rewriter.Rewrite(path, new() { Loss = LossKind.Output })
        );
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
