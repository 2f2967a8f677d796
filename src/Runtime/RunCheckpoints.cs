using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Checkpoints;

namespace MacOnnx.Runtime;

/// <summary>The checkpoints of a run in its folder: what it goes on from, and what it leaves.</summary>
/// <param name="run">The folder.</param>
/// <param name="session">The session that is trained.</param>
/// <param name="note">Tells the user of checkpoints that are passed over.</param>
internal sealed class RunCheckpoints(RunFolder run, MacTrainingSession session, Action<string> note) : IDisposable
{
    private IDisposable? _claim;

    /// <summary>Gets the step of the newest checkpoint that this run has read or written; 0 without one.</summary>
    public long Newest { get; private set; }

    /// <summary>Gets the file of the newest checkpoint that this run has read or written; null without one.</summary>
    public string? NewestFile => Newest > 0 ? run.Checkpoint(Newest) : null;

    /// <summary>Takes the folder for this process alone until this is disposed.</summary>
    /// <exception cref="MacOnnxException">Another process trains in it (MAC0704), or it cannot be written
    /// (MAC0401).</exception>
    public void Claim() => _claim ??= run.Claim();

    /// <summary>Loads the newest checkpoint that is good.</summary>
    /// <param name="options">The run's options now; those that decide on the batches must be as they were.</param>
    /// <returns>Where in the data the run was; null without a checkpoint.</returns>
    /// <exception cref="MacOnnxException">As <see cref="Trainer.Resume"/>.</exception>
    public DataPosition? Load(TrainerOptions options)
    {
        if (!Directory.Exists(run.Path))
        {
            return null;
        }

        Claim();
        if (run.Steps() is not { Count: > 0 } steps)
        {
            return null;
        }

        if (run.ReadOptions() is { } before)
        {
            RequireSameBatches(before, options);
        }

        var (step, checkpoint) = NewestGood(steps);
        var position = session.Load(checkpoint);
        if (session.MissingState is { } missing)
        {
            note($"The checkpoint of step {step} does not hold '{missing}': the optimizer's state starts afresh.");
        }

        Newest = step;
        return position;
    }

    /// <summary>Writes a checkpoint, unless the state holds numbers that are not finite.</summary>
    /// <param name="step">The step that has ended.</param>
    /// <param name="position">Where in the data the run is.</param>
    /// <param name="hyperparameters">The run's own, not this step's: the schedule starts from them when the run is
    /// resumed.</param>
    /// <returns>Whether the state is worth a checkpoint.</returns>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public bool Save(long step, DataPosition position, Hyperparameters hyperparameters)
    {
        if (!Checkpoint.HasFiniteNumbers(session.ViewState().Values))
        {
            return false;
        }

        var current = session.Hyperparameters;
        session.Hyperparameters = hyperparameters;
        session.SaveCheckpoint(run.Checkpoint(step), position);
        session.Hyperparameters = current;
        Newest = step;
        return true;
    }

    /// <summary>Gives the folder back.</summary>
    public void Dispose() => _claim?.Dispose();

    private void RequireSameBatches(TrainerOptions before, TrainerOptions now)
    {
        Same(before.BatchSize, now.BatchSize, nameof(TrainerOptions.BatchSize));
        Same(before.Context, now.Context, nameof(TrainerOptions.Context));
        Same(before.Shuffle, now.Shuffle, nameof(TrainerOptions.Shuffle));
        Same(before.Seed, now.Seed, nameof(TrainerOptions.Seed));
        Same(before.AccumulationSteps, now.AccumulationSteps, nameof(TrainerOptions.AccumulationSteps));
        Same(before.ValidationFraction, now.ValidationFraction, nameof(TrainerOptions.ValidationFraction));

        void Same<T>(T was, T now, string option)
        {
            if (!Equals(was, now))
            {
                var values = now is bool ? "" : FormattableString.Invariant($": {was}, not {now}");
                throw new MacOnnxException(
                    "MAC0702",
                    run.Path,
                    $"The run was started with another {nameof(TrainerOptions)}.{option}{values}.",
                    "Resume with the options that the run was started with."
                );
            }
        }
    }

    /// <summary>Reads the newest checkpoint that can be continued from.</summary>
    private (long Step, Checkpoint Checkpoint) NewestGood(IReadOnlyList<long> steps)
    {
        MacOnnxException? first = null;
        foreach (var step in steps)
        {
            try
            {
                var checkpoint = Checkpoint.Read(run.Checkpoint(step));
                if (checkpoint.IsFinite)
                {
                    if (first is not null)
                    {
                        note($"Continuing from step {step} instead.");
                    }

                    return (step, checkpoint);
                }

                throw new MacOnnxException(
                    "MAC0403",
                    run.Checkpoint(step),
                    "The checkpoint holds numbers that are not finite.",
                    "Use another one."
                );
            }
            catch (MacOnnxException e) when (e.Diagnostic.Id is "MAC0402" or "MAC0403" or "MAC0404")
            {
                first ??= e;
                note($"{e.Diagnostic.Where}: {e.Diagnostic.What}");
            }
        }

        throw first!;
    }
}
