using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>
/// The text of every graph that the shipped models become: a refactoring that changes nothing changes no line of it.
/// </summary>
/// <remarks>Run with MACONNX_GOLDEN=1 to write the files anew, then read the difference.</remarks>
public class GoldenTests
{
    [Theory]
    [InlineData("digits-mlp", OptimizerKind.Mac)]
    [InlineData("digits-cnn", OptimizerKind.Mac)]
    [InlineData("digits-mlp", OptimizerKind.MacAdamW)]
    [InlineData("fashion-cnn", OptimizerKind.Sgd)]
    [InlineData("vit-fashion", OptimizerKind.Mac)]
    [InlineData("chargpt", OptimizerKind.AdamW)]
    public void GraphsAreThoseOfTheGoldenFile(string model, OptimizerKind optimizer)
    {
        var path = Repository.Models($"{model}.onnx");
        var proto = ModelReader.Read(path);
        ModelReader.Normalize(proto, path);
        var context = Pipeline.Run(new(proto, new RewriteOptions { Optimizer = optimizer }, path));
        var graphs = context.BoundGraphs.Where(g => !g.IsEmpty);
        var text = string.Concat(graphs.Select(g => $"=== {g.File}\n{GraphText.Of(g.Graph)}"));
        var file = Path.Combine(
            Repository.Root,
            "tests",
            "GraphRewriter.Tests",
            "Golden",
            $"{model}-{optimizer.ToString().ToLowerInvariant()}.txt"
        );
        if (Environment.GetEnvironmentVariable("MACONNX_GOLDEN") == "1")
        {
            Directory.CreateDirectory(Path.GetDirectoryName(file)!);
            File.WriteAllText(file, text);
        }

        var golden = File.ReadAllText(file).ReplaceLineEndings("\n");
        var difference = golden.Split('\n').Zip(text.Split('\n')).FirstOrDefault(l => l.First != l.Second);
        Assert.Equal(difference.First, difference.Second);
        Assert.Equal(golden.Length, text.Length);
    }
}
