using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Tests.Reference;
using MacOnnx.Runtime.Tests.Support;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>Every preconditioner with every update, against its formula in double precision.</summary>
public sealed class MethodTests : IDisposable
{
    private const int Steps = 12;

    /// <summary>
    /// Float32 rounding over twelve steps; a wrong sign, average, interval, factor or transposition moves some
    /// parameter by 1e-3 or more.
    /// </summary>
    private const double Tolerance = 2e-5;

    private readonly TempFolder _folder = new();

    public static TheoryData<CurvatureKind, UpdateKind> Methods =>
        [.. from c in Enum.GetValues<CurvatureKind>() from u in Enum.GetValues<UpdateKind>() select (c, u)];

    public static TheoryData<CurvatureKind> Curvatures => [.. Enum.GetValues<CurvatureKind>()];

    public void Dispose() => _folder.Dispose();

    /// <summary>The batch's size is dynamic, and differs from step to step.</summary>
    [Theory]
    [MemberData(nameof(Methods))]
    public void TwelveStepsEqualTheFormula(CurvatureKind curvature, UpdateKind update)
    {
        var options = Options(curvature, update);
        using var session = Session(options);
        var reference = new Run(options, session);
        for (var step = 0; step < Steps; step++)
        {
            var (x, labels) = ReferenceNetwork.Samples(step % 3 == 1 ? 7 : 4, seed: step);
            var loss = TrainStep(session, x, labels);
            Assert.True(session.OptimizerStep());
            Assert.Equal(reference.Step(x, labels), loss, Tolerance);
            reference.AssertEqual(session, step);
        }
    }

    /// <summary>Batches of 2 and 5 samples make the step that their joined batch makes.</summary>
    [Theory]
    [MemberData(nameof(Curvatures))]
    public void AccumulatedBatchesEqualTheirJoinedBatch(CurvatureKind curvature)
    {
        var options = Options(curvature, UpdateKind.Momentum);
        using var session = Session(options);
        var reference = new Run(options, session);
        for (var step = 0; step < Steps; step++)
        {
            var (x, labels) = ReferenceNetwork.Samples(7, seed: step);
            TrainStep(session, x[..2], labels[..2]);
            TrainStep(session, x[2..], labels[2..]);
            Assert.True(session.OptimizerStep());
            reference.Step(x, labels);
            reference.AssertEqual(session, step);
        }
    }

    /// <summary>The checkpoint is taken between refreshes.</summary>
    [Theory]
    [MemberData(nameof(Methods))]
    public void AResumedRunHasTheSameBits(CurvatureKind curvature, UpdateKind update)
    {
        var package = Rewriter.Rewrite(ReferenceNetwork.Save(_folder), Options(curvature, update)).Package;
        using var whole = new MacTrainingSession(package);
        using var resumed = new MacTrainingSession(package);
        for (var step = 0; step < Steps; step++)
        {
            if (step == 7)
            {
                whole.SaveCheckpoint(_folder.File("c.safetensors"));
                resumed.LoadCheckpoint(_folder.File("c.safetensors"));
                Assert.Null(resumed.MissingState);
            }

            var (x, labels) = ReferenceNetwork.Samples(4, seed: step);
            foreach (var session in step < 7 ? [whole] : new[] { whole, resumed })
            {
                TrainStep(session, x, labels);
                Assert.True(session.OptimizerStep());
            }
        }

        var (left, right) = (whole.GetState(), resumed.GetState());
        Assert.All(left, s => Assert.True(s.Value.Data.Span.SequenceEqual(right[s.Key].Data.Span), s.Key));
    }

