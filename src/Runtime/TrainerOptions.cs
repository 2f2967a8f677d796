using System.Text.Json.Serialization;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.Runtime;

/// <summary>How a <see cref="Trainer"/> trains. The defaults are those of the command line.</summary>
public sealed record TrainerOptions
{
    /// <summary>
    /// Gets the number of passes over the data; null for no limit, where <see cref="MaxSteps"/> is one.
    /// </summary>
    public long? Epochs { get; init; } = 10;

    /// <summary>Gets the largest number of steps; null for no limit.</summary>
    public long? MaxSteps { get; init; }

    /// <summary>Gets the samples of a batch; 0 passes every array as it is, one step an epoch.</summary>
    public int BatchSize { get; init; } = 64;

    /// <summary>Gets the tokens of a sample, where the data were cut from one stream of them; else null. It is kept
    /// here for runs to go on with
    /// the same samples: <see cref="Data.Dataset.FromTokens"/> does the cutting.</summary>
    public long? Context { get; init; }

    /// <summary>Gets whether every epoch has an order of its own.</summary>
    public bool Shuffle { get; init; } = true;

    /// <summary>Gets the seed of the orders, and of the samples that are split off for validation.</summary>
    public ulong Seed { get; init; }

    /// <summary>Gets the batches of one step, 1 or more; an epoch's last step takes what is left.</summary>
    public int AccumulationSteps { get; init; } = 1;

    /// <summary>Gets the steps from one checkpoint to the next; 0 for one at the end only.</summary>
    public long SaveEvery { get; init; }

    /// <summary>Gets how the learning rate changes.</summary>
    public ScheduleKind Schedule { get; init; }

    /// <summary>
    /// Gets the steps of the schedule; null for all steps of the run (a third of them for
    /// <see cref="ScheduleKind.Step"/>).
    /// </summary>
    public long? ScheduleSteps { get; init; }

    /// <summary>Gets the steps over which the learning rate grows to its full value.</summary>
    public long WarmupSteps { get; init; }

    /// <summary>
    /// Gets the factor on the learning rate every <see cref="ScheduleSteps"/> of <see cref="ScheduleKind.Step"/>.
    /// </summary>
    public double ScheduleGamma { get; init; } = 0.1;

    /// <summary>
    /// Gets the part of the samples, 0 or more and less than 1, that is split off for validation where no data set for
    /// it is given.
    /// </summary>
    public double ValidationFraction { get; init; }

    /// <summary>Gets the steps without finite numbers, one after the other, after which training stops.</summary>
    public int MaxSkippedSteps { get; init; } = 10;

    /// <summary>Gets the folder for checkpoints and metrics; null for none.</summary>
    [JsonIgnore]
    public string? OutputFolder { get; init; }

    /// <summary>Checks that numbers are in their ranges.</summary>
    /// <exception cref="MacOnnxException">One is not (MAC0303); names its property.</exception>
    public void Check()
    {
        Require(Epochs is null or >= 1, nameof(Epochs), Epochs, "1 or more");
        Require(MaxSteps is null or >= 1, nameof(MaxSteps), MaxSteps, "1 or more");
        Require(
            Epochs is not null || MaxSteps is not null,
            nameof(Epochs),
            "no limit",
            $"1 or more, or limit the steps with {nameof(TrainerOptions)}.{nameof(MaxSteps)}"
        );
        Require(BatchSize >= 0, nameof(BatchSize), BatchSize, "1 or more, or 0 for all samples");
        Require(AccumulationSteps >= 1, nameof(AccumulationSteps), AccumulationSteps, "1 or more");
        Require(SaveEvery >= 0, nameof(SaveEvery), SaveEvery, "0 or more");
        Require(Enum.IsDefined(Schedule), nameof(Schedule), (int)Schedule, "a schedule");
        Require(ScheduleSteps is null or >= 1, nameof(ScheduleSteps), ScheduleSteps, "1 or more");
        Require(WarmupSteps >= 0, nameof(WarmupSteps), WarmupSteps, "0 or more");
        Require(
            ScheduleGamma > 0 && double.IsFinite(ScheduleGamma),
            nameof(ScheduleGamma),
            ScheduleGamma,
            "more than 0"
        );
        Require(
            ValidationFraction is >= 0 and < 1,
            nameof(ValidationFraction),
            ValidationFraction,
            "0 or more and less than 1"
        );
        Require(MaxSkippedSteps >= 1, nameof(MaxSkippedSteps), MaxSkippedSteps, "1 or more");

        static void Require(bool holds, string option, object? value, string range)
        {
            if (!holds)
            {
                throw new MacOnnxException(
                    "MAC0303",
                    $"{nameof(TrainerOptions)}.{option}",
                    FormattableString.Invariant($"{value} is out of range."),
                    $"Give a number of {range}."
                );
            }
        }
    }
}

[JsonSourceGenerationOptions(
    WriteIndented = true,
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    UseStringEnumConverter = true
)]
[JsonSerializable(typeof(TrainerOptions))]
internal sealed partial class TrainerJson : JsonSerializerContext;
