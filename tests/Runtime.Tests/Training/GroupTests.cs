using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Tests.Reference;
using MacOnnx.Runtime.Tests.Support;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>Parameter groups, the decay of rates by layers, and the moving average of the weights.</summary>
public sealed class GroupTests : IDisposable
{
    /// <summary>Float32 rounding over twelve steps.</summary>
    private const double Tolerance = 2e-5;

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>A schedule of the rate acts on groups too; a weight and its bias may be of different groups.</summary>
    [Theory]
    [InlineData(UpdateKind.Momentum)]
    [InlineData(UpdateKind.AdamW)]
    [InlineData(UpdateKind.Muon)]
    public void AGroupHasItsOwnHyperparameters(UpdateKind update)
    {
        var options = Options(update) with
        {
            Groups =
            [
                new("w$", new Dictionary<string, string> { ["momentum"] = "0.5" }),
                new(
                    @"^conv\.w$",
                    new Dictionary<string, string>
                    {
                        ["learning_rate"] = "0.1 * learning_rate",
                        ["weight_decay"] = "0",
                        ["beta2"] = "0.9 * beta2",
                    }
                ),
            ],
        };
        Follow(
            options,
            (name, rates) =>
            {
                rates = name.EndsWith('w') ? rates with { Momentum = 0.5f } : rates;
                return name == "conv.w"
                    ? rates with
                    {
                        LearningRate = 0.1f * rates.LearningRate,
                        WeightDecay = 0,
                        Beta2 = 0.9f * rates.Beta2,
                    }
                    : rates;
            }
        );
    }

    [Fact]
    public void RatesDecayWithTheDistanceFromTheLoss() =>
        Follow(
            Options(UpdateKind.AdamW) with
            {
                LayerDecay = 0.5f,
            },
            (name, rates) =>
                rates with
                {
                    LearningRate =
                        rates.LearningRate
                        * (
                            name[0] == 'c' ? 0.25f
                            : name[0] == 't' ? 0.5f
                            : 1
                        ),
                }
        );

    /// <summary>e' = d e + (1 - d) theta' from zero, over the weight that it then carries.</summary>
    [Fact]
    public void TheAverageOfTheWeightsIsUnbiased()
    {
        var options = Options(UpdateKind.Momentum);
        options = options with { Hyperparameters = options.Hyperparameters with { Ema = 0.8f } };
        using var session = new MacTrainingSession(Rewriter.Rewrite(ReferenceNetwork.Save(_folder), options).Package);
        var first = session.Package.AveragedWeights(session.GetState());
        Assert.Equal(session.Package.Weights["conv.w"].ToDouble(), first["conv.w"].ToDouble());
        var (sum, weight) = (new double[24], 0.0);
        for (var step = 0; step < 12; step++)
        {
            Step(session, step);
            var now = session.GetState()["conv.w"].ToDouble();
            sum = [.. sum.Zip(now, (s, t) => (0.8 * s) + (0.2 * t))];
            weight = (0.8 * weight) + 0.2;
        }

        var found = session.Package.AveragedWeights(session.GetState())["conv.w"].ToDouble();
        Assert.All(sum.Zip(found), p => Assert.Equal(p.First / weight, p.Second, 1e-6));
        Assert.NotEqual(session.GetState()["conv.w"].ToDouble(), found);
        session.SetState(session.Package.AveragedWeights(session.GetState()));
        Assert.Equal(found, session.GetState()["conv.w"].ToDouble());
    }

    [Fact]
    public void APackageWithoutAnAverageSaysSo()
    {
        var package = Rewriter.Rewrite(ReferenceNetwork.Save(_folder), Options(UpdateKind.Momentum)).Package;
        var e = Assert.Throws<MacOnnxException>(() => package.AveragedWeights(package.Weights));
        Assert.Equal("MAC0304", e.Diagnostic.Id);
    }

    [Theory]
    [InlineData("^nothing$", "learning_rate", "0.1", "MAC0303")]
    [InlineData("conv", "damping", "0.1", "MAC0303")]
    [InlineData("conv", "learning_rate", "0.1 *", "MAC0303")]
    [InlineData("conv", "learning_rate", "-1", "MAC0303")]
    [InlineData("conv", "learning_rate", "0.1 * step", "MAC0303")]
    [InlineData("(", "learning_rate", "0.1", "MAC0301")]
    public void AGroupThatCannotBeIsRefused(string pattern, string name, string formula, string id)
    {
        var options = Options(UpdateKind.Momentum) with
        {
            Groups = [new(pattern, new Dictionary<string, string> { [name] = formula })],
        };
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(ReferenceNetwork.Save(_folder), options));
        Assert.Equal(id, e.Diagnostic.Id);
    }

    private static RewriteOptions Options(UpdateKind update) =>
        new()
        {
            Curvature = CurvatureKind.Mac,
            Update = update,
            Hyperparameters = new()
            {
                LearningRate = update == UpdateKind.Momentum ? 0.05f : 0.01f,
                WeightDecay = 0.1f,
                StatEvery = 2,
                RefreshEvery = 3,
            },
        };

    private static void Step(MacTrainingSession session, int seed)
    {
        var (x, labels) = ReferenceNetwork.Samples(4, seed);
        var feeds = ReferenceNetwork.Feeds(x, labels);
        session.TrainStep(feeds, x.Length);
        Array.ForEach(feeds, f => f.Dispose());
        Assert.True(session.OptimizerStep());
    }

    /// <summary>Twelve steps, the rate lower from the seventh on, equal those in double precision.</summary>
    private void Follow(RewriteOptions options, Func<string, Hyperparameters, Hyperparameters> own)
    {
        using var session = new MacTrainingSession(Rewriter.Rewrite(ReferenceNetwork.Save(_folder), options).Package);
        var rates = session.Hyperparameters;
        var parameters = session.Package.Manifest.Trained.ToDictionary(n => n, n => session.GetState()[n].ToDouble());
        var reference = new ReferenceOptimizer(options, heads: ["head.w"], name => own(name, rates));
        for (var step = 0; step < 12; step++)
        {
            session.Hyperparameters = rates =
                step == 6 ? rates with { LearningRate = 0.5f * rates.LearningRate } : rates;
            Step(session, step);
            var (x, labels) = ReferenceNetwork.Samples(4, step);
            reference.Step(parameters, ReferenceNetwork.Run(parameters, x, labels).Layers, labels.Length);
            foreach (var (name, expected) in parameters)
            {
                var worst = expected.Zip(session.GetState()[name].ToDouble(), (a, b) => Math.Abs(a - b)).Max();
                Assert.True(worst <= Tolerance, $"step {step}, {name}: off by {worst}");
            }
        }
    }
}
