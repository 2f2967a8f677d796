using System.Collections.Immutable;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Comparisons;

/// <summary>Compares methods on one model and data set, with an equal search for each.</summary>
/// <remarks>
/// <para><b>Search</b>: every method has the same number of runs, all with one seed. Without damping all of them try
/// learning rates, at equal ratios around the method's own. With damping a third of them is left for it: they try
/// dampings, at equal ratios around the method's own, with the best rate of the others. The run with the least loss is
/// the best one; a run that diverged is worse than any other.</para>
/// <para><b>Final runs</b>: the best rate and damping with seeds that the search has not seen. A seed decides the order
/// of samples and the dropout masks; the first weights are the model's.</para>
/// <para><b>Time</b>: measured at the start, the methods by turns on the same batches. Seconds are steps times a step's
/// time, so that what else the machine does while a method trains is not held against it.</para>
/// </remarks>
public sealed class Comparison
{
    /// <summary>The part of a budget that is planned for; the rest is for what takes longer than it did.</summary>
    private const double PlannedPart = 0.95;

    /// <summary>The part of a budget after which no further round of steps is timed.</summary>
    private const int TimedPart = 20;

    private const long FewestSteps = 10;

    private readonly ImmutableArray<ComparisonMethod> _methods;
    private readonly Dataset _data;
    private readonly Dataset? _validation;
    private readonly ComparisonOptions _options;
    private readonly Action<SessionOptions>? _configure;
    private readonly IProgress<ComparisonProgress>? _progress;
    private readonly SelectionKind _selection;
    private readonly string _reference;
    private readonly TrialStore _store;
    private readonly string[] _packageHashes;
    private readonly string _dataHash;
    private int _run;

    /// <summary>Initializes a new instance of the <see cref="Comparison"/> class.</summary>
    /// <param name="methods">The methods, one or more, of different names.</param>
    /// <param name="data">The data to train on.</param>
    /// <param name="options">How to compare.</param>
    /// <param name="validation">The data to evaluate on; null to split off the
    /// <see cref="TrainerOptions.ValidationFraction"/> of <see cref="ComparisonOptions.Training"/>.</param>
    /// <param name="configure">Adjusts the options of sessions, for threads or execution providers.</param>
    /// <param name="progress">Receives every step and run, on the thread that trains.</param>
    /// <exception cref="MacOnnxException">An option or a label is out of range, names are not different, or the data do
    /// not fit the model.</exception>
    public Comparison(
        IEnumerable<ComparisonMethod> methods,
        Dataset data,
        ComparisonOptions options,
        Dataset? validation = null,
        Action<SessionOptions>? configure = null,
        IProgress<ComparisonProgress>? progress = null
    )
    {
        ArgumentNullException.ThrowIfNull(methods);
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(options);
        options.Check();
        _methods = [.. methods];
        (_options, _configure, _progress) = (options, configure, progress);
        var training = options.Training;
        (_data, _validation) =
            validation is null && training.ValidationFraction > 0
                ? data.Split(training.ValidationFraction, training.Seed)
                : (data, validation);
        _selection = options.Selection ?? (_validation is null ? SelectionKind.Training : SelectionKind.Validation);
        CheckMethods();
        _reference =
            options.Reference
            ?? (
                _methods.FirstOrDefault(m => m.Package.Manifest.Options.Optimizer == OptimizerKind.AdamW) ?? _methods[0]
            ).Name;
        foreach (var method in _methods)
        {
            _data.CheckLabels(method.Package.Manifest);
            _validation?.CheckLabels(method.Package.Manifest);
        }

        _store = new(options.OutputFolder is { } folder ? Path.Combine(folder, "runs") : null);
        _packageHashes = [.. _methods.Select(m => HashOf(m.Package))];
        _dataHash = HashOf(_data, _validation);
    }

    /// <summary>Gets what measures times.</summary>
    internal TimeProvider Clock { get; init; } = TimeProvider.System;

    private int Runs => _methods.Length * (_options.Trials + _options.Seeds);

