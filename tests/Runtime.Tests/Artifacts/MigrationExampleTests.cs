using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.Runtime.OnDevice;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>The examples of docs/migrating-from-onnxruntime-training.md, run as they stand there.</summary>
[Collection("tests that change the current folder")]
public sealed class MigrationExampleTests
{
    [Fact]
    public void ExamplesRunAndStandInTheGuide()
    {
        var guide = File.ReadAllLines(Path.Combine(Repository.Root, "docs", "migrating-from-onnxruntime-training.md"));
        var source = File.ReadAllLines(
            Path.Combine(Repository.Root, "tests", "Runtime.Tests", "Artifacts", "MigrationExampleTests.cs")
        );
        var start =
            Array.FindIndex(source, l => l.StartsWith("    private static void Example(", StringComparison.Ordinal))
            + 2;
        foreach (var line in source[start..].TakeWhile(l => l != "    }"))
        {
            Assert.Contains(line.Trim(), guide.Select(l => l.Trim()));
        }

        var data = new GeneratedArtifacts("mlp_ce_adamw");
        var folder = Directory.CreateTempSubdirectory();
        var before = Environment.CurrentDirectory;
        try
        {
            Directory.CreateSymbolicLink(Path.Combine(folder.FullName, "artifacts"), data.Folder);
            Environment.CurrentDirectory = folder.FullName;
            var (package, _) = Rewriter.Rewrite(TrainingArtifacts.ReadFolder("artifacts"));
            Example([.. Enumerable.Range(0, 8).Select(i => data.Batch(package, i)).Select(b => (b[0], b[1]))]);
            using var trained = new InferenceSession("trained.onnx");
            Assert.Equal(["output"], trained.OutputNames);
        }
        finally
        {
            Environment.CurrentDirectory = before;
            folder.Delete(recursive: true);
        }
    }

    private static void Example((OrtValue, OrtValue)[] batches)
    {
        var state = OrtCheckpoint.LoadCheckpoint("artifacts/checkpoint");
        using var session = new OrtTrainingSession(
            state,
            "artifacts/training_model.onnx",
            "artifacts/eval_model.onnx",
            "artifacts/optimizer_model.onnx"
        );
        session.SetLearningRate(0.01f);
        foreach (var (images, labels) in batches)
        {
            using var losses = session.TrainStep([images, labels]);
            session.OptimizerStep();
            session.LazyResetGrad();
        }

        OrtCheckpoint.SaveCheckpoint(state, "trained", includeOptimizerState: true);
        session.ExportModelForInferencing("trained.onnx", ["output"]);

        using var mac = new OrtTrainingSession(
            OrtCheckpoint.LoadCheckpoint("trained"),
            TrainingArtifacts.Read("artifacts/training_model.onnx", evaluation: "artifacts/eval_model.onnx"),
            new RewriteOptions
            {
                Optimizer = OptimizerKind.Mac,
                Hyperparameters = new() { LearningRate = 0.02f },
            }
        );
    }
}
