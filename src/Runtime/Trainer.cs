using System.Text.Json;
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
/// Owns the batches' native buffers: dispose it.
/// </remarks>
public sealed class Trainer : IDisposable
{
    private readonly MacTrainingSession _session;
    private readonly IBatchSource _data;
    private readonly BatchLoader? _owned;
    private readonly Evaluator? _evaluator;
    private readonly TrainerOptions _options;
    private readonly IProgress<TrainingProgress>? _progress;
    private readonly RunFolder? _run;
    private IDisposable? _claim;
    private DataPosition _position;
    private Hyperparameters _hyperparameters = new();
    private LearningRateSchedule _schedule = new(ScheduleKind.Constant, 1);
    private MetricsLog? _metrics;
    private MetricsLog? _epochs;
    private long _totalSteps;
    private long _saved;
    private int _skippedInARow;
    private long _skipped;
    private bool _isResumed;
    private double? _best;
    private (double Sum, long Steps) _epochLoss;
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
        options.Check();
        data.CheckLabels(session.Package.Manifest);
        if (validation is null && options.ValidationFraction > 0)
        {
            (data, validation) = data.Split(options.ValidationFraction, options.Seed);
        }

        (_session, _options, Validation, _progress) = (session, options, validation, progress);
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

        _run = Begin();
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
        options.Check();
        (_session, _data, _options, _progress) = (session, data, options, progress);
        _evaluator = validation is null ? null : new Evaluator(session, validation);
        _run = Begin();
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
        _isResumed = true;
        if (_run is null || !Directory.Exists(_run.Path))
        {
            return false;
        }

        _claim ??= _run.Claim();
        if (_run.Steps() is not { Count: > 0 } steps)
        {
            return false;
        }

        if (_run.ReadOptions() is { } before)
        {
            Same(before.BatchSize, _options.BatchSize, nameof(TrainerOptions.BatchSize));
            Same(before.Context, _options.Context, nameof(TrainerOptions.Context));
            Same(before.Shuffle, _options.Shuffle, nameof(TrainerOptions.Shuffle));
            Same(before.Seed, _options.Seed, nameof(TrainerOptions.Seed));
            Same(before.AccumulationSteps, _options.AccumulationSteps, nameof(TrainerOptions.AccumulationSteps));
            Same(before.ValidationFraction, _options.ValidationFraction, nameof(TrainerOptions.ValidationFraction));
        }

        var (step, checkpoint) = NewestGood(_run, steps);
        _position = _session.Load(checkpoint);
        if (_session.MissingState is { } missing)
        {
            Note($"The checkpoint of step {step} does not hold '{missing}': the optimizer's state starts afresh.");
        }

        Step = _saved = step;
        return true;

