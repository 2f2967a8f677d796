using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Bindings;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>
/// Artifacts of onnxruntime-training 1.19.2 train on the stock runtime as they did there: losses, gradients, parameters
/// and evaluation, with the file's own backward pass and with ours.
/// </summary>
/// <remarks>
/// Tolerances: float32 sums in another order than ONNX Runtime 1.19's kernels differ by up to 6e-6 of the largest
/// parameter over these 8 steps; another formula of the optimizer by 5e-4 or more.
/// </remarks>
public sealed class GeneratedArtifactsTests
{
    private const double LossTolerance = 1e-4;
    private const double ParameterTolerance = 2e-5;
    private const double GradientTolerance = 1e-5;

    public static TheoryData<string, bool> Cases =>
        [
            .. new[] { false, true }.SelectMany(rebuilds =>
                new[]
                {
                    "mlp_ce_adamw",
                    "mlp_mse_sgd",
                    "cnn_bn_ce_adamw",
                    "encoder_ce_adamw",
                    "lora",
                    "bce_logits",
                    "l1",
                }.Select(name => (name, rebuilds))
            ),
        ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void TrainAsTheyDid(string name, bool rebuilds)
    {
        var data = new GeneratedArtifacts(name);
        var package = Package(data, data.Keep with { RebuildsBackward = rebuilds });
        Assert.Equal(
            data.Trainable.Order(StringComparer.Ordinal),
            package.Manifest.Trained.Order(StringComparer.Ordinal)
        );
        using var session = new MacTrainingSession(package);
        Evaluates(session, data, 0);
        for (var step = 1; step <= 8; step++)
        {
            Assert.Equal(data.Losses[step - 1], session.TrainStep(data.Batch(package, step - 1)), LossTolerance);
            if (step == 1)
            {
                Same(data, "grad1", session.Gradient, GradientTolerance);
            }

            Assert.True(session.OptimizerStep());
            if (step is 1 or 4 or 8)
            {
                Same(data, $"step{step}", p => session.GetState()[p], ParameterTolerance);
            }
        }

        Evaluates(session, data, 8);
        foreach (
            var (key, expected) in data.Golden.Where(g => g.Key.StartsWith("frozen_step8/", StringComparison.Ordinal))
        )
        {
            GeneratedArtifacts.Near(
                expected,
                session.GetState()[key["frozen_step8/".Length..]],
                ParameterTolerance,
                key
            );
        }
    }

    [Fact]
    public void GradientsOfSeveralBatchesAreSummed()
    {
        var data = new GeneratedArtifacts("mlp_ce_adamw");
        var package = Package(data, data.Keep);
        using var session = new MacTrainingSession(package);
        for (var batch = 0; batch < 8; batch++)
        {
            Assert.Equal(data.AccumulatedLosses[batch], session.TrainStep(data.Batch(package, batch)), LossTolerance);
            if (batch % 2 == 0)
            {
                continue;
            }

            if (batch == 1)
            {
                Same(data, "accumulated_grad1", session.Gradient, GradientTolerance);
            }

            session.OptimizerStep();
            if (batch is 1 or 7)
            {
                Same(data, $"accumulated_step{(batch + 1) / 2}", p => session.GetState()[p], ParameterTolerance);
            }
        }
    }

    /// <summary>
    /// Running statistics advance with every batch, as in ONNX Runtime's training builds: those of a step of two
    /// batches are those of two steps, at a learning rate of 0. Rounding differs in how the two are computed.
    /// </summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void RunningStatisticsAdvanceWithEveryBatch(bool updatesBetween)
    {
        var data = new GeneratedArtifacts("cnn_bn_ce_adamw");
        var options = data.Keep with { Hyperparameters = new() { LearningRate = 0 } };
        using var steps = new MacTrainingSession(Package(data, options));
        using var batches = new MacTrainingSession(Package(data, options)) { KeepsGradients = updatesBetween };
        for (var batch = 0; batch < 3; batch++)
        {
            steps.TrainStep(data.Batch(steps.Package, batch));
            steps.OptimizerStep();
            batches.TrainStep(data.Batch(steps.Package, batch));
            if (updatesBetween)
            {
                // Without a reset the gradients go on adding up.
                batches.OptimizerStep();
            }
        }

        _ = updatesBetween || batches.OptimizerStep();
        var states = steps.Package.Manifest.Buffers.Where(b => b.Role == BufferRole.RunningStatistic).ToArray();
        Assert.Equal(4, states.Length);
        foreach (var state in states)
        {
            GeneratedArtifacts.Near(steps.GetState()[state.Name], batches.GetState()[state.Name], 1e-5, state.Name);
        }
    }

    [Theory]
    [InlineData("mlp_ce_adamw")]
    [InlineData("mlp_mse_sgd")]
    public void TrainingGoesOnFromACheckpoint(string name)
    {
        var data = new GeneratedArtifacts(name);
        var artifacts = TrainingArtifacts
            .ReadFolder(data.Folder)
            .With(OrtCheckpointFile.Read(Path.Combine(data.Folder, "checkpoint_step4")));
        var (package, _) = Rewriter.Rewrite(artifacts, data.Keep);
        using var session = new MacTrainingSession(package);
        Assert.Equal(4, session.Updates);
        for (var step = 5; step <= 8; step++)
        {
            Assert.Equal(data.Losses[step - 1], session.TrainStep(data.Batch(package, step - 1)), LossTolerance);
            session.OptimizerStep();
        }

        Same(data, "step8", p => session.GetState()[p], ParameterTolerance);
    }

    [Theory]
    [InlineData("mlp_ce_adamw", OptimizerKind.Mac, 0.02f)]
    [InlineData("cnn_bn_ce_adamw", OptimizerKind.Mac, 0.02f)]
    [InlineData("encoder_ce_adamw", OptimizerKind.MacAdamW, 0.001f)]
    [InlineData("lora", OptimizerKind.Mac, 0.1f)]
    public void TheyTrainWithMac(string name, OptimizerKind optimizer, float rate)
    {
        var data = new GeneratedArtifacts(name);
        var package = Package(
            data,
            new()
            {
                Optimizer = optimizer,
                Hyperparameters = new() { LearningRate = rate },
            }
        );
        Assert.Contains(package.Manifest.Parameters, p => p.Treatment.StartsWith("MAC", StringComparison.Ordinal));
        var report = Rewriter.Inspect(data.Folder);
        Assert.DoesNotContain(report.Notes, n => n.Contains("its gradient in the graph", StringComparison.Ordinal));
        using var session = new MacTrainingSession(package);
        var batch = data.Batch(package, 0);
        var before = session.TrainStep(batch);
        session.OptimizerStep();
        for (var step = 0; step < 20; step++)
        {
            session.TrainStep(batch);
            session.OptimizerStep();
        }

        var after = session.TrainStep(batch);
        Assert.True(after < before * 0.9, $"The loss goes from {before} to {after}.");
    }

    /// <summary>
    /// Curvature of gradients of outputs takes them from the file's backward pass: two steps end where those by our own
    /// gradients do, but for rounding.
    /// </summary>
    [Theory]
    [InlineData("mlp_ce_adamw", OptimizerKind.Kfac)]
    [InlineData("mlp_ce_adamw", OptimizerKind.Eva)]
    [InlineData("mlp_mse_sgd", OptimizerKind.Smac)]
    public void GradientsOfOutputsAreTheFilesToo(string name, OptimizerKind optimizer)
    {
        var data = new GeneratedArtifacts(name);
        var options = new RewriteOptions
        {
            Optimizer = optimizer,
            Hyperparameters = new() { LearningRate = 0.01f, StatEvery = 1 },
        };
        using var kept = new MacTrainingSession(Package(data, options));
        using var rebuilt = new MacTrainingSession(Package(data, options with { RebuildsBackward = true }));
        for (var step = 0; step < 2; step++)
        {
            foreach (var session in new[] { kept, rebuilt })
            {
                session.TrainStep(data.Batch(session.Package, step));
                session.OptimizerStep();
            }
        }

        foreach (var parameter in data.Trainable)
        {
            GeneratedArtifacts.Near(rebuilt.GetState()[parameter], kept.GetState()[parameter], 1e-4, parameter);
        }
    }

    private static TrainingPackage Package(GeneratedArtifacts data, RewriteOptions options) =>
        Rewriter.Rewrite(TrainingArtifacts.ReadFolder(data.Folder), options).Package;

    private static void Evaluates(MacTrainingSession session, GeneratedArtifacts data, int step) =>
        Assert.Equal(
            data.EvaluationLoss(step),
            session.EvalStep(data.EvaluationBatch(session.Package)).Loss,
            LossTolerance
        );

    private static void Same(GeneratedArtifacts data, string prefix, Func<string, Tensor> actual, double tolerance)
    {
        foreach (var parameter in data.Trainable)
        {
            GeneratedArtifacts.Near(
                data.Golden[$"{prefix}/{parameter}"],
                actual(parameter),
                tolerance,
                $"{prefix}/{parameter}"
            );
        }
    }
}
