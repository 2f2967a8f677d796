using MacOnnx.GraphRewriter.Tests.Gradients;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>What training computes of recurrent operators is what ONNX Runtime's own kernels compute.</summary>
public sealed class RecurrentTests
{
    public static TheoryData<string> Cases =>
        [
            .. GradientCases
                .All.Where(c => c.Value.Op is "RNN" or "GRU" or "LSTM")
                .Where(c => !c.Value.Attributes.Any(a => a.Name == "layout"))
                .Select(c => c.Key),
        ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void ForwardPassIsThatOfTheOperator(string name)
    {
        var row = GradientCases.All[name] with { Type = ElementType.Float };
        var found = GradientCheck.OutputsOf(row, isTraining: true);
        var expected = GradientCheck.OutputsOf(row, isTraining: false);
        Assert.Equal(expected.Length, found.Length);
        foreach (var (a, b) in expected.Zip(found))
        {
            Assert.Equal(a.Dims, b.Dims);

            // A few float32 operations on numbers below 2; ONNX Runtime's sigmoid and tanh are polynomials.
            Assert.All(a.ToDouble().Zip(b.ToDouble()), p => Assert.Equal(p.First, p.Second, 1e-5));
        }
    }

    /// <summary>
    /// ONNX Runtime does not compute tensors that have the batch first: the same with the time first does.
    /// </summary>
    [Fact]
    public void BatchMayComeFirst()
    {
        var row = GradientCases.All.Values.Single(c => c.Attributes.Any(a => a.Name == "layout"));
        var found = GradientCheck.OutputsOf(row with { Type = ElementType.Float }, isTraining: true);
        Assert.Equal([3, 4, 2, 2], found[0].Dims);
        Assert.Equal([3, 2, 2], found[1].Dims);

        // The last state of the second direction is its output at the first step.
        var (y, last) = (found[0].ToDouble(), found[1].ToDouble());
        Assert.Equal(y[2..4], last[2..4]);
    }
}
