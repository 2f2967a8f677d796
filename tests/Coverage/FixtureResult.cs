using System.Diagnostics;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime;
using MacOnnx.Runtime.Tests.Reference;

namespace MacOnnx.Coverage;

/// <summary>How the gradients of an exported PyTorch model compare with autograd's.</summary>
/// <param name="Model">The model's folder.</param>
/// <param name="File">The export.</param>
/// <param name="Nodes">The nodes of the model.</param>
/// <param name="Parameters">The parameters whose gradients autograd gives.</param>
/// <param name="Worst">The worst relative error of a parameter.</param>
/// <param name="Median">The median relative error.</param>
/// <param name="Allowed">The worst that is allowed.</param>
/// <param name="Seconds">The time of rewriting.</param>
/// <param name="Reason">Why it is not right; empty where it is.</param>
internal sealed record FixtureResult(
    string Model,
    string File,
    int Nodes,
    int Parameters,
    double? Worst,
    double? Median,
    double? Allowed,
    double Seconds,
    string Reason
)
{
    public static FixtureResult Of(string folder, string file)
    {
        var model = Path.GetFileName(folder);
        try
        {
            var fixture = new AutogradFixture(folder, file);
            var watch = Stopwatch.StartNew();
            var (package, report) = Rewriter.Rewrite(fixture.Model, fixture.Options);
            var seconds = watch.Elapsed.TotalSeconds;
            using var session = new MacTrainingSession(package, o => o.IntraOpNumThreads = 1);
            var (loss, errors) = fixture.Step(session, twice: false);
            var worst = errors.MaxBy(e => e.Value);
            var median = errors.Values.Order().ElementAt(errors.Count / 2);
            var reason =
                !(Math.Abs(loss - fixture.Loss) <= 1e-4 * Math.Max(1, Math.Abs(loss)))
                    ? $"the loss is {loss}, autograd's {fixture.Loss}"
                : double.IsInfinity(worst.Value) ? $"{worst.Key} is not trained"
                : !(worst.Value <= fixture.Allowed.Worst) || !(median <= fixture.Allowed.Median)
                    ? $"{worst.Key} is wrong"
                : "";
            return new(
                model,
                file,
                report.NodeCount,
                errors.Count,
                Finite(worst.Value),
                Finite(median),
                fixture.Allowed.Worst,
                seconds,
                reason
            );
        }
        catch (Exception e)
            when (e is MacOnnxException or KeyNotFoundException or InvalidOperationException or OutOfMemoryException)
        {
            return new(model, file, 0, 0, null, null, null, 0, e.Message);
        }
    }

    private static double? Finite(double value) => double.IsFinite(value) ? value : null;
}
