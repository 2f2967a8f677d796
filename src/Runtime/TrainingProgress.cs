namespace MacOnnx.Runtime;

/// <summary>What an evaluation over a data set gives.</summary>
/// <param name="Loss">The mean loss.</param>
/// <param name="Accuracy">The part of right answers, from 0 to 1; null for losses without classes.</param>
/// <param name="Samples">The samples evaluated.</param>
public sealed record Evaluation(double Loss, double? Accuracy, long Samples);

/// <summary>What an epoch came to.</summary>
/// <param name="Epoch">The epoch, from 1.</param>
/// <param name="Step">The step that it ended with.</param>
/// <param name="Loss">The mean loss of its steps, each before its update; NaN where no step had a finite one.</param>
/// <param name="Validation">The evaluation after it; null without validation data.</param>
public sealed record EpochResult(long Epoch, long Step, double Loss, Evaluation? Validation);

/// <summary>What a trainer reports after every step, and once more after every epoch.</summary>
/// <param name="Step">The step, from 1; skipped ones count.</param>
/// <param name="TotalSteps">The steps that the run will have.</param>
/// <param name="Epoch">The epoch, from 1.</param>
/// <param name="Loss">The loss before the update; with accumulation the mean of the step's batches, weighted by their
/// samples.</param>
/// <param name="LearningRate">The learning rate of the step.</param>
/// <param name="GradientNorm">The l2 norm of the gradients of the step's last batch.</param>
/// <param name="Skipped">Whether nothing was updated, because the loss or a gradient was not finite.</param>
/// <param name="Finished">The epoch that has just ended; null after a step.</param>
public readonly record struct TrainingProgress(
    long Step,
    long TotalSteps,
    long Epoch,
    float Loss,
    float LearningRate,
    float GradientNorm,
    bool Skipped,
    EpochResult? Finished
)
{
    /// <summary>
    /// Gets what the preconditioner of each layer did; empty in steps that did not measure it.
    /// </summary>
    public IReadOnlyList<LayerDiagnostics> Layers { get; init; } = [];

    /// <summary>
    /// Gets something that the user should know, one sentence or two, such as that a damaged checkpoint was passed
    /// over; the other values are then those of the step before.
    /// </summary>
    public string? Note { get; init; }
}

/// <summary>How a run ended.</summary>
/// <param name="Step">The last step.</param>
/// <param name="Loss">The last step's loss, before its update; NaN where the run took no step.</param>
/// <param name="Validation">The last evaluation; null without validation data.</param>
/// <param name="BestAccuracy">The best accuracy after any epoch of this run, from 0 to 1; null without one.</param>
/// <param name="Checkpoint">The last checkpoint's file; null without an output folder.</param>
/// <param name="WasCancelled">Whether the run was cancelled: the checkpoint is complete, and it can be resumed.</param>
public sealed record TrainingResult(
    long Step,
    float Loss,
    Evaluation? Validation,
    double? BestAccuracy,
    string? Checkpoint,
    bool WasCancelled
)
{
    /// <summary>
    /// Gets the number of this run's steps that were skipped, because the loss or a gradient was not finite.
    /// </summary>
    public long SkippedSteps { get; init; }
}
