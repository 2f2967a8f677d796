using System.Numerics.Tensors;
using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
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
    private readonly BatchLoader _loader;
    private readonly Evaluator? _evaluator;
    private readonly TrainerOptions _options;
    private readonly IProgress<TrainingProgress>? _progress;
    private readonly RunFolder? _run;
    private DataPosition _position;
    private Hyperparameters _hyperparameters = new();
    private LearningRateSchedule _schedule = new(ScheduleKind.Constant, 1);
    private MetricsLog? _metrics;
    private long _totalSteps;
    private long _saved;
    private int _skippedInARow;
    private long _skipped;
    private bool _isResumed;
    private (double Sum, long Steps) _epochLoss;
    private TrainingProgress _last;

    /// <summary>Initializes a new instance of the <see cref="Trainer"/> class.</summary>
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
        _loader = new BatchLoader(data, options.BatchSize, options.Shuffle, options.Seed);
        try
        {
            _evaluator = validation is null ? null : new Evaluator(session, validation, options.BatchSize);
        }
        catch
        {
            _loader.Dispose();
            throw;
        }

        _run = options.OutputFolder is { } folder ? new RunFolder(folder) : null;
        session.Seed = options.Seed;
        _position = new(0, 0, options.Seed);
    }

    /// <summary>Gets the data that are evaluated on; null for none.</summary>
    public Dataset? Validation { get; }

    /// <summary>Gets the number of steps, skipped ones included.</summary>
    public long Step { get; private set; }

    /// <summary>
    /// Goes back to the newest checkpoint of the output folder, hyper-parameters included. Without one the run begins
    /// at its start.
    /// </summary>
    /// <returns>Whether there was a checkpoint.</returns>
    /// <exception cref="MacOnnxException">The checkpoint is damaged or of another model, or an option differs that
    /// decides on the batches (MAC0702).</exception>
    public bool Resume()
    {
        _isResumed = true;
        if (_run?.NewestStep() is not { } step)
        {
            return false;
        }

        if (_run.ReadOptions() is { } before)
        {
            Same(before.BatchSize, _options.BatchSize, "--batch-size");
            Same(before.Context, _options.Context, "--context");
            Same(before.Shuffle, _options.Shuffle, "--no-shuffle");
            Same(before.Seed, _options.Seed, "--seed");
            Same(before.AccumulationSteps, _options.AccumulationSteps, "--accumulate");
            Same(before.ValidationFraction, _options.ValidationFraction, "--validation-split");
        }

        _position = _session.LoadCheckpoint(_run.Checkpoint(step));
        Step = _saved = step;
        return true;

        void Same<T>(T was, T now, string option)
        {
            if (!Equals(was, now))
            {
                throw new MacOnnxException(
                    "MAC0702",
                    _run.Path,
                    FormattableString.Invariant($"The run has {option} {was}, not {now}."),
                    "Resume with the options that the run was started with."
                );
            }
        }
    }

    /// <summary>Checks that a run can begin: <see cref="Run"/> does, but this does nothing else.</summary>
    /// <exception cref="MacOnnxException">The output folder holds a run that is not resumed (MAC0701), or a
    /// hyper-parameter is out of range (MAC0303).</exception>
    public void Check()
    {
        Rewriter.Check(_session.Package.Manifest.Options with { Hyperparameters = _session.Hyperparameters });
        if (_run is not null && !_isResumed && (_run.NewestStep() is not null || File.Exists(_run.Metrics)))
        {
            throw new MacOnnxException(
                "MAC0701",
                _run.Path,
                "The folder holds a run already.",
                "Continue it with --resume, or choose another folder with -o."
            );
        }
    }

    /// <summary>Trains until the last epoch or step, or until cancelled, and saves a checkpoint then.</summary>
    /// <param name="cancellationToken">Finishes the current step, saves a checkpoint and ends the run.</param>
    /// <exception cref="MacOnnxException">As <see cref="Check"/>, or a file cannot be written (MAC0401), ONNX Runtime
    /// stopped (MAC0501), or loss or
    /// gradients stayed without finite numbers (MAC0503).</exception>
    public TrainingResult Run(CancellationToken cancellationToken = default)
    {
        Check();
        _hyperparameters = _session.Hyperparameters;
        Plan(_loader.BatchesPerEpoch);
        if (_session.NeedsFirstLayer)
        {
            _session.ComputeFirstLayer(
                _loader.Epoch(0, 0, CancellationToken.None).Select(b => (b.Values, (double)b.Samples))
            );
        }

        _last = new TrainingProgress(Step, _totalSteps, _position.Epoch + 1, float.NaN, 0, 0, false, null);
        using var metrics = _metrics = OpenMetrics();
        using var epochs = _run is null
            ? null
            : new MetricsLog(_run.Epochs, line => Number(line, "epoch") <= _position.Epoch);
        try
        {
            return Train(epochs, cancellationToken);
        }
        finally
        {
            _session.Hyperparameters = _hyperparameters;
            _metrics = null;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _loader.Dispose();
        _evaluator?.Dispose();
    }

    private TrainingResult Train(MetricsLog? epochs, CancellationToken cancellationToken)
    {
        var (validation, best, first) = ((Evaluation?)null, (double?)null, Step);
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

            best = best is null || validation?.Accuracy > best ? validation?.Accuracy : best;
            var epoch = new EpochResult(
                _position.Epoch + 1,
                Step,
                _epochLoss.Steps > 0 ? _epochLoss.Sum / _epochLoss.Steps : double.NaN,
                validation
            );
            epochs?.Add(json => Write(json, epoch));
            _position = _position with { Epoch = _position.Epoch + 1, Batch = 0 };
            _epochLoss = default;
            _progress?.Report(_last with { Finished = epoch });
        }

        var isCancelled = cancellationToken.IsCancellationRequested && Step < _totalSteps;
        if (!isCancelled && Step > first && _skipped == Step - first)
        {
            StopWithoutNumbers(); // a short run that changed nothing did not succeed
        }

        if (_saved != Step)
        {
            Save();
        }

        if (!isCancelled && (validation is null || _position.Batch > 0))
        {
            // The limit of steps was met within an epoch, or nothing was left to do.
            validation = _evaluator?.Run(CancellationToken.None);
            best = best > validation?.Accuracy ? best : validation?.Accuracy;
        }

        return new(Step, _last.Loss, validation, best, _saved > 0 ? _run?.Checkpoint(_saved) : null, isCancelled)
        {
            SkippedSteps = _skipped,
        };
    }

    /// <summary>Trains what is left of an epoch.</summary>
    /// <returns>Whether it is complete: neither was the limit of steps met before its end, nor was the run
    /// cancelled.</returns>
    private bool RunEpoch(CancellationToken cancellationToken)
    {
        var (sum, samples, batches) = (0.0, 0L, 0);
        foreach (var batch in _loader.Epoch(_position.Epoch, _position.Batch, CancellationToken.None))
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

            sum += (double)_session.TrainStep(batch.Values, batch.Samples) * batch.Samples;
            samples += batch.Samples;
            _position = _position with { Batch = batch.Index + 1 };
            if (++batches == _options.AccumulationSteps || batch.Index + 1 == _loader.BatchesPerEpoch)
            {
                Update((float)(sum / samples));
                (sum, samples, batches) = (0, 0, 0);
            }
        }

        return true;
    }

    private void Update(float loss)
    {
        var (rate, norm) = (_session.Hyperparameters.LearningRate, _session.GradientNorm);
        var isUpdated = _session.OptimizerStep();
        Step++;
        (_skippedInARow, _skipped) = isUpdated ? (0, _skipped) : (_skippedInARow + 1, _skipped + 1);
        _epochLoss = float.IsFinite(loss) ? (_epochLoss.Sum + loss, _epochLoss.Steps + 1) : _epochLoss;
        _last = new TrainingProgress(Step, _totalSteps, _position.Epoch + 1, loss, rate, norm, !isUpdated, null);
        _metrics?.Add(json => Write(json, _last));
        _progress?.Report(_last);
        if (_skippedInARow == _options.MaxSkippedSteps)
        {
            StopWithoutNumbers();
        }

        if (_options.SaveEvery > 0 && Step % _options.SaveEvery == 0)
        {
            Save();
        }
    }

    /// <summary>
    /// Ends the run. The state is that of the last update; it is worth a checkpoint if that update left finite numbers.
    /// </summary>
    private void StopWithoutNumbers()
    {
        var isFinite = _session
            .GetState()
            .Values.Where(t => t.Type == ElementType.Float)
            .All(t => TensorPrimitives.IsFiniteAll(t.Span<float>()));
        if (isFinite)
        {
            Save();
        }

        throw new MacOnnxException(
            "MAC0503",
            $"step {Step}",
            $"{_skippedInARow} step{(_skippedInARow == 1 ? " was" : "s in a row were")} skipped, because the loss or a gradient is not a finite number.",
            (_saved > 0 ? $"The checkpoint of step {_saved} is kept. " : "")
                + "Use a lower learning rate, more damping, or --max-gradient-norm, and check the data."
        );
    }

    private void Save()
    {
        if (_run is not null)
        {
            // The run's own learning rate, not this step's: the schedule starts from it when the run is resumed.
            var current = _session.Hyperparameters;
            _session.Hyperparameters = _hyperparameters;
            _session.SaveCheckpoint(_run.Checkpoint(Step), _position);
            _session.Hyperparameters = current;
            _saved = Step;
        }
    }

    private void Plan(long batchesPerEpoch)
    {
        var perEpoch = (batchesPerEpoch + _options.AccumulationSteps - 1) / _options.AccumulationSteps;
        var limit =
            _options.Epochs is { } epochs && epochs < long.MaxValue / perEpoch ? epochs * perEpoch : long.MaxValue;
        _totalSteps = Math.Min(limit, _options.MaxSteps ?? long.MaxValue);
        var steps =
            _options.ScheduleSteps
            ?? (_options.Schedule == ScheduleKind.Step ? Math.Max(1, (_totalSteps + 2) / 3) : _totalSteps);
        _schedule = new(_options.Schedule, steps, _options.WarmupSteps, _options.ScheduleGamma);
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
    /// Opens the metrics and keeps those of the steps before; takes the last loss and the current epoch's from them.
    /// </summary>
    private MetricsLog? OpenMetrics()
    {
        if (_run is null)
        {
            return null;
        }

        _run.WriteOptions(_options);
        return new MetricsLog(
            _run.Metrics,
            line =>
            {
                var keep = Number(line, "step") <= Step;
                if (keep && line.TryGetProperty("loss", out var loss) && loss.ValueKind == JsonValueKind.Number)
                {
                    _last = _last with { Loss = loss.GetSingle() };
                    _epochLoss =
                        Number(line, "epoch") == _position.Epoch + 1
                            ? (_epochLoss.Sum + _last.Loss, _epochLoss.Steps + 1)
                            : _epochLoss;
                }

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
