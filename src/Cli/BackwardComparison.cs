using System.Globalization;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Cli;

/// <summary>How far a rebuilt backward pass is from the one that the training graph holds.</summary>
internal static class BackwardComparison
{
    /// <summary>Runs both on a batch of random data, and says by how much gradients differ.</summary>
    public static string Run(
        TrainingArtifacts artifacts,
        RewriteOptions options,
        TrainingPackage rebuilt,
        CancellationToken cancellationToken
    )
    {
        TrainingPackage kept;
        try
        {
            (kept, _) = Rewriter.Rewrite(artifacts, options with { RebuildsBackward = false });
        }
        catch (MacOnnxException e)
        {
            return $"The graph's own backward pass was not compared: {e.Diagnostic.What}";
        }

        using var loader = new BatchLoader(RandomBatch.Make(rebuilt.Manifest), 0, shuffle: false, seed: 0);
        var batch = loader.Epoch(0, 0, cancellationToken).First();
        using var first = new MacTrainingSession(rebuilt);
        using var second = new MacTrainingSession(kept);
        first.TrainStep(batch.Values);
        second.TrainStep(batch.Values);
        var (worst, name) = rebuilt
            .Manifest.Trained.Select(p => (Difference(first.Gradient(p).ToDouble(), second.Gradient(p).ToDouble()), p))
            .MaxBy(d => d.Item1);
        return string.Create(
            CultureInfo.InvariantCulture,
            $"On random data the rebuilt gradients are the graph's own to {worst:0.0e0} of the largest ('{name}')."
        );
    }

    private static double Difference(double[] a, double[] b)
    {
        var scale = Math.Max(b.Max(Math.Abs), 1e-30);
        return a.Zip(b, (x, y) => Math.Abs(x - y)).Max() / scale;
    }
}
