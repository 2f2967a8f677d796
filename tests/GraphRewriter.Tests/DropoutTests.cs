using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>Dropout whose mask is a function of a seed.</summary>
public sealed class DropoutTests
{
    private const int Count = 40_000;

    [Fact]
    public void SameSeedSameMaskOtherSeedOtherMask()
    {
        using var session = Session(0.3f);
        Assert.Equal(Run(session, 7), Run(session, 7));
        Assert.NotEqual(Run(session, 7), Run(session, 8));
    }

    [Theory]
    [InlineData(0.1f)]
    [InlineData(0.5f)]
    [InlineData(0.9f)]
    public void DropsTheRatioAndScalesTheRest(float ratio)
    {
        using var session = Session(ratio);
        for (var seed = 0L; seed < 20; seed++)
        {
            var y = Run(session, seed * 0x1234567);
            Assert.All(y, v => Assert.True(v == 0 || Math.Abs(v - (1 / (1 - ratio))) < 1e-5));

            // Six standard deviations of a fair draw.
            Assert.Equal(ratio, y.Count(v => v == 0) / (double)Count, 6 * Math.Sqrt(ratio * (1 - ratio) / Count));
        }
    }

    [Fact]
    public void NeighboursAndRowsAreNotCorrelated()
    {
        using var session = Session(0.5f);
        foreach (var lag in new[] { 1, 2, 3, 7, 64, 100, 128, 1000 })
        {
            var worst = 0.0;
            for (var seed = 0L; seed < 20; seed++)
            {
                var kept = Run(session, seed).Select(v => v > 0 ? 1.0 : -1).ToArray();
                worst = Math.Max(worst, Math.Abs(kept.Skip(lag).Zip(kept, (a, b) => a * b).Average()));
            }

            // The largest of 160 correlations of fair draws is about 3 standard deviations, 3/sqrt(40,000) = 0.015.
            Assert.True(worst < 0.03, $"lag {lag}: {worst}");
        }
    }

    private static InferenceSession Session(float ratio)
    {
        var graph = new Graph { Name = "dropout", Opsets = { [""] = 21 } };
        var b = new GraphBuilder(graph);
        var x = b.Input("x", ElementType.Float, Shape.Of(Count));
        graph.Outputs.Add(b.Op("Dropout", [x, b.Scalar(ratio, ElementType.Float), b.Scalar(1, ElementType.Bool)]));
        SeededDropout.Apply(graph);
        ShapeInference.Apply(graph, "dropout");
        return new InferenceSession(ModelWriter.ToBytes(graph));
    }

    private static float[] Run(InferenceSession session, long seed)
    {
        using var options = new RunOptions();
        using var x = OrtValue.CreateTensorValueFromMemory(Enumerable.Repeat(1f, Count).ToArray(), [Count]);
        using var s = OrtValue.CreateTensorValueFromMemory<long>(new[] { seed }, []);
        using var results = session.Run(options, ["x", "dropout_seed"], [x, s], session.OutputNames);
        return results[0].GetTensorDataAsSpan<float>().ToArray();
    }
}
