using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Checkpoints;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime;

/// <summary>Trains a session over a data set: epochs, schedule, validation, checkpoints, metrics.</summary>
/// <remarks>
/// A step is one update by <see cref="TrainerOptions.AccumulationSteps"/> batches; steps count from 1, those that are
/// skipped for numbers that are
/// not finite too, so that a step's number always says where in the data it is. The checkpoint of step N holds the
/// weights after its update. It
/// also holds the place in the data, so that a resumed run ends with the same bits as one that was never interrupted.
/// Owns the batches' native buffers: dispose it. Not thread-safe: a call during another one is an
/// <see cref="InvalidOperationException"/>.
/// </remarks>
public sealed class Trainer : IDisposable
{
    private readonly Gate _gate;
    private readonly MacTrainingSession _session;
    private readonly IBatchSource _data;
    private readonly BatchLoader? _owned;
    private readonly Evaluator? _evaluator;
    private readonly TrainerOptions _options;
    private readonly IProgress<TrainingProgress>? _progress;
    private readonly RunFolder? _run;
    private readonly RunCheckpoints? _checkpoints;
    private readonly RunMetrics _metrics = new();
    private DataPosition _position;
    private Hyperparameters _hyperparameters = new();
    private LearningRateSchedule _schedule = new(ScheduleKind.Constant, 1);
    private long _totalSteps;
    private int _skippedInARow;
    private long _skipped;
    private bool _isResumed;
    private TrainingProgress _last;

    /// <summary>Initializes a new instance of the <see cref="Trainer"/> class for data in memory.</summary>
    /// <param name="session">The session; its hyper-parameters are those of the run, which schedules the learning
    /// rate.</param>
    /// <param name="data">The data to train on.</param>
    /// <param name="options">How to train.</param>
    /// <param name="validation">The data to evaluate on after every epoch; null to split off
    /// <see cref="TrainerOptions.ValidationFraction"/>.</param>
    /// <param name="progress">Receives every step and epoch, on the thread that trains.</param>
    /// <exception cref="MacOnnxException">An option or a label is out of range, or the data do not fit the
    /// model.</exception>
    public Trainer(
        MacTrainingSession session,
        Dataset data,
        TrainerOptions options,
        Dataset? validation = null,
        IProgress<TrainingProgress>? progress = null
    )
    {
        ArgumentNullException.ThrowIfNull(session);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        data.CheckLabels(session.Package.Manifest);
        if (validation is null && options.ValidationFraction > 0)
        {
            (data, validation) = data.Split(options.ValidationFraction, options.Seed);
        }

        (_session, _options, Validation, _progress, _gate) = (session, options, validation, progress, new(this));
        _data = _owned = new BatchLoader(data, options.BatchSize, options.Shuffle, options.Seed);
        try
        {
            _evaluator = validation is null ? null : new Evaluator(session, validation, options.BatchSize);
        }
        catch
        {
            _owned.Dispose();
            throw;
        }

        (_run, _checkpoints) = Begin();
    }

    /// <summary>Initializes a new instance of the <see cref="Trainer"/> class for batches of any source.</summary>
    /// <param name="session">The session; its hyper-parameters are those of the run, which schedules the learning
    /// rate.</param>
    /// <param name="data">The batches to train on; labels must be classes of the model.</param>
    /// <param name="options">How to train. What makes batches of data in memory is of no effect: batch size, order,
    /// context and the part for validation.</param>
    /// <param name="validation">The batches to evaluate on after every epoch; null for none.</param>
    /// <param name="progress">Receives every step and epoch, on the thread that trains.</param>
    /// <exception cref="MacOnnxException">An option is out of range.</exception>
    public Trainer(
        MacTrainingSession session,
        IBatchSource data,
        TrainerOptions options,
        IBatchSource? validation = null,
        IProgress<TrainingProgress>? progress = null
    )
    {
        ArgumentNullException.ThrowIfNull(session);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        (_session, _data, _options, _progress, _gate) = (session, data, options, progress, new(this));
        _evaluator = validation is null ? null : new Evaluator(session, validation);
        (_run, _checkpoints) = Begin();
    }

