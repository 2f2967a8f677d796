using System.Runtime.CompilerServices;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.Runtime.Kernels;
using MacOnnx.Runtime.Tests.Examples;
using MacOnnx.Runtime.Tests.Support;

namespace MacOnnx.Runtime.Tests.Kernels;

/// <summary>Operators that a user adds: a row for the rewriter and a kernel for ONNX Runtime.</summary>
public class AddedOperatorTests
{
    /// <summary>Kernels are added before the process's first session.</summary>
    [ModuleInitializer]
    internal static void AddSwirl() => Swirl.Add();

    /// <summary>One step of SGD on Y = Swirl(X W), against the formula in double precision.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AModelWithAnOperatorOfItsOwnTrains(bool useKernels)
    {
        using var folder = new TempFolder();
        var model = TinyModel.Swirl();
        var (package, _) = Rewriter.Rewrite(
            model.Save(folder),
            TinyModel.Options with
            {
                Optimizer = OptimizerKind.Sgd,
                ConfigureSession = KernelRegistry.AddTo,
            }
        );
        using var session = new MacTrainingSession(package, useKernels ? null : KernelRegistry.AddTo, useKernels);
        using var batch = model.Batch(4);
        var w = package.Weights["w"].ToDouble();
        session.TrainStep(batch.Values);
        session.OptimizerStep();
        var after = session.GetState()["w"].ToDouble();
        for (var j = 0; j < w.Length; j++)
        {
            var gradient = 0.0;
            for (var s = 0; s < 4; s++)
            {
                var (unit, input) = (j % 2, j / 2);
                var h = Enumerable.Range(0, 3).Sum(i => batch.X[(s * 3) + i] * w[(i * 2) + unit]);
                var error = (h * Math.Sin(h)) - batch.Target[(s * 2) + unit];
                gradient += 2 * error / 8 * (Math.Sin(h) + (h * Math.Cos(h))) * batch.X[(s * 3) + input];
            }

            // A step of 0.05 times a gradient of about 1 in single precision.
            Assert.Equal(w[j] - (0.05 * gradient), after[j], 1e-6);
        }
    }

    [Fact]
    public void WithoutTheKernelTheMessageNamesTheOperator()
    {
        using var folder = new TempFolder();
        var path = TinyModel.Swirl().Save(folder);
        var error = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path, TinyModel.Options));
        Assert.Equal("MAC0013", error.Diagnostic.Id);
        Assert.Contains("com.example::Swirl", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TheTableListsTheOperator() =>
        Assert.Contains(
            Rewriter.Operators,
            o => o is { Domain: "com.example", Name: "Swirl", Gradient: OperatorGradient.Yes }
        );

    [Theory]
    [InlineData("Swirl", "com.example")]
    [InlineData("Relu", "")]
    [InlineData("Other", FunctionCall.Domain)]
    public void NobodysOperatorIsReplaced(string name, string domain)
    {
        Assert.Throws<ArgumentException>(() => Rewriter.Add(new OpRule(name, null, domain)));
        Assert.Throws<ArgumentException>(() =>
            KernelRegistry.Add(new OperatorSignature(name, ["X"], ["X"], domain), _ => new Swirl())
        );
    }

    [Fact]
    public void EveryKernelHasItsSignature() =>
        Assert.Equal(
            FunctionSignatures.All.Keys.Order(StringComparer.Ordinal),
            KernelRegistry.Entries.Select(e => e.Signature.Name).Order(StringComparer.Ordinal)
        );
}