    /// <summary>Compares. Runs that the output folder holds are taken from there.</summary>
    /// <param name="cancellationToken">Ends the comparison after a step; the finished runs are kept.</param>
    /// <exception cref="OperationCanceledException">Cancelled.</exception>
    /// <exception cref="MacOnnxException">Another process uses the folder (MAC0704), a file cannot be read or written,
    /// the budget is too short (MAC0303), or ONNX Runtime stopped (MAC0501).</exception>
    public ComparisonResult Run(CancellationToken cancellationToken = default)
    {
        using var claim = _options.OutputFolder is { } folder ? new RunFolder(folder).Claim() : null;
        _run = 0;
        var timing = Time(cancellationToken);
        var searchSteps = _options.SearchSteps ?? timing.Steps;
        var methods = _methods.Select((_, i) => Compare(i, timing, searchSteps, cancellationToken)).ToArray();
        var reference = methods.First(m => m.Name == _reference).Curve?.Mean;
        return new(
            _reference,
            timing.Steps,
            searchSteps,
            _selection,
            _data.Samples,
            _validation?.Samples,
            [
                .. methods.Select(m =>
                    m with
                    {
                        AtFinalLoss = At(m, reference?[^1]),
                        AtHalfLoss = At(m, reference?[(reference.Value.Length - 1) / 2]),
                    }
                ),
            ]
        );

        static Reached? At(MethodResult method, double? loss) =>
            loss is { } wanted && method.Curve?.FirstAt(wanted) is { } step
                ? new(step, step * method.StepMilliseconds / 1000)
                : null;
    }

    /// <summary>Searches for one method, and trains with what is best.</summary>
    private MethodResult Compare(int index, Timing timing, long searchSteps, CancellationToken cancellationToken)
    {
        var (manifest, seed) = (_methods[index].Package.Manifest, _options.Training.Seed);
        var middle = manifest.Options.Hyperparameters;
        var hasDamping = manifest.Reads("damping");
        var dampings = SearchGrid.DampingTrials(_options.Trials, hasDamping);
        var rates = SearchGrid.Rates(middle.LearningRate, _options.RateRange, _options.Trials - dampings);
        var search = rates.Select(rate => Search(rate, middle.Damping)).ToList();
        if (Best() is { } first)
        {
            foreach (var damping in SearchGrid.Dampings(middle.Damping, _options.DampingRange, dampings))
            {
                search.Add(Search(first.LearningRate, damping));
            }
        }

        _run = (index * (_options.Trials + _options.Seeds)) + _options.Trials;
        var best = Best();
        var final = best is null
            ? []
            : Enumerable
                .Range(1, _options.Seeds)
                .Select(k =>
                    Train(
                        index,
                        Set(best.LearningRate, best.Damping ?? middle.Damping),
                        seed + (ulong)k,
                        timing.Steps,
                        _validation is not null,
                        cancellationToken
                    )
                )
                .ToArray();
        _run = (index + 1) * (_options.Trials + _options.Seeds);
        var runs = final.Select(t => Describe(t, hasDamping)).ToImmutableArray();
        return new()
        {
            Name = _methods[index].Name,
            StateBytes = manifest.Buffers.Where(b => b.Role == BufferRole.State).Sum(b => b.Bytes),
            StepMilliseconds = timing.Milliseconds[index],
            Search = [.. search],
            Best = best,
            IsAtEndOfRates = rates.Length > 1 && (best?.LearningRate == rates[0] || best?.LearningRate == rates[^1]),
            Final = runs,
            Curve = runs is [] || runs.Any(r => r.HasDiverged) ? null : LossCurve.Of([.. final.Select(t => t.Losses!)]),
        };

        ComparisonRun Search(float rate, float damping) =>
            Describe(
                Train(
                    index,
                    Set(rate, damping),
                    seed,
                    searchSteps,
                    _selection == SelectionKind.Validation,
                    cancellationToken
                ),
                hasDamping
            );

        Hyperparameters Set(float rate, float damping) => middle with { LearningRate = rate, Damping = damping };

        ComparisonRun? Best() =>
            search.MinBy(r => r.Loss(_selection)) is { } run && double.IsFinite(run.Loss(_selection)) ? run : null;
    }