    /// <summary>Gets the data in memory that are evaluated on; null for none.</summary>
    public Dataset? Validation { get; }

    /// <summary>Gets the number of steps, skipped ones included.</summary>
    public long Step { get; private set; }

    /// <summary>
    /// Goes back to the newest checkpoint of the output folder, hyper-parameters included. One that is damaged, or
    /// whose numbers are not finite, is passed over with a <see cref="TrainingProgress.Note"/>. Without a checkpoint
    /// the run begins at its start.
    /// </summary>
    /// <returns>Whether there was a checkpoint.</returns>
    /// <exception cref="MacOnnxException">Another process trains in the folder (MAC0704), all checkpoints are damaged
    /// (MAC0402 to MAC0404) or the newest is of another model (MAC0406), or an option differs that decides on the
    /// batches (MAC0702).</exception>
    public bool Resume()
    {
        using var pass = _gate.Enter();
        _isResumed = true;
        if (_checkpoints?.Load(_options) is not { } position)
        {
            return false;
        }

        (_position, Step) = (position, _checkpoints.Newest);
        return true;
    }

    /// <summary>
    /// Checks that a run can begin, and takes the output folder for this trainer alone until it is disposed;
    /// <see cref="Run"/> does so too.
    /// </summary>
    /// <exception cref="MacOnnxException">The output folder holds a run that is not resumed (MAC0701), another process
    /// trains in it (MAC0704), or a hyper-parameter is out of range (MAC0303).</exception>
    public void Check()
    {
        using var pass = _gate.Enter();
        RequireStart();
    }

    /// <summary>Trains until the last epoch or step, or until cancelled, and saves a checkpoint then.</summary>
    /// <param name="cancellationToken">Finishes the current step, saves a checkpoint and ends the run.</param>
    /// <exception cref="MacOnnxException">As <see cref="Check"/>, or a file cannot be written (MAC0401), ONNX Runtime
    /// stopped (MAC0501), loss, gradients or weights are without finite numbers (MAC0503), or the source gave no batch
    /// (MAC0608).</exception>
    public TrainingResult Run(CancellationToken cancellationToken = default)
    {
        using var pass = _gate.Enter();
        RequireStart();
        _hyperparameters = _session.Hyperparameters;
        Plan(_data.BatchesPerEpoch);
        if (_session.NeedsFirstLayer)
        {
            _session.ComputeFirstLayer(
                _data.Epoch(0, 0, CancellationToken.None).Select(b => (b.Values, (double)b.Samples))
            );
        }

        try
        {
            if (_run is not null)
            {
                _run.WriteOptions(_options);
                _metrics.Open(_run, Step, _position);
            }

            _last = new(Step, _totalSteps, _position.Epoch + 1, _metrics.LastLoss, 0, 0, false, null);
            return Train(cancellationToken);
        }
        finally
        {
            _session.Hyperparameters = _hyperparameters;
            _metrics.Dispose();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_gate.Close())
        {
            _owned?.Dispose();
            _evaluator?.Dispose();
            _checkpoints?.Dispose();
        }
    }

    private (RunFolder? Run, RunCheckpoints? Checkpoints) Begin()
    {
        _session.Seed = _options.Seed;
        _position = new(0, 0, _options.Seed);
        var run = _options.OutputFolder is { } folder ? new RunFolder(folder) : null;
        return (run, run is null ? null : new RunCheckpoints(run, _session, Note));
    }

