using System.CommandLine;
using System.Globalization;
using MacOnnx.Runtime;

namespace MacOnnx.Cli;

/// <summary>The options that say how a run trains: batches, order, schedule.</summary>
internal sealed class TrainArguments
{
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
    private readonly Option<ScheduleKind?> _schedule = Options.Choice(
        "--schedule",
        "How the learning rate changes. Default constant; of compare, cosine.",
        ("constant", ScheduleKind.Constant),
        ("cosine", ScheduleKind.Cosine),
        ("linear", ScheduleKind.Linear),
        ("step", ScheduleKind.Step)
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
                _batchSize,
                _noShuffle,
                _seed,
                _accumulate,
                _schedule,
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
    public TrainerOptions Apply(ParseResult parsed, TrainerOptions others) =>
        others with
        {
            BatchSize = parsed.GetValue(_batchSize) ?? others.BatchSize,
            Shuffle = !parsed.GetValue(_noShuffle) && others.Shuffle,
            Seed = parsed.GetValue(_seed) ?? others.Seed,
            AccumulationSteps = parsed.GetValue(_accumulate) ?? others.AccumulationSteps,
            Schedule = parsed.GetValue(_schedule) ?? others.Schedule,
            WarmupSteps = parsed.GetValue(_warmupSteps) ?? others.WarmupSteps,
            ScheduleGamma = parsed.GetValue(_scheduleGamma) ?? others.ScheduleGamma,
            ValidationFraction = parsed.GetValue(_validationSplit) ?? others.ValidationFraction,
        };
}
