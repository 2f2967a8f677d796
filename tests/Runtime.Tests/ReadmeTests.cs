using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Tests;

/// <summary>The README's C# example, run as it stands there.</summary>
[Collection("tests that change the current folder")]
public sealed class ReadmeTests
{
    [Fact]
    public void ExampleRunsAndStandsInTheReadme()
    {
        var folder = Directory.CreateTempSubdirectory();
        var before = Environment.CurrentDirectory;
        try
        {
            Environment.CurrentDirectory = Repository.Root;
            Example(folder.FullName);
            using var trained = new InferenceSession(Path.Combine(folder.FullName, "trained.onnx"));
            Assert.Equal(["input"], trained.InputNames);
        }
        finally
        {
            Environment.CurrentDirectory = before;
            folder.Delete(recursive: true);
        }

        var readme = File.ReadAllText(Path.Combine(Repository.Root, "README.md")).ReplaceLineEndings("\n");
        foreach (var line in ExampleLines())
        {
            Assert.Contains(line, readme, StringComparison.Ordinal);
        }
    }

    private static void Example(string folder)
    {
        var (package, report) = Rewriter.Rewrite(
            "models/digits-mlp.onnx",
            new RewriteOptions { Hyperparameters = new() { LearningRate = 0.05f } }
        );
        using var session = new MacTrainingSession(package);
        using var data = new BatchLoader(
            Dataset.Load("models/digits.csv", Dataset.SpecsOf(package.Manifest)),
            batchSize: 64,
            shuffle: true,
            seed: 0
        );
        foreach (var batch in data.Epoch(0))
        {
            var loss = session.TrainStep(batch.Values); // forward, backward, statistics
            session.OptimizerStep(); // MAC's update, in place; false where it was skipped for numbers that are not finite
        }

        session.SaveCheckpoint(Path.Combine(folder, "step.safetensors"));
        session.ExportInferenceModel(Path.Combine(folder, "trained.onnx")); // the original graph with new weights
    }

    /// <summary>
    /// Gives the lines of the example's body, without indentation, up to the paths that the test replaces.
    /// </summary>
    private static IEnumerable<string> ExampleLines() =>
        File.ReadLines(Path.Combine(Repository.Root, "tests", "Runtime.Tests", "ReadmeTests.cs"))
            .SkipWhile(l => !l.Contains("void Example(", StringComparison.Ordinal))
            .Skip(2)
            .TakeWhile(l => !l.StartsWith("    }", StringComparison.Ordinal))
            .Select(l => l.Trim().Split("Path.Combine")[0])
            .Where(l => l.Length > 1);
}
