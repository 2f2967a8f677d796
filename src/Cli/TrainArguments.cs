using System.CommandLine;
using System.Globalization;
using MacOnnx.Runtime;

namespace MacOnnx.Cli;

/// <summary>The options that say how long and in which order to train.</summary>
internal sealed class TrainArguments
{
    private readonly Option<long?> _epochs = Options.Number<long>(
        "--epochs",
        "Passes over the data. Default 10, without limit if --max-steps is given.",
        "E"
    );
    private readonly Option<long?> _maxSteps = Options.Number<long>("--max-steps", "The largest number of steps.", "S");
    private readonly Option<int?> _batchSize = BatchSize();
    private readonly Option<bool> _noShuffle = Options.Switch(
        "--no-shuffle",
        "Take the samples in the order of the data."
    );
    private readonly Option<ulong?> _seed = Options.Number<ulong>(
        "--seed",
        "The seed of the order, and of the validation samples. Default 0.",
        "K"
    );
    private readonly Option<int?> _accumulate = Options.Number<int>("--accumulate", "Batches a step. Default 1.", "K");
    private readonly Option<long?> _saveEvery = Options.Number<long>(
        "--save-every",
        "Steps from one checkpoint to the next. There is always one at the end.",
        "K"
    );
    private readonly Option<ScheduleKind?> _schedule = Options.Choice(
        "--schedule",
        "How the learning rate changes. Default constant.",
        ("constant", ScheduleKind.Constant),
        ("cosine", ScheduleKind.Cosine),
        ("linear", ScheduleKind.Linear),
        ("step", ScheduleKind.Step)
    );

    private readonly Option<long?> _scheduleSteps = Options.Number<long>(
        "--schedule-steps",
        "Steps until cosine and linear reach zero (default all steps of the run), or between two falls of "
            + "step (default a third of them).",
        "S"
    );
    private readonly Option<long?> _warmupSteps = Options.Number<long>(
        "--warmup-steps",
        "Steps over which the learning rate grows to its full value. Default 0.",
        "W"
    );
    private readonly Option<double?> _scheduleGamma = Options.Number<double>(
        "--schedule-gamma",
        "The factor at each fall of the schedule step. Default 0.1.",
        "G"
    );
    private readonly Option<double?> _validationSplit = Options.Number<double>(
        "--validation-split",
        "The part of the samples kept for validation. Default 0.1 for .csv and .txt, else 0; of tokens it is the end.",
        "F"
    );

    /// <summary>
    /// Initializes a new instance of the <see cref="TrainArguments"/> class and adds the options to a command.
    /// </summary>
    public TrainArguments(Command command)
    {
        foreach (
            var option in new Option[]
            {
                _epochs,
                _maxSteps,
                _batchSize,
                _noShuffle,
                _seed,
                _accumulate,
                _saveEvery,
                _schedule,
                _scheduleSteps,
                _warmupSteps,
                _scheduleGamma,
                _validationSplit,
            }
        )
        {
            command.Add(option);
        }
    }

    /// <summary>Makes the option <c>--batch-size</c>; its value is 0 for <c>all</c>.</summary>
    public static Option<int?> BatchSize() =>
        Options.Parsed<int>(
            "--batch-size",
            "Samples a batch; all: every array as it is, one step an epoch. Default what the model fixes, else 64.",
            "N|all",
            "a number of 1 or more, or 'all'",
            text =>
                text == "all" ? 0
                : int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var size) && size > 0 ? size
                : null
        );

    /// <summary>Gives the options that were given, over the others.</summary>
    public TrainerOptions Apply(ParseResult parsed, TrainerOptions others)
    {
        var maxSteps = parsed.GetValue(_maxSteps);
        return others with
        {
            Epochs = parsed.GetValue(_epochs) ?? (maxSteps is null ? others.Epochs : null),
            MaxSteps = maxSteps ?? (parsed.GetValue(_epochs) is null ? others.MaxSteps : null),
            BatchSize = parsed.GetValue(_batchSize) ?? others.BatchSize,
            Shuffle = !parsed.GetValue(_noShuffle) && others.Shuffle,
            Seed = parsed.GetValue(_seed) ?? others.Seed,
            AccumulationSteps = parsed.GetValue(_accumulate) ?? others.AccumulationSteps,
            SaveEvery = parsed.GetValue(_saveEvery) ?? others.SaveEvery,
            Schedule = parsed.GetValue(_schedule) ?? others.Schedule,
            ScheduleSteps = parsed.GetValue(_scheduleSteps) ?? others.ScheduleSteps,
            WarmupSteps = parsed.GetValue(_warmupSteps) ?? others.WarmupSteps,
            ScheduleGamma = parsed.GetValue(_scheduleGamma) ?? others.ScheduleGamma,
            ValidationFraction = parsed.GetValue(_validationSplit) ?? others.ValidationFraction,
        };
    }
}
