using System.Diagnostics;
using MacOnnx.GraphRewriter;
using MacOnnx.Runtime;

namespace MacOnnx.Coverage;

/// <summary>What a model costs before its first step. Times are processor times of the whole process.</summary>
/// <param name="Model">The model.</param>
/// <param name="Nodes">Its nodes.</param>
/// <param name="FileMegabytes">The size of its file, without external data.</param>
/// <param name="RewriteSeconds">Rewriting, to a folder.</param>
/// <param name="PeakMegabytes">The largest resident memory until it is rewritten, the .NET runtime's included.</param>
/// <param name="SessionSeconds">Loading the folder and making the session.</param>
internal sealed record SizeResult(
    string Model,
    int Nodes,
    double FileMegabytes,
    double RewriteSeconds,
    double PeakMegabytes,
    double SessionSeconds
)
{
    private const double Mega = 1 << 20;

    public static SizeResult Of(string path, string output)
    {
        var start = Processor();
        var (package, report) = Rewriter.Rewrite(path, new() { Loss = LossKind.Mse });
        package.Save(output);
        var rewritten = Processor();
        var peak = Process.GetCurrentProcess().PeakWorkingSet64;
        using var session = new MacTrainingSession(TrainingPackage.Load(output), o => o.IntraOpNumThreads = 1);
        return new(
            Path.GetFileName(path),
            report.NodeCount,
            new FileInfo(path).Length / Mega,
            rewritten - start,
            peak / Mega,
            Processor() - rewritten
        );
    }

    private static double Processor() => Process.GetCurrentProcess().TotalProcessorTime.TotalSeconds;
}