    /// <summary>The names of the pairs are pairs.</summary>
    [Theory]
    [InlineData(OptimizerKind.Mac, CurvatureKind.Mac, UpdateKind.Momentum)]
    [InlineData(OptimizerKind.MacAdamW, CurvatureKind.Mac, UpdateKind.AdamW)]
    [InlineData(OptimizerKind.Sgd, CurvatureKind.None, UpdateKind.Momentum)]
    [InlineData(OptimizerKind.AdamW, CurvatureKind.None, UpdateKind.AdamW)]
    [InlineData(OptimizerKind.Kfac, CurvatureKind.Kfac, UpdateKind.Momentum)]
    [InlineData(OptimizerKind.Foof, CurvatureKind.Foof, UpdateKind.Momentum)]
    [InlineData(OptimizerKind.Eva, CurvatureKind.Eva, UpdateKind.Momentum)]
    [InlineData(OptimizerKind.Smac, CurvatureKind.Smac, UpdateKind.Momentum)]
    [InlineData(OptimizerKind.Muon, CurvatureKind.None, UpdateKind.Muon)]
    public void AnOptimizerIsAPair(OptimizerKind optimizer, CurvatureKind curvature, UpdateKind update)
    {
        var path = ReferenceNetwork.Save(_folder);
        byte[] Optimizer(RewriteOptions options) =>
            Rewriter.Rewrite(path, options).Package.Model(GraphRewriter.Bindings.PackageFiles.Optimizer).ToArray();
        Assert.Equal(
            Optimizer(new() { Optimizer = optimizer }),
            Optimizer(new() { Curvature = curvature, Update = update })
        );
    }

    /// <summary>Changing the damping between refreshes takes effect at once, as MAC's does.</summary>
    [Theory]
    [InlineData(CurvatureKind.Foof)]
    [InlineData(CurvatureKind.Kfac)]
    public void ADampingThatChangesInvertsAnew(CurvatureKind curvature)
    {
        var options = Options(curvature, UpdateKind.Momentum);
        using var session = Session(options);
        using var other = Session(options);
        var (x, labels) = ReferenceNetwork.Samples(4, seed: 1);
        foreach (var (s, damping) in new[] { (session, 0.5f), (other, 50f) })
        {
            TrainStep(s, x, labels);
            s.OptimizerStep();
            s.Hyperparameters = s.Hyperparameters with { Damping = damping };
            TrainStep(s, x, labels);
            s.OptimizerStep();
        }

        double Moved(MacTrainingSession s) => s.GetState()["conv.w.momentum"].ToDouble().Sum(Math.Abs);
        Assert.True(Moved(other) < 0.95 * Moved(session));
    }

    /// <summary>
    /// Where all units do not see the same rows, or a factor would be too large, MAC stands in and the report says why.
    /// </summary>
    [Fact]
    public void WhatAMethodCannotDoFallsBackByName()
    {
        var path = TinyModel.Wide(inputs: 5000).Save(_folder);
        var options = new RewriteOptions { Loss = LossKind.Mse, Optimizer = OptimizerKind.Foof };
        var (package, report) = Rewriter.Rewrite(path, options);
        var weight = report.Parameters.Single(p => p.Name == "w");
        Assert.Equal("MAC dense", weight.Treatment);
        Assert.Equal("MAC in place of FOOF: a factor would have 5,000 rows, more than 4,096.", weight.Reason);
        Assert.Empty(package.Manifest.HostRefreshes);
    }

