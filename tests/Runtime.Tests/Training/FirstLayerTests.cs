using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>
/// The first layer preconditioned by the exact inverse, and by the literal factor 1/damping, against the formula in
/// double precision.
/// </summary>
public sealed class FirstLayerTests
{
    private const float Rate = 0.1f;
    private const float Damping = 0.3f;

    /// <summary>Float32 products of a few hundred terms of size 1.</summary>
    private const double Tolerance = 2e-5;

    [Theory]
    [InlineData("digits-mlp.onnx", "fc1.weight", "fc1.bias", false)]
    [InlineData("digits-mlp.onnx", "fc1.weight", "fc1.bias", true)]
    [InlineData("digits-cnn.onnx", "conv1.weight", null, false)]
    public void ExactInverseIsGradientTimesInverseOfSecondMoment(
        string model,
        string weight,
        string? bias,
        bool inverseScaled
    )
    {
        var path = Path.Combine(Repository.Root, "models", model);
        var (package, _) = Rewriter.Rewrite(
            path,
            Options(OptimizerKind.Mac) with
            {
                FirstLayer = FirstLayerMode.Full,
                InverseScaled = inverseScaled,
            }
        );
        var (plain, _) = Rewriter.Rewrite(path, Options(OptimizerKind.Sgd));
        using var session = new MacTrainingSession(package);
        using var sgd = new MacTrainingSession(plain);
        var batches = Enumerable.Range(1, 3).Select(seed => Batch(model, seed)).ToArray();
        Assert.True(session.NeedsFirstLayer);
        session.ComputeFirstLayer(batches.Select(b => (b.Values, 8.0)));
        Assert.False(session.NeedsFirstLayer);
        session.TrainStep(batches[0].Values);
        sgd.TrainStep(batches[0].Values);
        var before = session.GetState();
        session.OptimizerStep();
        var after = session.GetState();

        var rows = batches
            .SelectMany(b => model.Contains("cnn", StringComparison.Ordinal) ? Patches(b.X) : b.X.Chunk(64))
            .Select(r => bias is null ? r : [.. r, 1f])
            .ToArray();
        var size = rows[0].Length;
        var a = new double[size, size];
        foreach (var row in rows)
        {
            for (var i = 0; i < size; i++)
            {
                for (var j = 0; j < size; j++)
                {
                    a[i, j] += row[i] * (double)row[j] / rows.Length;
                }
            }
        }

        // (A + rho I) times the step's direction must give the gradient back, row by row.
        var gradient = sgd.Gradient(weight).ToDouble();
        var (old, now) = (before[weight].ToDouble(), after[weight].ToDouble());
        var inputs = bias is null ? size : size - 1;
        for (var unit = 0; unit < old.Length / inputs; unit++)
        {
            var direction = Enumerable
                .Range(0, inputs)
                .Select(i => (old[(unit * inputs) + i] - now[(unit * inputs) + i]) / Rate)
                .Concat(bias is null ? [] : [(before[bias].ToDouble()[unit] - after[bias].ToDouble()[unit]) / Rate])
                .ToArray();
            for (var i = 0; i < inputs; i++)
            {
                var back = (Damping * direction[i]) + Enumerable.Range(0, size).Sum(j => a[i, j] * direction[j]);
                Assert.Equal(gradient[(unit * inputs) + i], back, Tolerance);
            }
        }

        foreach (var batch in batches)
        {
            batch.Dispose();
        }
    }

    [Fact]
    public void InverseScaledDividesTheStepByTheDamping()
    {
        var path = Path.Combine(Repository.Root, "models", "digits-mlp.onnx");
        using var batch = Batch("digits-mlp.onnx", 1);
        double[] Step(bool scaled)
        {
            var (package, _) = Rewriter.Rewrite(path, Options(OptimizerKind.Mac) with { InverseScaled = scaled });
            using var session = new MacTrainingSession(package);
            session.TrainStep(batch.Values);
            session.OptimizerStep();
            return
            [
                .. session
                    .GetState()["fc1.weight"]
                    .ToDouble()
                    .Zip(package.Weights["fc1.weight"].ToDouble(), (a, b) => a - b),
            ];
        }

        foreach (var (plain, scaled) in Step(false).Zip(Step(true)))
        {
            Assert.Equal(plain / Damping, scaled, 1e-5);
        }
    }

    private static RewriteOptions Options(OptimizerKind optimizer) =>
        new()
        {
            Optimizer = optimizer,
            Hyperparameters = new()
            {
                LearningRate = Rate,
                Momentum = 0,
                Damping = Damping,
            },
        };

    private static TestBatch Batch(string model, int seed)
    {
        var random = new Random(seed);
        float[] x = [.. Enumerable.Range(0, 8 * 64).Select(_ => random.NextSingle())];
        long[] y = [.. Enumerable.Range(0, 8).Select(_ => (long)random.Next(10))];
        return new TestBatch(
            x,
            [
                OrtValues.Of(
                    Tensor.From<float>(model.Contains("cnn", StringComparison.Ordinal) ? [8, 1, 8, 8] : [8, 64], x)
                ),
                OrtValues.Of(Tensor.From<long>([8], y)),
            ]
        );
    }

    /// <summary>The 3x3 patches of 8x8 images, zero-padded by one.</summary>
    private static IEnumerable<float[]> Patches(float[] images) =>
        from image in images.Chunk(64)
        from y in Enumerable.Range(0, 8)
        from x in Enumerable.Range(0, 8)
        select (float[])
            [
                .. from dy in Enumerable.Range(-1, 3)
                from dx in Enumerable.Range(-1, 3)
                select (y + dy, x + dx) is (>= 0 and < 8, >= 0 and < 8) ? image[((y + dy) * 8) + x + dx] : 0,
            ];

    private sealed record TestBatch(float[] X, IReadOnlyList<Microsoft.ML.OnnxRuntime.OrtValue> Values) : IDisposable
    {
        public void Dispose()
        {
            foreach (var value in Values)
            {
                value.Dispose();
            }
        }
    }
}
