using System.CommandLine;
using MacOnnx.Runtime;

namespace MacOnnx.Cli;

/// <summary>The options that say how long a run is, and when it saves.</summary>
internal sealed class RunLengthArguments
{
    private readonly Option<long?> _epochs = Options.Number<long>(
        "--epochs",
        "Passes over the data. Default 10, without limit if --max-steps is given.",
        "E"
    );
    private readonly Option<long?> _maxSteps = Options.Number<long>("--max-steps", "The largest number of steps.", "S");
    private readonly Option<long?> _saveEvery = Options.Number<long>(
        "--save-every",
        "Steps from one checkpoint to the next. There is always one at the end.",
        "K"
    );
    private readonly Option<long?> _scheduleSteps = Options.Number<long>(
        "--schedule-steps",
        "Steps until cosine and linear reach zero (default all steps of the run), or between two falls of "
            + "step (default a third of them).",
        "S"
    );

    /// <summary>
    /// Initializes a new instance of the <see cref="RunLengthArguments"/> class and adds the options to a command.
    /// </summary>
    public RunLengthArguments(Command command)
    {
        foreach (var option in new Option[] { _epochs, _maxSteps, _saveEvery, _scheduleSteps })
        {
            command.Add(option);
        }
    }

    /// <summary>Gives the options that were given, over the others.</summary>
    public TrainerOptions Apply(ParseResult parsed, TrainerOptions others)
    {
        var maxSteps = parsed.GetValue(_maxSteps);
        return others with
        {
            Epochs = parsed.GetValue(_epochs) ?? (maxSteps is null ? others.Epochs : null),
            MaxSteps = maxSteps ?? (parsed.GetValue(_epochs) is null ? others.MaxSteps : null),
            SaveEvery = parsed.GetValue(_saveEvery) ?? others.SaveEvery,
            ScheduleSteps = parsed.GetValue(_scheduleSteps) ?? others.ScheduleSteps,
        };
    }
}