    /// <summary>
    /// A packed weight has outputs of its own for each slice. With one sample dL/dy follows from the gradient and the
    /// input, and its mean square is its square.
    /// </summary>
    [Fact]
    public void SmacFindsTheGradientOfEachSlicesUnits()
    {
        var model = TinyModel.Sliced();
        var path = model.Save(_folder);
        var options = TinyModel.Options with { Optimizer = OptimizerKind.Smac };
        using var session = new MacTrainingSession(Rewriter.Rewrite(path, options).Package);
        using var data = model.Batch(1);
        session.TrainStep(data.Values);
        var gradient = session.Gradient("w").ToDouble();
        session.OptimizerStep();
        var z = session.GetState()["w.smac_z"].ToDouble();
        for (var unit = 0; unit < 4; unit++)
        {
            var input = unit < 2 ? Math.Tanh(data.X[0]) : data.X[0];
            Assert.Equal(Math.Pow(gradient[unit] / input, 2), z[unit], 1e-6);
        }

        var (_, report) = Rewriter.Rewrite(path, options with { Optimizer = OptimizerKind.Kfac });
        Assert.StartsWith(
            "MAC in place of K-FAC: its units do not all see the same input rows.",
            report.Parameters.Single(p => p.Name == "w").Reason,
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void ADampingTooSmallToInvertIsAnError()
    {
        var source = new float[] { 1, 2, 2, 1 };
        var inverse = new float[4];
        Assert.False(CholeskyInverse.Compute(source, inverse, 0.5));
        Assert.All(inverse, v => Assert.Equal(0, v));
    }

    /// <summary>Sizes below, at and above blocks, against the identity that defines an inverse.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(31)]
    [InlineData(32)]
    [InlineData(33)]
    [InlineData(200)]
    public void AnInverseTimesItsMatrixIsTheIdentity(int n)
    {
        var random = new Random(n);
        var rows = Enumerable
            .Range(0, n)
            .Select(_ => Enumerable.Range(0, n).Select(_ => random.NextSingle()).ToArray());
        var r = rows.ToArray();
        var source = new float[n * n];
        for (var i = 0; i < n * n; i++)
        {
            source[i] = r[i / n].Zip(r[i % n], (a, b) => a * b).Sum() / n;
        }

        var inverse = new float[n * n];
        Assert.True(CholeskyInverse.Compute(source, inverse, 0.1));
        for (var i = 0; i < n; i++)
        {
            for (var j = 0; j < n; j++)
            {
                var dot = Enumerable
                    .Range(0, n)
                    .Sum(k => (source[(i * n) + k] + (i == k ? 0.1 : 0)) * inverse[(k * n) + j]);

                // The elements of the inverse, up to 10, are rounded to float32 and multiplied with up to n / 4.
                Assert.Equal(i == j ? 1 : 0, dot, 1e-4);
            }
        }
    }

    private static RewriteOptions Options(CurvatureKind curvature, UpdateKind update) =>
        new()
        {
            Curvature = curvature,
            Update = update,
            Hyperparameters = new()
            {
                LearningRate = update == UpdateKind.Momentum ? 0.05f : 0.01f,
                WeightDecay = 0.1f,
                Damping = 0.5f,
                StatDecay = 0.9f,
                StatEvery = 2,
                RefreshEvery = 3,
            },
        };

    private MacTrainingSession Session(RewriteOptions options) =>
        new(Rewriter.Rewrite(ReferenceNetwork.Save(_folder), options).Package);

    private static float TrainStep(MacTrainingSession session, float[][] x, long[] labels)
    {
        var feeds = ReferenceNetwork.Feeds(x, labels);
        var loss = session.TrainStep(feeds, x.Length);
        Array.ForEach(feeds, f => f.Dispose());
        return loss;
    }

    /// <summary>The same run in double precision.</summary>
    private sealed class Run(RewriteOptions options, MacTrainingSession session)
    {
        private readonly Dictionary<string, double[]> _parameters = session.Package.Manifest.Trained.ToDictionary(
            n => n,
            n => session.GetState()[n].ToDouble()
        );

        private readonly ReferenceOptimizer _optimizer = new(options, heads: ["head.w"]);

        public double Step(float[][] x, long[] labels)
        {
            var (loss, layers) = ReferenceNetwork.Run(_parameters, x, labels);
            _optimizer.Step(_parameters, layers, count: labels.Length);
            return loss;
        }

        public void AssertEqual(MacTrainingSession other, int step)
        {
            var state = other.GetState();
            foreach (var (name, expected) in _parameters)
            {
                var worst = expected.Zip(state[name].ToDouble(), (a, b) => Math.Abs(a - b)).Max();
                Assert.True(worst <= Tolerance, $"step {step}, {name}: off by {worst}");
            }
        }
    }
}