    private void RequireStart()
    {
        Rewriter.Check(_session.Package.Manifest.Options with { Hyperparameters = _session.Hyperparameters });
        if (_run is not null && !_isResumed && (_run.NewestStep() is not null || File.Exists(_run.Metrics)))
        {
            throw new MacOnnxException(
                "MAC0701",
                _run.Path,
                "The folder holds a run already.",
                "Resume it, or choose another output folder."
            );
        }

        _checkpoints?.Claim();
    }

    private void Note(string text) => _progress?.Report(_last with { Finished = null, Note = text });

    private TrainingResult Train(CancellationToken cancellationToken)
    {
        var (validation, first) = ((Evaluation?)null, Step);
        while (
            _position.Epoch < (_options.Epochs ?? long.MaxValue)
            && RunEpoch(cancellationToken)
            && !cancellationToken.IsCancellationRequested
        )
        {
            try
            {
                validation = _evaluator?.Run(cancellationToken);
            }
            catch (OperationCanceledException)
            {
                break;
            }

            var epoch = _metrics.EndEpoch(_position.Epoch + 1, Step, validation);
            Tell(() => _metrics.Add(epoch));
            _position = _position with { Epoch = _position.Epoch + 1, Batch = 0 };
            Tell(() => _progress?.Report(_last with { Finished = epoch }));
        }

        var isCancelled = cancellationToken.IsCancellationRequested && Step < _totalSteps;
        if (!isCancelled && Step > first && _skipped == Step - first)
        {
            StopWithoutNumbers(); // a short run that changed nothing did not succeed
        }

        if (_checkpoints?.Newest != Step && !Save() && !isCancelled)
        {
            throw NotFinite("the weights hold numbers that are not finite");
        }

        if (!isCancelled && (validation is null || _position.Batch > 0))
        {
            // The limit of steps was met within an epoch, or nothing was left to do.
            validation = _evaluator?.Run(CancellationToken.None);
            _metrics.KeepBest(validation?.Accuracy);
        }

        return new(Step, _metrics.LastLoss, validation, _metrics.BestAccuracy, _checkpoints?.NewestFile, isCancelled)
        {
            SkippedSteps = _skipped,
        };
    }

    /// <summary>Trains what is left of an epoch.</summary>
    /// <returns>Whether it is complete: neither was the limit of steps met before its end, nor was the run
    /// cancelled.</returns>
    private bool RunEpoch(CancellationToken cancellationToken)
    {
        var (sum, weight, batches) = (0.0, 0.0, 0);
        foreach (var batch in _data.Epoch(_position.Epoch, _position.Batch, CancellationToken.None))
        {
            if (batches == 0)
            {
                if (Step >= _totalSteps || cancellationToken.IsCancellationRequested)
                {
                    return false;
                }

                _session.Hyperparameters = _hyperparameters with
                {
                    LearningRate = (float)(_hyperparameters.LearningRate * _schedule.Factor(Step)),
                };
            }

            var loss = _session.TrainStep(batch.Values, batch.Samples);
            var counted = _session.LossCount ?? batch.Samples;
            (sum, weight) = (sum + ((double)loss * counted), weight + counted);
            _position = _position with { Batch = batch.Index + 1 };
            if (++batches == _options.AccumulationSteps)
            {
                Update(weight > 0 ? (float)(sum / weight) : 0);
                (sum, weight, batches) = (0, 0, 0);
            }
        }

        if (batches > 0)
        {
            Update(weight > 0 ? (float)(sum / weight) : 0);
        }

        return _position.Batch > 0
            ? true
            : throw new MacOnnxException(
                "MAC0608",
                $"epoch {_position.Epoch + 1}",
                "The source gave no batch.",
                "Give one batch or more in every epoch."
            );
    }

