using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.Runtime.Comparisons;

/// <summary>One of the methods of a comparison.</summary>
/// <param name="Name">What tables and files call it.</param>
/// <param name="Package">
/// The model, rewritten with the method's optimizer. Its hyper-parameters are the middle of the search.
/// </param>
public sealed record ComparisonMethod(string Name, TrainingPackage Package);

/// <summary>Which loss decides a search.</summary>
public enum SelectionKind
{
    /// <summary>The loss of the validation data after the run.</summary>
    Validation,

    /// <summary>The training loss at the end of the run, see <see cref="LossCurve"/>.</summary>
    Training,
}

/// <summary>How a <see cref="Comparison"/> compares. The defaults are those of the command line.</summary>
public sealed record ComparisonOptions
{
    /// <summary>Gets the steps of a run; null for as many as fit in the <see cref="Budget"/>.</summary>
    public long? Steps { get; init; } = 1000;

    /// <summary>
    /// Gets the time that the whole comparison may take, about, where <see cref="Steps"/> is null.
    /// </summary>
    public TimeSpan? Budget { get; init; }

    /// <summary>Gets the steps of a run of the search; null for as many as a final run has.</summary>
    public long? SearchSteps { get; init; }

    /// <summary>
    /// Gets the runs of each method's search, 1 or more. A method with damping spends a third of them on it.
    /// </summary>
    public int Trials { get; init; } = 7;

    /// <summary>Gets the final runs of each method, 1 or more.</summary>
    public int Seeds { get; init; } = 3;

    /// <summary>
    /// Gets how far the search goes from a method's own learning rate: from the rate divided by this to the rate times
    /// it. More than 1.
    /// </summary>
    public double RateRange { get; init; } = 10;

    /// <summary>Gets how far the search goes from a method's own damping, as <see cref="RateRange"/>.</summary>
    public double DampingRange { get; init; } = 10;

    /// <summary>Gets which loss decides the search; null for that of validation data where there are some.</summary>
    public SelectionKind? Selection { get; init; }

    /// <summary>
    /// Gets the name of the method that the others are measured by; null for the first that is AdamW, else the first.
    /// </summary>
    public string? Reference { get; init; }

    /// <summary>
    /// Gets how every run trains: batches, schedule, warm-up. Its seed is that of the search and of the samples that
    /// are split off; the final runs have the seeds that follow. Lengths and output folder have no effect.
    /// </summary>
    public TrainerOptions Training { get; init; } = new() { Schedule = ScheduleKind.Cosine };

    /// <summary>Gets the folder that keeps every finished run; null for none.</summary>
    public string? OutputFolder { get; init; }

    /// <summary>Checks that numbers are in their ranges.</summary>
    /// <exception cref="MacOnnxException">One is not (MAC0303); names its property.</exception>
    public void Check()
    {
        Training.Check();
        Require(Steps is null or >= 1, nameof(Steps), Steps, "1 or more");
        Require(SearchSteps is null or >= 1, nameof(SearchSteps), SearchSteps, "1 or more");
        Require(Trials >= 1, nameof(Trials), Trials, "1 or more");
        Require(Seeds >= 1, nameof(Seeds), Seeds, "1 or more");
        Require(RateRange > 1 && double.IsFinite(RateRange), nameof(RateRange), RateRange, "more than 1");
        Require(DampingRange > 1 && double.IsFinite(DampingRange), nameof(DampingRange), DampingRange, "more than 1");
        Require(Steps is not null || Budget > TimeSpan.Zero, nameof(Budget), Budget, "more than no time, or steps");

        static void Require(bool holds, string option, object? value, string range)
        {
            if (!holds)
            {
                throw new MacOnnxException(
                    "MAC0303",
                    $"{nameof(ComparisonOptions)}.{option}",
                    FormattableString.Invariant($"{value ?? "none"} is out of range."),
                    $"Give {range}."
                );
            }
        }
    }
}