    /// <summary>Trains once, or takes what the folder holds.</summary>
    private Trial Train(
        int index,
        Hyperparameters hyperparameters,
        ulong seed,
        long steps,
        bool isEvaluated,
        CancellationToken cancellationToken
    )
    {
        cancellationToken.ThrowIfCancellationRequested();
        var (name, package) = _methods[index];
        var training = Training with { Seed = seed, MaxSteps = steps };
        var key = new TrialKey(_packageHashes[index], _dataHash, hyperparameters, training, isEvaluated);
        _run++;
        var trial = _store.Find(name, key);
        if (trial is null)
        {
            var losses = new float[steps];
            using var session = new MacTrainingSession(package, _configure) { Hyperparameters = hyperparameters };
            using var trainer = new Trainer(
                session,
                _data,
                training,
                null,
                new Watch(step =>
                {
                    losses[step.Step - 1] = step.Loss;
                    Report(step.Step, step.Loss, null);
                })
            );
            trial = new(key, null, null);
            try
            {
                if (trainer.Run(cancellationToken).WasCancelled)
                {
                    throw new OperationCanceledException(cancellationToken);
                }

                trial = trial with { Losses = losses, Validation = isEvaluated ? Evaluate(session) : null };
            }
            catch (MacOnnxException e) when (e.Diagnostic.Id == "MAC0503")
            {
                // It diverged, which is a result.
            }

            if (trial.Validation is { Loss: var loss } && !double.IsFinite(loss))
            {
                trial = new(key, null, null);
            }

            _store.Keep(name, trial);
        }

        Report(steps, trial.Losses?[^1] ?? float.NaN, Describe(trial, package.Manifest.Reads("damping")));
        return trial;

        void Report(long step, float loss, ComparisonRun? finished) =>
            _progress?.Report(new(name, _run, Runs, step, steps, loss, finished));
    }

    private Evaluation Evaluate(MacTrainingSession session)
    {
        using var evaluator = new Evaluator(session, _validation!, _options.Training.BatchSize);
        return evaluator.Run(CancellationToken.None);
    }

    private static ComparisonRun Describe(Trial trial, bool hasDamping) =>
        new(
            trial.Key.Hyperparameters.LearningRate,
            hasDamping ? trial.Key.Hyperparameters.Damping : null,
            trial.Key.Training.Seed,
            trial.Losses is { } losses && LossCurve.Smooth(losses)[^1] is var loss && double.IsFinite(loss)
                ? loss
                : null,
            trial.Validation
        );

    private TrainerOptions Training =>
        _options.Training with
        {
            Epochs = null,
            SaveEvery = 0,
            ScheduleSteps = null,
            ValidationFraction = 0,
            OutputFolder = null,
        };

    /// <summary>
    /// Times the steps of the methods, and chooses the steps of a run by the budget where it decides.
    /// </summary>
    private Timing Time(CancellationToken cancellationToken)
    {
        var budget = _options.Steps is null ? _options.Budget!.Value.TotalSeconds : 0;
        var key = new TimingKey(
            _packageHashes,
            _dataHash,
            Training with
            {
                MaxSteps = _options.Steps ?? _options.SearchSteps ?? 1,
            },
            budget == 0
                ? ""
                : FormattableString.Invariant(
                    $"{budget} s, {_options.Trials} trials, {_options.Seeds} seeds, selection {_selection}"
                )
        );
        if (_store.Find(key) is { } timing)
        {
            return timing;
        }

        var begin = Clock.GetTimestamp();
        var sessions = new List<MacTrainingSession>();
        try
        {
            foreach (var method in _methods)
            {
                var session = new MacTrainingSession(method.Package, _configure);
                sessions.Add(session);
                session.Seed = _options.Training.Seed;
                if (session.NeedsFirstLayer)
                {
                    using var loader = new BatchLoader(_data, Training.BatchSize, shuffle: false, seed: 0);
                    session.ComputeFirstLayer(
                        loader.Epoch(0, 0, cancellationToken).Select(b => (b.Values, (double)b.Samples))
                    );
                }
            }

            var start = Clock.GetElapsedTime(begin) / sessions.Count;
            var milliseconds = StepTimer.Measure(
                sessions,
                _data,
                Training,
                _options.Steps ?? long.MaxValue,
                budget == 0 ? TimeSpan.MaxValue : TimeSpan.FromSeconds(budget / TimedPart),
                Clock,
                cancellationToken
            );
            timing = new(key, milliseconds, _options.Steps ?? StepsWithin(budget, milliseconds, start));
        }
        finally
        {
            sessions.ForEach(s => s.Dispose());
        }

        _store.Keep(timing);
        return timing;

        long StepsWithin(double seconds, double[] milliseconds, TimeSpan start)
        {
            var evaluation = Clock.GetTimestamp();
            if (_validation is not null)
            {
                Evaluate(sessions[0]);
            }

            var evaluations = _options.Seeds + (_selection == SelectionKind.Validation ? _options.Trials : 0);
            var step = milliseconds.Sum() / 1000;
            var overhead =
                (Runs * start.TotalSeconds)
                + (_methods.Length * evaluations * Clock.GetElapsedTime(evaluation).TotalSeconds);
            var left =
                (PlannedPart * seconds)
                - Clock.GetElapsedTime(begin).TotalSeconds
                - overhead
                - (step * (_options.SearchSteps ?? 0) * _options.Trials);
            var runs = _options.Seeds + (_options.SearchSteps is null ? _options.Trials : 0);
            var steps = (long)(left / (step * runs));
            return steps >= FewestSteps
                ? steps
                : throw new MacOnnxException(
                    "MAC0303",
                    $"{nameof(ComparisonOptions)}.{nameof(ComparisonOptions.Budget)}",
                    FormattableString.Invariant(
                        $"{seconds:0.#} seconds are too short for {Runs} runs of {FewestSteps} steps or more."
                    ),
                    FormattableString.Invariant(
                        $"Give {Math.Ceiling((seconds - left + (step * runs * FewestSteps)) / PlannedPart)} seconds"
                    ) + " or more, or fewer methods, trials and seeds."
                );
        }
    }

