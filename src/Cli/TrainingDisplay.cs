using System.Diagnostics;
using System.Globalization;
using MacOnnx.Runtime;
using Spectre.Console;

namespace MacOnnx.Cli;

/// <summary>Shows how training goes: a line an epoch, and on a terminal a progress bar below them.</summary>
internal sealed class TrainingDisplay : IProgress<TrainingProgress>, IDisposable
{
    private static readonly TimeSpan RefreshEvery = TimeSpan.FromMilliseconds(100);

    private readonly TextWriter _output;
    private readonly TextWriter _error;
    private readonly IAnsiConsole? _terminal;
    private readonly Stopwatch _clock = new();
    private ProgressTask? _bar;
    private TimeSpan _shown;
    private long _firstStep = -1;
    private string _metric = "";

    private TrainingDisplay(TextWriter output, TextWriter error, IAnsiConsole? terminal) =>
        (_output, _error, _terminal) = (output, error, terminal);

    /// <summary>Makes the display that fits where the output goes.</summary>
    /// <param name="output">The output.</param>
    /// <param name="error">Where notes go.</param>
    /// <param name="isQuiet">Whether to show nothing but notes.</param>
    public static TrainingDisplay Create(TextWriter output, TextWriter error, bool isQuiet) =>
        new(isQuiet ? TextWriter.Null : output, error, ProgressBar.Terminal(output, isQuiet));

    /// <summary>Shows a line of text.</summary>
    public void Line(string text) => _output.WriteLine(text);

    /// <summary>Shows what should not be overlooked.</summary>
    public void Note(string text) => _error.WriteLine($"note: {FlagNames.Apply(text).ReplaceLineEndings(" ")}");

    /// <summary>Trains with the progress bar shown.</summary>
    public TrainingResult Run(Func<TrainingResult> train)
    {
        _clock.Start();
        return ProgressBar.Run(_terminal, "starting", bar => _bar = bar, train);
    }

    private static string Padded(long number, int width) =>
        number.ToString(CultureInfo.InvariantCulture).PadLeft(width);

    /// <inheritdoc/>
    public void Report(TrainingProgress value)
    {
        if (value.Note is { } note)
        {
            Note(note);
            return;
        }

        if (_firstStep < 0)
        {
            _firstStep = value.Step - 1;
        }

        if (value.Finished is { } epoch)
        {
            _metric = epoch.Validation is { } v
                ? v.Accuracy is { } accuracy
                    ? $"  validation {EvalCommand.Percent(accuracy)}"
                    : Invariant($"  validation {v.Loss:0.0000}")
                : "";
            var validation = epoch.Validation is { } result ? $"   validation {EvalCommand.Describe(result)}" : "";
            var line = string.Create(
                CultureInfo.InvariantCulture,
                $"epoch {Padded(epoch.Epoch, 3)}   step {Padded(epoch.Step, 6)}   loss {epoch.Loss:0.0000}{validation}"
                    + $"   {_clock.Elapsed.TotalSeconds:0.0} s"
            );
            if (_terminal is null)
            {
                _output.WriteLine(line);
            }
            else
            {
                _terminal.WriteLine(line);
            }
        }

        if (_bar is not null && (_clock.Elapsed - _shown > RefreshEvery || value.Step == value.TotalSteps))
        {
            _shown = _clock.Elapsed;
            _bar.MaxValue = value.TotalSteps;
            _bar.Value = value.Step;
            _bar.Description = string.Create(
                CultureInfo.InvariantCulture,
                $"epoch {value.Epoch}  loss {value.Loss:0.0000}{_metric}  "
                    + $"{(value.Step - _firstStep) / _clock.Elapsed.TotalSeconds:0} steps/s"
            );
        }
    }

    /// <summary>Shows what came of the run, and where it is.</summary>
    public void Summary(TrainingResult result, RunFolder run)
    {
        Line(
            Invariant(
                $"{(result.WasCancelled ? "Stopped" : "Done")} after step {result.Step}: loss {result.Loss:0.0000}"
            )
                + (result.Validation is { } v ? $", validation {EvalCommand.Describe(v)}" : "")
                + (result.BestAccuracy is { } best ? $" (best {EvalCommand.Percent(best)})" : "")
                + "."
        );
        if (result.SkippedSteps > 0)
        {
            Line(
                $"{result.SkippedSteps} of the steps {(result.SkippedSteps == 1 ? "was" : "were")} skipped, "
                    + $"because the loss or a gradient was not a finite number: check the data and the learning "
                    + $"rate."
            );
        }

        if (!result.WasCancelled)
        {
            Line($"  model       {run.TrainedModel}");
        }

        Line($"  checkpoint  {result.Checkpoint}");
        Line($"  plot        {run.Plot}");
        if (File.Exists(run.LayerPlot))
        {
            Line($"  layers      {run.LayerPlot}");
        }

        if (result.WasCancelled)
        {
            Line($"Continue with --resume -o {run.Path}");
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _bar?.StopTask();

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
