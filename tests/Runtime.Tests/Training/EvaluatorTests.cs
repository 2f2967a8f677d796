using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Data;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>Means over a data set do not depend on how it is cut into batches.</summary>
public sealed class EvaluatorTests
{
    [Theory]
    [InlineData(64)]
    [InlineData(1000)]
    public void BatchesCountByTheirLabels(int batchSize)
    {
        // Whole batches of ignored labels, and some more.
        var labels = Digits.Data["labels"].Span<long>().ToArray();
        for (var i = 0; i < labels.Length; i++)
        {
            labels[i] = i < 200 || i % 3 == 0 ? -100 : labels[i];
        }

        var data = new Dataset(
            "digits",
            Digits.Data.Specs,
            new Dictionary<string, Tensor>
            {
                ["input"] = Digits.Data["input"],
                ["labels"] = Tensor.From<long>([labels.Length], labels),
            }
        );
        using var session = Digits.Session();
        using var whole = new Evaluator(session, data, 0);
        using var batches = new Evaluator(session, data, batchSize);
        var (expected, found) = (
            whole.Run(TestContext.Current.CancellationToken),
            batches.Run(TestContext.Current.CancellationToken)
        );
        Assert.Equal(expected.Loss, found.Loss, 1e-6); // Float32 sums of 1797 losses near 2.
        Assert.Equal(expected.Accuracy!.Value, found.Accuracy!.Value, 1e-12);
        Assert.Equal(1797, found.Samples);
    }

    [Fact]
    public void AClassThatIsIgnoredCountsLikeNoClass()
    {
        var labels = Digits.Data["labels"].Span<long>().ToArray();
        var without = labels.Select(l => l == 3 ? -100 : l).ToArray();
        var (package, _) = Rewriter.Rewrite(
            Path.Combine(Repository.Root, "models", "digits-mlp.onnx"),
            new RewriteOptions { IgnoreIndex = 3 }
        );
        using var ignoring = Digits.Session(package);
        using var session = Digits.Session();
        Assert.Equal(Run(session, without), Run(ignoring, labels));

        static (float Loss, float Norm, Evaluation Result) Run(MacTrainingSession session, long[] labels)
        {
            var data = new Dataset(
                "digits",
                Digits.Data.Specs,
                new Dictionary<string, Tensor>
                {
                    ["input"] = Digits.Data["input"],
                    ["labels"] = Tensor.From<long>([labels.Length], labels),
                }
            );
            using var batches = new BatchLoader(data, 0, shuffle: false, seed: 0);
            var loss = session.TrainStep(batches.Epoch(0).Single().Values);
            using var evaluator = new Evaluator(session, data, 0);
            return (loss, session.GradientNorm, evaluator.Run(TestContext.Current.CancellationToken));
        }
    }
}
