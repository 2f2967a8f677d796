using MacOnnx.Cli.Tests.Support;
using MacOnnx.GraphRewriter.Artifacts;

namespace MacOnnx.Cli.Tests;

/// <summary>Training artifacts of ONNX Runtime on the command line.</summary>
public sealed class ArtifactTests : IDisposable
{
    private readonly TempFolder _folder = new();

    private static string Case => Path.Combine(Repository.Shared("ort-artifacts"), "generated", "mlp_ce_adamw");

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task AFolderIsRewrittenTrainedAndExported()
    {
        var package = _folder.File("out.mac");
        var inspected = await Maconnx.Succeed("inspect", Case, "--optimizer", "keep");
        Assert.Contains("The optimizer is kept: AdamWOptimizer", inspected, StringComparison.Ordinal);
        await Maconnx.Succeed("rewrite", Case, "--optimizer", "keep", "-o", package);
        var run = _folder.File("run");
        await Maconnx.Succeed("train", package, "--data", Data(), "--batch-size", "8", "--max-steps", "2", "-o", run);
        var state = Directory.EnumerateFiles(run, "*.safetensors", SearchOption.AllDirectories).Order().Last();
        var checkpoint = _folder.File("checkpoint");
        await Maconnx.Succeed("export", package, "--checkpoint", state, "--to-ort-checkpoint", "-o", checkpoint);
        var written = OrtCheckpointFile.Read(checkpoint);
        Assert.Equal(6, written.Trainable.Count);
        Assert.Equal(2, written.Groups[0].Step);

        // And on with MAC from there, the backward pass made anew.
        var mac = await Maconnx.Succeed(
            "rewrite",
            Case,
            "--checkpoint",
            checkpoint,
            "--rebuild-backward",
            "-o",
            _folder.File("mac.mac")
        );
        Assert.Contains("MAC dense", mac, StringComparison.Ordinal);
        Assert.Matches("the graph's own to (0.0e0|[0-9.]+e-[6-9]) of the largest", mac);
    }

    [Fact]
    public async Task FilesAreGivenOneByOne()
    {
        string In(string file) => Path.Combine(Case, file);
        var text = await Maconnx.Succeed(
            "rewrite",
            In("training_model.onnx"),
            "--optimizer-model",
            In("optimizer_model.onnx"),
            "--eval-model",
            In("eval_model.onnx"),
            "--checkpoint",
            In("checkpoint"),
            "--optimizer",
            "keep",
            "-o",
            _folder.File("out.mac")
        );
        Assert.Contains("6 plain", text, StringComparison.Ordinal);
    }

    /// <summary>Commands that rewrite models rewrite artifacts.</summary>
    [Fact]
    public async Task TheyAreTrainedAndCheckedByTheirFolder()
    {
        var run = _folder.File("run");
        var trained = await Maconnx.Succeed(
            "train",
            Case,
            "--optimizer",
            "keep",
            "--data",
            Data(),
            "--batch-size",
            "8",
            "--max-steps",
            "2",
            "-o",
            run
        );
        Assert.Contains("16 samples", trained, StringComparison.Ordinal);
        var checkedText = await Maconnx.Succeed("check", Case, "--optimizer", "sgd");
        Assert.Contains("all 6 parameters right", checkedText, StringComparison.Ordinal);
    }

    [Fact]
    public async Task TheTrainingAlgorithmIsWrittenIntoTheModel()
    {
        var file = _folder.File("model.onnx");
        var text = await Maconnx.Succeed("rewrite", Case, "--emit", "training-info", "-o", file);
        Assert.StartsWith($"{file}: ", text, StringComparison.Ordinal);
        Assert.Contains("6 MAC dense", text, StringComparison.Ordinal);
        Assert.Contains("step", OnnxTraining.ReadTrainingInfo(file).Updates.Keys);
        var error = await Maconnx.Fail(
            1,
            "rewrite",
            Repository.Models("digits-mlp.onnx"),
            "--emit",
            "training-info",
            "--optimizer",
            "kfac",
            "-o",
            _folder.File("k.onnx")
        );
        Assert.Contains("MAC0809", error, StringComparison.Ordinal);
        Assert.False(File.Exists(_folder.File("k.onnx")));
    }

    [Fact]
    public async Task WhatDoesNotFitIsSaidInALine()
    {
        var graph = Path.Combine(Case, "training_model.onnx");
        var out1 = _folder.File("out.mac");
        var noCheckpoint = await Maconnx.Fail(1, "rewrite", graph, "-o", out1);
        Assert.Contains("MAC0804", noCheckpoint, StringComparison.Ordinal);
        var nominal = Path.Combine(Case, "nominal_checkpoint");
        Assert.Contains(
            "MAC0805",
            await Maconnx.Fail(1, "rewrite", graph, "--checkpoint", nominal, "-o", out1),
            StringComparison.Ordinal
        );
        var checkpoint = Path.Combine(Case, "checkpoint");
        Assert.Contains(
            "MAC0802",
            await Maconnx.Fail(1, "rewrite", graph, "--checkpoint", checkpoint, "--optimizer", "keep", "-o", out1),
            StringComparison.Ordinal
        );
        Assert.False(Directory.Exists(out1));
    }

    [Fact]
    public async Task OptionsOfArtifactsNeedArtifacts()
    {
        var model = Repository.Models("digits-mlp.onnx");
        var out1 = _folder.File("out.mac");
        var error = await Maconnx.Fail(1, "rewrite", model, "--optimizer", "keep", "-o", out1);
        Assert.Contains("MAC0806", error, StringComparison.Ordinal);
        error = await Maconnx.Fail(1, "rewrite", model, "--eval-model", model, "-o", out1);
        Assert.Contains("MAC0806", error, StringComparison.Ordinal);
    }

    /// <summary>Makes 16 samples under the names of the graph's inputs.</summary>
    private string Data()
    {
        var folder = Directory.CreateDirectory(_folder.File("data")).FullName;
        Runtime.Data.NpyFile.Write(
            Path.Combine(folder, "input.npy"),
            GraphRewriter.Ir.Tensor.From<float>(
                [16, 20],
                [.. Enumerable.Range(0, 320).Select(i => MathF.Sin(i * 1.7f))]
            )
        );
        Runtime.Data.NpyFile.Write(
            Path.Combine(folder, "labels.npy"),
            GraphRewriter.Ir.Tensor.From<long>([16], [.. Enumerable.Range(0, 16).Select(i => (long)(i % 5))])
        );
        return folder;
    }
}
