using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Data;
using MacOnnx.Runtime.Tests.Support;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>
/// Right gradients pass the check, and each kind of wrong one is found, in the parameter that has it.
/// </summary>
public sealed class GradientCheckTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>Of dense layers, convolutions with batch normalization and pooling, and attention.</summary>
    [Theory]
    [InlineData("digits-mlp", 6, true)]
    [InlineData("digits-cnn", 10, false)]
    [InlineData("vit-fashion", 44, true)]
    public void ShippedModelsAreRight(string model, int parameters, bool comparesLosses)
    {
        var package = Rewriter.Rewrite(Path.Combine(Repository.Root, "models", $"{model}.onnx")).Package;
        var result = Check(package, (name, s) => s.Gradient(name).ToDouble());
        Assert.Equal(parameters, result.Parameters.Length);
        Assert.All(result.Parameters, p => Assert.True(p.IsRight, $"{p}"));
        Assert.Equal(comparesLosses, result.EvaluationLoss is not null);
        Assert.True(result.IsRight);
    }

    /// <summary>
    /// A factor of 1.25, a missing quarter and reversed rows are errors of 20 % and more of the gradient. Tolerance,
    /// rounding and the change with the step allow 3 % + 6 % + about as much together.
    /// </summary>
    [Theory]
    [InlineData("fc1.weight", "scale")]
    [InlineData("fc1.weight", "sign")]
    [InlineData("fc1.weight", "quarter")]
    [InlineData("fc1.weight", "zero")]
    [InlineData("fc2.weight", "reverse")]
    [InlineData("fc3.bias", "scale")]
    [InlineData("fc3.bias", "nan")]
    public void AWrongGradientIsFound(string wrong, string fault)
    {
        var result = Check(
            Digits.Package,
            (name, s) =>
            {
                var g = s.Gradient(name).ToDouble();
                return name != wrong
                    ? g
                    : fault switch
                    {
                        "scale" => [.. g.Select(v => 1.5 * v)],
                        "sign" => [.. g.Select(v => -v)],
                        "quarter" => [.. g.Select((v, i) => 4 * i < g.Length ? 0 : v)],
                        "zero" => new double[g.Length],
                        "reverse" => [.. g.Reverse()],
                        _ => [.. g.Select(_ => double.NaN)],
                    };
            }
        );
        Assert.False(result.IsRight);
        Assert.Equal(wrong, result.Parameters[0].Name);
        Assert.Equal([wrong], result.Parameters.Where(p => !p.IsRight).Select(p => p.Name));
    }

    /// <summary>A branch of an If drops the same in both directions, and whenever it is taken in one step.</summary>
    [Fact]
    public void DropoutInABranchKeepsItsMask()
    {
        var package = Rewriter.Rewrite(TinyModel.BranchDropout().Save(_folder), TinyModel.Options).Package;
        var result = Check(package, (name, s) => s.Gradient(name).ToDouble());
        Assert.True(Assert.Single(result.Parameters).IsRight, $"{result.Parameters[0]}");
    }

    /// <summary>Masks are a function of seed and step, so the check sees the same in every loss.</summary>
    [Fact]
    public void DropoutKeepsItsMask()
    {
        var model = TinyModel.Dense("w", "y", dropout: true);
        var package = Rewriter.Rewrite(model.Save(_folder), TinyModel.Options).Package;
        var result = Check(package, (name, s) => s.Gradient(name).ToDouble());
        Assert.True(result.IsRight, $"{result.Parameters[0]}");
        Assert.Null(result.EvaluationLoss);
    }

    [Fact]
    public void TheSessionIsLeftAsItWas()
    {
        using var session = Digits.Session();
        var before = Digits.Bits(session);
        using var loader = new BatchLoader(RandomBatch.Make(session.Package.Manifest), 0, false, 0);
        Assert.True(GradientCheck.Run(session, First(loader), 0, TestContext.Current.CancellationToken).IsRight);
        Assert.Equal(before, Digits.Bits(session));
        Assert.Throws<InvalidOperationException>(() => session.OptimizerStep());
    }

    [Fact]
    public void StateIsSetWholeOrNotAtAll()
    {
        var session = Digits.Session();
        var before = Digits.Bits(session);
        var bias = session.GetState()["fc3.bias"];
        var ones = Tensor.From<float>(bias.Dims.AsSpan(), [.. Enumerable.Repeat(1f, (int)bias.ElementCount)]);
        foreach (
            var (name, tensor) in new[]
            {
                ("fc1.bias", ones),
                ("fc9.bias", ones),
                ("fc1.bias", Tensor.From<double>([1], [1])),
            }
        )
        {
            var state = new Dictionary<string, Tensor> { ["fc3.bias"] = ones, [name] = tensor };
            Assert.Contains(
                name,
                Assert.Throws<ArgumentException>(() => session.SetState(state)).Message,
                StringComparison.Ordinal
            );
            Assert.Equal(before, Digits.Bits(session));
        }

        session.SetState(new Dictionary<string, Tensor> { ["fc3.bias"] = ones });
        Assert.Equal(ones.ToDouble(), session.GetState()["fc3.bias"].ToDouble());
        session.Dispose();
        Assert.Throws<ObjectDisposedException>(() => session.SetState(new Dictionary<string, Tensor>()));
    }

    private static IReadOnlyList<OrtValue> First(BatchLoader loader) =>
        loader.Epoch(0, 0, TestContext.Current.CancellationToken).First().Values;

    private static GradientCheckResult Check(
        TrainingPackage package,
        Func<string, MacTrainingSession, double[]> gradient
    )
    {
        using var session = Digits.Session(package);
        using var loader = new BatchLoader(RandomBatch.Make(package.Manifest), 0, shuffle: false, seed: 0);
        return GradientCheck.Run(session, First(loader), 0, gradient, TestContext.Current.CancellationToken);
    }
}
