using MacOnnx.GraphRewriter;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>Losses and gradients of exported PyTorch models against what autograd computes in float64.</summary>
public sealed class PyTorchTests
{
    public static TheoryData<string, string> Cases
    {
        get
        {
            var root = Path.Combine(Repository.Root, "..", "shared", "pytorch-models");
            return Directory.Exists(root)
                ? [.. from found in AutogradFixture.Find(root) select (Path.GetFileName(found.Folder), found.File)]
                : [("none", "none")];
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void GradientsMatchAutograd(string model, string file)
    {
        var fixture = new AutogradFixture(Path.Combine(Shared.Folder("pytorch-models"), model), file);
        var (package, report) = Rewriter.Rewrite(fixture.Model, fixture.Options);
        Assert.Empty(report.OperatorsWithoutGradient);
        using var session = new MacTrainingSession(package, o => o.IntraOpNumThreads = 1);
        Check(twice: false);
        if (
            fixture.IsDynamic
            && !package.Manifest.Buffers.Any(b => b.Name.EndsWith("/batch_mean", StringComparison.Ordinal))
        )
        {
            // Without batch statistics, the batch twice over has the same mean loss and gradients.
            Check(twice: true);
        }

        void Check(bool twice)
        {
            var (loss, errors) = fixture.Step(session, twice);
            Assert.Equal(fixture.Loss, loss, 1e-5 * Math.Max(1, Math.Abs(loss)));
            Assert.All(
                errors,
                e =>
                    Assert.True(
                        e.Value <= fixture.Allowed.Worst,
                        $"{e.Key}: relative error {e.Value:g3}, at most {fixture.Allowed.Worst:g3} allowed."
                    )
            );
            var median = errors.Values.Order().ElementAt(errors.Count / 2);
            Assert.True(
                median <= fixture.Allowed.Median,
                $"median error {median:g3}, at most {fixture.Allowed.Median:g3} allowed."
            );
        }
    }
}
