using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ops;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests;

public class BatchStatisticsTests
{
    private static readonly float[] Data = [.. Enumerable.Range(0, 24).Select(i => MathF.Sin(i) + (i % 5))];

    private static readonly string[] Names = ["x", "scale", "bias", "mean", "variance"];

    /// <summary>Scale, bias, mean and variance.</summary>
    private static readonly float[][] Vectors =
    [
        [1, 2, 3],
        [0, 1, -1],
        [0.5f, -1, 2],
        [1, 2, 0.5f],
    ];

    /// <summary>
    /// The model's own outputs keep their names and values, and the batch's mean and population variance appear beside
    /// them.
    /// </summary>
    [Fact]
    public void Running_statistics_stay_and_batch_statistics_appear()
    {
        var graph = Model(outputs: 3);
        var expected = Run(graph);

        var statistic = Assert.Single(BatchStatistics.Prepare(graph));
        Assert.Equal(0.75f, statistic.Momentum);
        Assert.Equal(("mean", "variance"), (statistic.Mean.Name, statistic.Variance.Name));
        Assert.Equal(0, statistic.Node.Attributes.Float("momentum", 1));
        graph.Outputs.AddRange([statistic.BatchMean, statistic.BatchVariance]);
        var actual = Run(graph);

        Assert.Equal(expected.Keys, actual.Keys.Take(3));
        foreach (var (name, values) in expected)
        {
            Assert.Equal(values, actual[name], (a, b) => Math.Abs(a - b) < 1e-6f);
        }

        for (var c = 0; c < 3; c++)
        {
            var channel = Data.Where((_, i) => i / 4 % 3 == c).ToArray();
            var mean = channel.Average();
            Assert.Equal(mean, actual[statistic.BatchMean.Name][c], 1e-5f);
            Assert.Equal(channel.Average(v => (v - mean) * (v - mean)), actual[statistic.BatchVariance.Name][c], 1e-5f);
        }
    }

    /// <summary>ONNX Runtime refuses training mode with one output.</summary>
    [Fact]
    public void Missing_outputs_are_added()
    {
        var graph = Model(outputs: 1);
        Assert.Single(BatchStatistics.Prepare(graph));
        Assert.Equal(3, graph.Nodes.Single().Outputs.Count);
        Assert.Single(Run(graph));
    }

    [Fact]
    public void Inference_mode_is_left_alone()
    {
        var graph = Model(outputs: 1);
        graph.Nodes[0].Attributes.Set(Int("training_mode", 0));
        Assert.Empty(BatchStatistics.Prepare(graph));
        Assert.Single(graph.Nodes.Single().Outputs);
    }

    private static Graph Model(int outputs)
    {
        var graph = new Graph { Name = "model", Opsets = { [""] = 21 } };
        var builder = new GraphBuilder(graph);
        var inputs = Names
            .Select(n => builder.Input(n, ElementType.Float, n == "x" ? Shape.Of(2, 3, 4) : Shape.Of(3)))
            .ToArray();
        graph.Outputs.AddRange(
            builder
                .Node("BatchNormalization", "", inputs, outputs, Int("training_mode", 1), Float("momentum", 0.75))
                .Outputs
        );
        return graph;
    }

    private static Dictionary<string, float[]> Run(Graph graph)
    {
        using var session = new InferenceSession(ModelWriter.ToBytes(graph));
        using var run = new RunOptions();
        using var x = OrtValue.CreateTensorValueFromMemory(Data.ToArray(), [2, 3, 4]);
        var vectors = Vectors.Select(v => OrtValue.CreateTensorValueFromMemory(v, [3])).ToArray();
        using var results = session.Run(run, Names, [x, .. vectors], session.OutputNames);
        Array.ForEach(vectors, v => v.Dispose());
        return session
            .OutputNames.Zip(results, (name, value) => (name, value.GetTensorDataAsSpan<float>().ToArray()))
            .ToDictionary(p => p.name, p => p.Item2, StringComparer.Ordinal);
    }
}
