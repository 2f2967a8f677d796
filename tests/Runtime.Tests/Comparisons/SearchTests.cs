using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Comparisons;

namespace MacOnnx.Runtime.Tests.Comparisons;

/// <summary>What a search tries, and how losses are read off a run.</summary>
public sealed class SearchTests
{
    [Fact]
    public void RatesAreAtEqualRatiosAroundTheMiddle()
    {
        Assert.Equal([0.5f], SearchGrid.Rates(0.5f, 10, 1));
        Assert.Equal([0.1f, 1], SearchGrid.Rates(0.1f, 10, 2));
        Assert.Equal([0.01f, 0.1f, 1], SearchGrid.Rates(0.1f, 10, 3));
        Assert.Equal([0.001f, 0.0032f, 0.01f, 0.032f, 0.1f], SearchGrid.Rates(0.01f, 10, 5));
    }

    [Fact]
    public void AThirdOfTheTrialsIsForDamping()
    {
        Assert.Equal([0, 0, 1, 1, 2, 3], new[] { 1, 2, 3, 5, 7, 9 }.Select(t => SearchGrid.DampingTrials(t, true)));
        Assert.Equal(0, SearchGrid.DampingTrials(9, false));
        Assert.Empty(SearchGrid.Dampings(1, 10, 0));
        Assert.Equal([0.1f], SearchGrid.Dampings(1, 10, 1));
        Assert.Equal([0.01f, 1], SearchGrid.Dampings(0.1f, 10, 2));
        Assert.Equal([0.1f, 0.32f, 10], SearchGrid.Dampings(1, 10, 3));
    }

    /// <summary>A rolling sum of doubles and a sum of each window differ by rounding: some 1e-15 of values near
    /// 1.</summary>
    [Fact]
    public void TheLossIsTheMeanOfATenthOfTheRun()
    {
        var losses = Enumerable.Range(0, 40).Select(i => 1 + (i * 7 % 11 / 10f)).ToArray();
        losses[20] = float.NaN;
        var smooth = LossCurve.Smooth(losses);
        for (var i = 0; i < losses.Length; i++)
        {
            var window = losses[Math.Max(0, i - 3)..(i + 1)].Where(float.IsFinite);
            Assert.Equal(window.Average(l => (double)l), smooth[i], 1e-12);
        }

        Assert.Equal([double.PositiveInfinity, 2], LossCurve.Smooth([float.NaN, 2]));
    }

    [Fact]
    public void ACurveIsReachedWhereItsMeanIs()
    {
        var curve = LossCurve.Of([
            [4, 3, 2],
            [2, 2, 1],
        ]);
        Assert.Equal([3, 2.5, 1.5], curve.Mean);
        Assert.Equal([2, 2, 1], curve.Least);
        Assert.Equal([4, 3, 2], curve.Most);
        Assert.Equal([1, 2, 3, null], new[] { 3, 2.5, 2, 1 }.Select(curve.FirstAt));
    }

    public static TheoryData<string, ComparisonOptions> OutOfRange =>
        new()
        {
            {
                "Steps",
                new() { Steps = 0 }
            },
            {
                "Budget",
                new() { Steps = null }
            },
            {
                "SearchSteps",
                new() { SearchSteps = 0 }
            },
            {
                "Trials",
                new() { Trials = 0 }
            },
            {
                "Seeds",
                new() { Seeds = 0 }
            },
            {
                "RateRange",
                new() { RateRange = 1 }
            },
            {
                "DampingRange",
                new() { DampingRange = double.NaN }
            },
        };

    [Theory]
    [MemberData(nameof(OutOfRange))]
    public void OptionsOutOfRangeAreNamed(string property, ComparisonOptions options) =>
        Assert.Equal($"ComparisonOptions.{property}", Assert.Throws<MacOnnxException>(options.Check).Diagnostic.Where);
}