    private void Update(float loss)
    {
        var (rate, norm) = (_session.Hyperparameters.LearningRate, _session.GradientNorm);
        var isUpdated = _session.OptimizerStep();
        Step++;
        (_skippedInARow, _skipped) = isUpdated ? (0, _skipped) : (_skippedInARow + 1, _skipped + 1);
        _last = new TrainingProgress(Step, _totalSteps, _position.Epoch + 1, loss, rate, norm, !isUpdated, null)
        {
            Layers = _session.Diagnostics,
        };
        Tell(() =>
        {
            _metrics.Add(_last);
            _progress?.Report(_last);
        });
        if (_skippedInARow == _options.MaxSkippedSteps)
        {
            StopWithoutNumbers();
        }

        if (_options.SaveEvery > 0 && Step % _options.SaveEvery == 0 && !Save())
        {
            Note($"No checkpoint of step {Step} is written: the weights hold numbers that are not finite.");
        }
    }

    /// <summary>
    /// Tells of the step or epoch that has just ended. A full disk or another failure there ends the run, which is
    /// saved first if it can be.
    /// </summary>
    private void Tell(Action tell)
    {
        try
        {
            tell();
        }
        catch
        {
            try
            {
                Save();
            }
            catch (MacOnnxException)
            {
                // The disk that has no room for a line has none for a checkpoint: the first failure is the one to tell.
            }

            throw;
        }
    }

    /// <summary>
    /// Ends the run. The state is that of the last update; it is worth a checkpoint if that update left finite numbers.
    /// </summary>
    private void StopWithoutNumbers()
    {
        Save();
        var steps = _skippedInARow == 1 ? "1 step was" : $"{_skippedInARow} steps in a row were";
        throw NotFinite($"{steps} skipped, because the loss or a gradient is not a finite number");
    }

    private MacOnnxException NotFinite(string what) =>
        new(
            "MAC0503",
            $"step {Step}",
            $"{char.ToUpperInvariant(what[0])}{what[1..]}.",
            (_checkpoints is { Newest: > 0 and var step } ? $"The checkpoint of step {step} is kept. " : "")
                + $"Use a lower {nameof(Hyperparameters)}.{nameof(Hyperparameters.LearningRate)}, more"
                + $" {nameof(Hyperparameters)}.{nameof(Hyperparameters.Damping)}, or"
                + $" {nameof(Hyperparameters)}.{nameof(Hyperparameters.MaxGradientNorm)}, and check the data."
        );

    /// <summary>Writes a checkpoint where there is a folder for it.</summary>
    /// <returns>False where the state holds numbers that are not finite, and is not worth a checkpoint.</returns>
    private bool Save() => _checkpoints?.Save(Step, _position, _hyperparameters) ?? true;

    private void Plan(long? batchesPerEpoch)
    {
        var perEpoch = (batchesPerEpoch + _options.AccumulationSteps - 1) / _options.AccumulationSteps;
        var limit =
            _options.Epochs is { } epochs && perEpoch is { } steps && epochs < long.MaxValue / steps
                ? epochs * steps
                : long.MaxValue;
        _totalSteps = Math.Min(limit, _options.MaxSteps ?? long.MaxValue);
        if (_totalSteps == long.MaxValue && _options is { Schedule: not ScheduleKind.Constant, ScheduleSteps: null })
        {
            throw new MacOnnxException(
                "MAC0303",
                $"{nameof(TrainerOptions)}.{nameof(TrainerOptions.ScheduleSteps)}",
                "The number of steps of the run is not known.",
                "Give the steps of the schedule."
            );
        }

        var scheduled =
            _options.ScheduleSteps
            ?? (_options.Schedule == ScheduleKind.Step ? Math.Max(1, (_totalSteps + 2) / 3) : _totalSteps);
        _schedule = new(_options.Schedule, scheduled, _options.WarmupSteps, _options.ScheduleGamma);
        if (_position.Batch > batchesPerEpoch)
        {
            throw new MacOnnxException(
                "MAC0702",
                _run!.Path,
                $"The checkpoint is after batch {_position.Batch} of an epoch, but the data give {batchesPerEpoch}.",
                "Resume with the data that the run was started with."
            );
        }
    }
}