        void Same<T>(T was, T now, string option)
        {
            if (!Equals(was, now))
            {
                var values = now is bool ? "" : FormattableString.Invariant($": {was}, not {now}");
                throw new MacOnnxException(
                    "MAC0702",
                    _run.Path,
                    $"The run was started with another {nameof(TrainerOptions)}.{option}{values}.",
                    "Resume with the options that the run was started with."
                );
            }
        }
    }

    /// <summary>
    /// Checks that a run can begin, and takes the output folder for this trainer alone until it is disposed;
    /// <see cref="Run"/> does so too.
    /// </summary>
    /// <exception cref="MacOnnxException">The output folder holds a run that is not resumed (MAC0701), another process
    /// trains in it (MAC0704), or a hyper-parameter is out of range (MAC0303).</exception>
    public void Check()
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

        _claim ??= _run?.Claim();
    }

    /// <summary>Trains until the last epoch or step, or until cancelled, and saves a checkpoint then.</summary>
    /// <param name="cancellationToken">Finishes the current step, saves a checkpoint and ends the run.</param>
    /// <exception cref="MacOnnxException">As <see cref="Check"/>, or a file cannot be written (MAC0401), ONNX Runtime
    /// stopped (MAC0501), loss, gradients or weights are without finite numbers (MAC0503), or the source gave no batch
    /// (MAC0608).</exception>
    public TrainingResult Run(CancellationToken cancellationToken = default)
    {
        Check();
        _hyperparameters = _session.Hyperparameters;
        Plan(_data.BatchesPerEpoch);
        if (_session.NeedsFirstLayer)
        {
            _session.ComputeFirstLayer(
                _data.Epoch(0, 0, CancellationToken.None).Select(b => (b.Values, (double)b.Samples))
            );
        }

        _last = new TrainingProgress(Step, _totalSteps, _position.Epoch + 1, float.NaN, 0, 0, false, null);
        try
        {
            OpenLogs();
            return Train(cancellationToken);
        }
        finally
        {
            _session.Hyperparameters = _hyperparameters;
            _metrics?.Dispose();
            _epochs?.Dispose();
            (_metrics, _epochs) = (null, null);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _owned?.Dispose();
        _evaluator?.Dispose();
        _claim?.Dispose();
    }

    /// <summary>Reads the newest checkpoint that can be continued from.</summary>
    private (long Step, Checkpoint Checkpoint) NewestGood(RunFolder run, IReadOnlyList<long> steps)
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
                        Note($"Continuing from step {step} instead.");
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
                Note($"{e.Diagnostic.Where}: {e.Diagnostic.What}");
            }
        }

        throw first!;
    }

    private RunFolder? Begin()
    {
        _session.Seed = _options.Seed;
        _position = new(0, 0, _options.Seed);
        return _options.OutputFolder is { } folder ? new RunFolder(folder) : null;
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

            var epoch = new EpochResult(
                _position.Epoch + 1,
                Step,
                _epochLoss.Steps > 0 ? _epochLoss.Sum / _epochLoss.Steps : double.NaN,
                validation
            );
            Tell(() => _epochs?.Add(json => Write(json, epoch)));
            KeepBest(validation?.Accuracy);
            _position = _position with { Epoch = _position.Epoch + 1, Batch = 0 };
            _epochLoss = default;
            Tell(() => _progress?.Report(_last with { Finished = epoch }));
        }

        var isCancelled = cancellationToken.IsCancellationRequested && Step < _totalSteps;
        if (!isCancelled && Step > first && _skipped == Step - first)
        {
            StopWithoutNumbers(); // a short run that changed nothing did not succeed
        }

        if (_saved != Step && !Save() && !isCancelled)
        {
            throw NotFinite("the weights hold numbers that are not finite");
        }

        if (!isCancelled && (validation is null || _position.Batch > 0))
        {
            // The limit of steps was met within an epoch, or nothing was left to do.
            validation = _evaluator?.Run(CancellationToken.None);
            KeepBest(validation?.Accuracy);
        }

        return new(Step, _last.Loss, validation, _best, _saved > 0 ? _run?.Checkpoint(_saved) : null, isCancelled)
        {
            SkippedSteps = _skipped,
        };
    }

    private void KeepBest(double? accuracy) =>
        _best = accuracy is { } value && double.IsFinite(value) && !(_best >= value) ? value : _best;

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
        _epochLoss = float.IsFinite(loss) ? (_epochLoss.Sum + loss, _epochLoss.Steps + 1) : _epochLoss;
        _last = new TrainingProgress(Step, _totalSteps, _position.Epoch + 1, loss, rate, norm, !isUpdated, null);
        Tell(() =>
        {
            _metrics?.Add(json => Write(json, _last));
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
            (_saved > 0 ? $"The checkpoint of step {_saved} is kept. " : "")
                + $"Use a lower {nameof(Hyperparameters)}.{nameof(Hyperparameters.LearningRate)}, more"
                + $" {nameof(Hyperparameters)}.{nameof(Hyperparameters.Damping)}, or"
                + $" {nameof(Hyperparameters)}.{nameof(Hyperparameters.MaxGradientNorm)}, and check the data."
        );

    /// <summary>Writes a checkpoint, unless the state holds numbers that are not finite.</summary>
    /// <returns>Whether the state is worth a checkpoint.</returns>
    private bool Save()
    {
        if (_run is null)
        {
            return true;
        }

        if (!Checkpoint.HasFiniteNumbers(_session.ViewState().Values))
        {
            return false;
        }

        // The run's own learning rate, not this step's: the schedule starts from it when the run is resumed.
        var current = _session.Hyperparameters;
        _session.Hyperparameters = _hyperparameters;
        _session.SaveCheckpoint(_run.Checkpoint(Step), _position);
        _session.Hyperparameters = current;
        _saved = Step;
        return true;
    }

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

    /// <summary>
    /// Opens the logs and keeps the lines of the steps and epochs before; takes the last loss, the current epoch's and
    /// the best accuracy from them.
    /// </summary>
    private void OpenLogs()
    {
        if (_run is null)
        {
            return;
        }

        _run.WriteOptions(_options);
        _metrics = new MetricsLog(
            _run.Metrics,
            line =>
            {
                var keep = Number(line, "step") <= Step;
                if (keep && Number(line, "loss") is { } loss)
                {
                    _last = _last with { Loss = (float)loss };
                    _epochLoss =
                        Number(line, "epoch") == _position.Epoch + 1
                            ? (_epochLoss.Sum + _last.Loss, _epochLoss.Steps + 1)
                            : _epochLoss;
                }

                return keep;
            }
        );
        _epochs = new MetricsLog(
            _run.Epochs,
            line =>
            {
                var keep = Number(line, "epoch") <= _position.Epoch;
                KeepBest(keep ? Number(line, "validation_accuracy") : null);
                return keep;
            }
        );
    }

    private static double? Number(JsonElement line, string name) =>
        line.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.Number ? value.GetDouble() : null;

    private static void Write(Utf8JsonWriter json, TrainingProgress step)
    {
        json.WriteNumber("step", step.Step);
        json.WriteNumber("epoch", step.Epoch);
        MetricsLog.Number(json, "loss", step.Loss);
        MetricsLog.Number(json, "learning_rate", step.LearningRate);
        MetricsLog.Number(json, "gradient_norm", step.GradientNorm);
        if (step.Skipped)
        {
            json.WriteBoolean("skipped", true);
        }
    }

    private static void Write(Utf8JsonWriter json, EpochResult epoch)
    {
        json.WriteNumber("epoch", epoch.Epoch);
        json.WriteNumber("step", epoch.Step);
        MetricsLog.Number(json, "loss", epoch.Loss);
        if (epoch.Validation is { } validation)
        {
            MetricsLog.Number(json, "validation_loss", validation.Loss);
            if (validation.Accuracy is { } accuracy)
            {
                MetricsLog.Number(json, "validation_accuracy", accuracy);
            }
        }
    }
}
