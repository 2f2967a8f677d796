using System.Diagnostics;
using System.Globalization;
using MacOnnx.Runtime.Comparisons;
using Spectre.Console;

namespace MacOnnx.Cli;

/// <summary>Shows how a comparison goes: a line a run, and on a terminal a progress bar below them.</summary>
internal sealed class CompareDisplay : IProgress<ComparisonProgress>, IDisposable
{
    private static readonly TimeSpan RefreshEvery = TimeSpan.FromMilliseconds(100);

    private readonly TextWriter _output;
    private readonly IAnsiConsole? _terminal;
    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private TimeSpan _shown;
    private ProgressTask? _bar;

    private CompareDisplay(TextWriter output, IAnsiConsole? terminal) => (_output, _terminal) = (output, terminal);

    /// <summary>Makes the display that fits where the output goes.</summary>
    public static CompareDisplay Create(TextWriter output, bool isQuiet) =>
        new(isQuiet ? TextWriter.Null : output, ProgressBar.Terminal(output, isQuiet));

    /// <summary>Compares with the progress bar shown.</summary>
    public ComparisonResult Run(Func<ComparisonResult> compare) =>
        ProgressBar.Run(_terminal, "timing steps", bar => _bar = bar, compare);

    /// <inheritdoc/>
    public void Report(ComparisonProgress value)
    {
        if (value.Finished is { } run)
        {
            string[] parts =
            [
                Invariant($"{value.Run, 3}/{value.Runs}"),
                value.Method,
                Invariant($"seed {run.Seed}"),
                Invariant($"rate {run.LearningRate:G3}"),
                run.Damping is { } damping ? Invariant($"damping {damping:G3}") : "",
                run.TrainingLoss is { } loss ? Invariant($"loss {loss:0.0000}") : "diverged",
                run.Validation is { } v ? $"validation {EvalCommand.Describe(v)}" : "",
                Invariant($"{_clock.Elapsed.TotalSeconds:0} s"),
            ];
            var line = string.Join("   ", parts.Where(p => p.Length > 0));
            if (_terminal is null)
            {
                _output.WriteLine(line);
            }
            else
            {
                _terminal.WriteLine(line);
            }
        }

        if (_bar is not null && _clock.Elapsed - _shown > RefreshEvery)
        {
            _shown = _clock.Elapsed;
            _bar.MaxValue = value.Runs;
            _bar.Value = value.Run - 1 + ((double)value.Step / value.Steps);
            _bar.Description =
                Markup.Escape(value.Method) + Invariant($"  step {value.Step}/{value.Steps}  loss {value.Loss:0.0000}");
        }
    }

    /// <summary>Shows the table, and where the rest is.</summary>
    public void Summary(ComparisonReport report, string folder)
    {
        _output.WriteLine();
        ReportView.Table(_output, [ComparisonReport.Head, .. report.Rows()]);
        _output.WriteLine();
        _output.WriteLine(report.Explanation);
        _output.WriteLine($"  page   {Path.Combine(folder, "results.html")}");
        _output.WriteLine($"  table  {Path.Combine(folder, "results.md")}");
    }

    /// <inheritdoc/>
    public void Dispose() => _bar?.StopTask();

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
