using System.Collections.Immutable;

namespace MacOnnx.Runtime.Comparisons;

/// <summary>A run of a comparison.</summary>
/// <param name="LearningRate">Its learning rate.</param>
/// <param name="Damping">Its damping; null where the method has none.</param>
/// <param name="Seed">Its seed.</param>
/// <param name="TrainingLoss">
/// The training loss at its end, see <see cref="LossCurve"/>; null where the run diverged.
/// </param>
/// <param name="Validation">
/// The evaluation after it; null where it diverged or was not evaluated.
/// </param>
public sealed record ComparisonRun(
    float LearningRate,
    float? Damping,
    ulong Seed,
    double? TrainingLoss,
    Evaluation? Validation
)
{
    /// <summary>Gets whether loss, gradients or weights were not finite at the end.</summary>
    public bool HasDiverged => TrainingLoss is null;

    internal double Loss(SelectionKind selection) =>
        (selection == SelectionKind.Validation ? Validation?.Loss : TrainingLoss) ?? double.PositiveInfinity;
}

/// <summary>A number over the final runs of a method.</summary>
/// <param name="Mean">The mean.</param>
/// <param name="Deviation">The standard deviation of a sample; null for one run.</param>
public readonly record struct Spread(double Mean, double? Deviation)
{
    internal static Spread? Of(IReadOnlyCollection<double?> values)
    {
        if (values.Count == 0 || values.Any(v => v is null))
        {
            return null;
        }

        var mean = values.Average()!.Value;
        return new(
            mean,
            values.Count > 1 ? Math.Sqrt(values.Sum(v => Math.Pow(v!.Value - mean, 2)) / (values.Count - 1)) : null
        );
    }
}

/// <summary>When a method's training loss is down to a loss of the reference method.</summary>
/// <param name="Step">The step, from 1.</param>
/// <param name="Seconds">
/// The time of so many steps, by the method's <see cref="MethodResult.StepMilliseconds"/>.
/// </param>
public readonly record struct Reached(long Step, double Seconds);

/// <summary>What came of one method.</summary>
public sealed record MethodResult
{
    /// <summary>Gets the method's name.</summary>
    public required string Name { get; init; }

    /// <summary>Gets the bytes that the optimizer keeps beside the parameters.</summary>
    public required long StateBytes { get; init; }

    /// <summary>
    /// Gets the time of a step: of several rounds, in which the methods take turns, the median of a step's mean time.
    /// A round is as long as preconditioners are kept.
    /// </summary>
    public required double StepMilliseconds { get; init; }

    /// <summary>Gets the runs of the search: those that seek the learning rate, then those that seek damping.</summary>
    public required ImmutableArray<ComparisonRun> Search { get; init; }

    /// <summary>Gets the best run of the search; null where all diverged.</summary>
    public ComparisonRun? Best { get; init; }

    /// <summary>Gets whether the best learning rate is the first or last of those searched.</summary>
    public bool IsAtEndOfRates { get; init; }

    /// <summary>Gets the final runs, with the best run's learning rate and damping; none where all diverged.</summary>
    public required ImmutableArray<ComparisonRun> Final { get; init; }

    /// <summary>Gets the training losses by step; null where a final run diverged.</summary>
    public LossCurve? Curve { get; init; }

    /// <summary>Gets the training loss at the end of the final runs; null where one diverged.</summary>
    public Spread? TrainingLoss => Spread.Of([.. Final.Select(r => r.TrainingLoss)]);

    /// <summary>Gets the validation loss after the final runs; null where one diverged, or without such data.</summary>
    public Spread? ValidationLoss => Spread.Of([.. Final.Select(r => r.Validation?.Loss)]);

    /// <summary>Gets the accuracy after the final runs, from 0 to 1; null as the loss, or without classes.</summary>
    public Spread? Accuracy => Spread.Of([.. Final.Select(r => r.Validation?.Accuracy)]);

    /// <summary>Gets when the loss is down to the reference method's at its end; null where it never is.</summary>
    public Reached? AtFinalLoss { get; init; }

    /// <summary>Gets when the loss is down to the reference method's at half of its run; null where it never
    /// is.</summary>
    public Reached? AtHalfLoss { get; init; }
}

/// <summary>What a comparison came to.</summary>
/// <param name="Reference">The name of the method that the others are measured by.</param>
/// <param name="Steps">The steps of a final run.</param>
/// <param name="SearchSteps">The steps of a run of the search.</param>
/// <param name="Selection">Which loss decided the search.</param>
/// <param name="Samples">The samples trained on.</param>
/// <param name="ValidationSamples">The samples for validation; null without validation data.</param>
/// <param name="Methods">The methods in their order.</param>
public sealed record ComparisonResult(
    string Reference,
    long Steps,
    long SearchSteps,
    SelectionKind Selection,
    long Samples,
    long? ValidationSamples,
    ImmutableArray<MethodResult> Methods
);

/// <summary>What a comparison reports after every step, and once more after every run.</summary>
/// <param name="Method">The method.</param>
/// <param name="Run">The run, from 1, of all runs of the comparison.</param>
/// <param name="Runs">All runs of the comparison.</param>
/// <param name="Step">The step, from 1.</param>
/// <param name="Steps">The steps of this run.</param>
/// <param name="Loss">The loss of the step.</param>
/// <param name="Finished">The run that has just ended, or was found in the folder; null after a step.</param>
public readonly record struct ComparisonProgress(
    string Method,
    int Run,
    int Runs,
    long Step,
    long Steps,
    float Loss,
    ComparisonRun? Finished
);
