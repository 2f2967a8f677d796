using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.Runtime.Tests.Support;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>What preconditioners do in each layer, against its formulas in double precision.</summary>
public sealed class LayerDiagnosticsTests : IDisposable
{
    /// <summary>Float32 rounding of sums over a few dozen products; a wrong mean or norm is off by a tenth.</summary>
    private const double Tolerance = 1e-5;

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(UpdateKind.Momentum)]
    [InlineData(UpdateKind.AdamW)]
    public void StepsThatRefreshMeasureEachLayer(UpdateKind update)
    {
        const double Damping = 0.3;
        using var session = Session(CurvatureKind.Mac, update, diagnostics: true);
        session.Hyperparameters = session.Hyperparameters with { Damping = (float)Damping };
        for (var step = 0; step < 5; step++)
        {
            var before = session.GetState().ToDictionary(s => s.Key, s => s.Value.ToDouble());
            var (x, labels) = ReferenceNetwork.Samples(step == 2 ? 7 : 4, seed: step);
            Step(session, x, labels);
            if (step % 2 == 1)
            {
                Assert.Empty(session.Diagnostics);
                continue;
            }

            var (_, layers) = ReferenceNetwork.Run(before, x, labels);
            Assert.Equal(
                layers.Select(l => l.Weight).Order(StringComparer.Ordinal),
                session.Diagnostics.Select(d => d.Layer)
            );
            foreach (var layer in layers)
            {
                var found = session.Diagnostics.Single(d => d.Layer == layer.Weight);
                double[][] rows = [.. layer.Inputs.Select(r => layer.Bias is null ? r : r[..^1])];
                var mean = Enumerable.Range(0, rows[0].Length).Select(i => rows.Average(r => r[i]));
                Assert.Equal(Square(mean) / rows.Average(Square), found.MeanShare, Tolerance);

                var after = session.GetState();
                double[] p = [.. after[$"{layer.Weight}.mac_p"].ToDouble(), .. layer.Bias is null ? [] : new[] { 1.0 }];
                Assert.Equal(Square(p) / (Damping + Square(p)), found.Shrinkage, Tolerance);

                double[][] gradient =
                [
                    .. Enumerable
                        .Range(0, layer.Gradients[0].Length)
                        .Select(o =>
                            Enumerable
                                .Range(0, p.Length)
                                .Select(i => layer.Inputs.Zip(layer.Gradients).Sum(r => r.First[i] * r.Second[o]))
                                .ToArray()
                        ),
                ];
                var along = gradient.Select(g => g.Zip(p).Sum(z => z.First * z.Second));
                Assert.Equal(Math.Sqrt(Square(along) / gradient.Sum(Square) / Square(p)), found.Cosine, Tolerance);

                var weight = before[layer.Weight];
                var moved = after[layer.Weight].ToDouble().Zip(weight).Select(w => w.First - w.Second);
                Assert.Equal(Math.Sqrt(Square(moved) / Square(weight)), found.Update, Tolerance);
            }
        }
    }

    /// <summary>Accumulated batches measure what their joined batch does, but for the means' squares.</summary>
    [Fact]
    public void AccumulatedBatchesAreMeasuredTogether()
    {
        using var joined = Session(CurvatureKind.Mac, UpdateKind.Momentum, diagnostics: true);
        using var parts = Session(CurvatureKind.Mac, UpdateKind.Momentum, diagnostics: true);
        var (x, labels) = ReferenceNetwork.Samples(7, seed: 1);
        Step(joined, x, labels);
        Train(parts, x[..3], labels[..3]);
        Step(parts, x[3..], labels[3..]);
        foreach (var (a, b) in joined.Diagnostics.Zip(parts.Diagnostics))
        {
            Assert.Equal(a.Cosine, b.Cosine, Tolerance);
            Assert.Equal(a.Update, b.Update, Tolerance);
            Assert.InRange(b.MeanShare, a.MeanShare, 1);
        }
    }

    /// <summary>Methods without one direction measure the mean's share and the update alone.</summary>
    [Theory]
    [InlineData(CurvatureKind.Kfac)]
    [InlineData(CurvatureKind.Eva)]
    public void WhatAMethodDoesNotHaveIsNaN(CurvatureKind curvature)
    {
        using var session = Session(curvature, UpdateKind.Momentum, diagnostics: true);
        var (x, labels) = ReferenceNetwork.Samples(4, seed: 1);
        Step(session, x, labels);
        Assert.Equal(3, session.Diagnostics.Count);
        Assert.All(
            session.Diagnostics,
            d => Assert.Equal((true, true, true), (d.MeanShare is > 0 and < 1, float.IsNaN(d.Shrinkage), d.Update > 0))
        );
    }

    [Fact]
    public void WithoutTheOptionThereIsNoGraph()
    {
        using var session = Session(CurvatureKind.Mac, UpdateKind.Momentum, diagnostics: false);
        Assert.True(session.Package.Model(PackageFiles.Diagnostics).IsEmpty);
        var (x, labels) = ReferenceNetwork.Samples(4, seed: 1);
        Step(session, x, labels);
        Assert.Empty(session.Diagnostics);
    }

    /// <summary>Measuring changes no bit of what is trained.</summary>
    [Fact]
    public void MeasuringChangesNothing()
    {
        using var measured = Session(CurvatureKind.Mac, UpdateKind.Momentum, diagnostics: true);
        using var plain = Session(CurvatureKind.Mac, UpdateKind.Momentum, diagnostics: false);
        for (var step = 0; step < 4; step++)
        {
            var (x, labels) = ReferenceNetwork.Samples(4, seed: step);
            Step(measured, x, labels);
            Step(plain, x, labels);
        }

        var state = measured.GetState();
        Assert.All(plain.GetState(), s => Assert.True(s.Value.Data.Span.SequenceEqual(state[s.Key].Data.Span), s.Key));
    }

    private MacTrainingSession Session(CurvatureKind curvature, UpdateKind update, bool diagnostics) =>
        new(
            Rewriter
                .Rewrite(
                    ReferenceNetwork.Save(_folder),
                    new()
                    {
                        Curvature = curvature,
                        Update = update,
                        Diagnostics = diagnostics,
                        Hyperparameters = new()
                        {
                            LearningRate = 0.05f,
                            StatEvery = 1,
                            RefreshEvery = 2,
                        },
                    }
                )
                .Package
        );

    private static void Step(MacTrainingSession session, float[][] x, long[] labels)
    {
        Train(session, x, labels);
        Assert.True(session.OptimizerStep());
    }

    private static void Train(MacTrainingSession session, float[][] x, long[] labels)
    {
        var feeds = ReferenceNetwork.Feeds(x, labels);
        session.TrainStep(feeds, x.Length);
        Array.ForEach(feeds, f => f.Dispose());
    }

    private static double Square(IEnumerable<double> values) => values.Sum(v => v * v);
}