    private void CheckMethods()
    {
        if (_methods is [])
        {
            throw Bad("methods", "There is none to compare.", "Give one or more.");
        }

        if (_methods.GroupBy(m => m.Name, StringComparer.Ordinal).FirstOrDefault(g => g.Count() > 1) is { } same)
        {
            throw Bad("methods", $"Two methods are called '{same.Key}'.", "Give each a name of its own.");
        }

        if (_options.Reference is { } name && _methods.All(m => m.Name != name))
        {
            throw Bad(
                $"{nameof(ComparisonOptions)}.{nameof(ComparisonOptions.Reference)}",
                $"No method is called '{name}'.",
                $"Use one of {string.Join(", ", _methods.Select(m => m.Name))}."
            );
        }

        if (_selection == SelectionKind.Validation && _validation is null)
        {
            throw Bad(
                $"{nameof(ComparisonOptions)}.{nameof(ComparisonOptions.Selection)}",
                "There are no validation data to select by.",
                "Give some, or select by training loss."
            );
        }

        static MacOnnxException Bad(string where, string what, string hint) => new("MAC0303", where, what, hint);
    }

    /// <summary>Gives a hash of everything that a package makes of a batch, but for hyper-parameters.</summary>
    private static string HashOf(TrainingPackage package)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        var manifest = package.Manifest;
        var common = manifest with
        {
            Files = ImmutableSortedDictionary<string, string>.Empty,
            Options = manifest.Options with
            {
                Hyperparameters = new() { MaxGradientNorm = manifest.Options.ClipsGradients ? 1 : 0 },
            },
        };
        hash.AppendData(common.ToJson());
        foreach (var graph in manifest.Bindings.Select(b => b.Graph).Distinct().Order(StringComparer.Ordinal))
        {
            hash.AppendData(package.Model(graph).Span);
        }

        foreach (var (name, tensor) in package.Weights.OrderBy(w => w.Key, StringComparer.Ordinal))
        {
            hash.AppendData(Encoding.UTF8.GetBytes(name));
            hash.AppendData(tensor.Data.Span);
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    private static string HashOf(params IEnumerable<Dataset?> data)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var array in data.SelectMany(d => d?.Arrays ?? []))
        {
            hash.AppendData(MemoryMarshal.AsBytes(array.Dims.AsSpan()));
            hash.AppendData(array.Data.Span);
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    private sealed class Watch(Action<TrainingProgress> step) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value)
        {
            if (value is { Finished: null, Note: null })
            {
                step(value);
            }
        }
    }
}
