using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Optimizer;
using MacOnnx.Runtime.Checkpoints;
using MacOnnx.Runtime.Data;
using MacOnnx.Runtime.Kernels;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime;

/// <summary>What an evaluation step gives.</summary>
/// <param name="Loss">The mean loss of the batch.</param>
/// <param name="Count">The number of elements that the mean is over; 1 where the model computes the loss
/// itself.</param>
/// <param name="Correct">The number of right answers; null for losses without classes.</param>
/// <param name="Labeled">The number of labels that are not ignored; null for losses without classes.</param>
public readonly record struct EvaluationResult(float Loss, double Count, double? Correct, double? Labeled);

/// <summary>Trains a rewritten model on the stock ONNX Runtime: gradients, then the update, step by step.</summary>
/// <remarks>
/// Used as ONNX Runtime's former training session was: <see cref="TrainStep"/> computes loss and gradients,
/// <see cref="OptimizerStep"/> applies
/// them. Several train steps before one optimizer step accumulate. Not thread-safe. Owns native memory: dispose it.
/// </remarks>
public sealed class MacTrainingSession : IDisposable
{
    private readonly TrainingPackage _package;
    private readonly SessionOptions _options;
    private readonly StateStore _store = new();
    private readonly BoundSession _training;
    private readonly BoundSession _optimizer;
    private readonly BoundSession? _curvature;
    private readonly ExactCurvature? _exact;
    private readonly string[] _accumulated;
    private readonly Dictionary<string, float[]> _sums = new(StringComparer.Ordinal);
    private readonly string[] _dataNames;
    private BoundSession? _evaluation;
    private double _weight;
    private bool _isFinite = true;
    private long _batches;
    private float _damping;

    /// <summary>
    /// Initializes a new instance of the <see cref="MacTrainingSession"/> class at the package's starting weights.
    /// </summary>
    /// <param name="package">The package.</param>
    /// <param name="configure">Adjusts the session options, for threads or execution providers; null for the
    /// defaults.</param>
    /// <param name="useKernels">Whether kernels written in C# compute updates and some gradients, instead of the
    /// standard operators that the package defines
    /// them by: faster on the CPU; say false for other execution providers.</param>
    /// <exception cref="MacOnnxException">ONNX Runtime cannot load a graph.</exception>
    public MacTrainingSession(TrainingPackage package, Action<SessionOptions>? configure = null, bool useKernels = true)
    {
        _package = package;
        Hyperparameters = package.Manifest.Options.Hyperparameters;
        _damping = Hyperparameters.Damping;
        _options = new SessionOptions
        {
            EnableMemoryPattern = false,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
        };

        // Changes of layout pay off for constant weights, of which a training graph has none.
        _options.GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_EXTENDED;

        // The graphs run in turns: threads that wait for work of a session that has just ended would take the processor
        // from the next one.
        _options.AddSessionConfigEntry("session.force_spinning_stop", "1");
        if (useKernels)
        {
            KernelRegistry.AddTo(_options);
        }

        configure?.Invoke(_options);
        var manifest = package.Manifest;
        foreach (var state in manifest.States)
        {
            _store.Add(state.Name, state.Type, state.Dims.AsSpan());
        }

        var shapes = manifest.States.ToDictionary(s => s.Name, s => s.Dims, StringComparer.Ordinal);
        _accumulated = [.. manifest.Trained.Select(TrainingNames.Gradient), .. manifest.Statistics.Select(s => s.Name)];
        foreach (var name in manifest.Trained)
        {
            _store.Add(TrainingNames.Gradient(name), ElementType.Float, shapes[name].AsSpan());
        }

        foreach (var statistic in manifest.Statistics)
        {
            _store.Add(statistic.Name, statistic.Type, statistic.Dims.AsSpan());
        }

        foreach (var scalar in Scalars.Append(manifest.Loss).Append(TrainingNames.GradientNorm).Distinct())
        {
            _store.AddScalar(scalar);
        }

        _store.Add(TrainingNames.UpdateStatistics, ElementType.Bool, []);
        _store.Add(TrainingNames.DropoutSeed, ElementType.Int64, []);
        if (manifest.Exact is { } exact)
        {
            _store.Add(exact.Inverse, ElementType.Float, [exact.Size, exact.Size]);
            _exact = new ExactCurvature(exact, _store);
        }

        Restore(package.Weights);
        _dataNames =
        [
            .. manifest.Inputs.Select(i => i.Name),
            .. manifest.Target is { } target ? [target.Name] : Array.Empty<string>(),
        ];
        try
        {
            _training = new BoundSession(package.TrainingModel, _options, _store);
            _optimizer = new BoundSession(package.OptimizerModel, _options, _store);
            _curvature =
                package.CurvatureModel.Length > 0 ? new BoundSession(package.CurvatureModel, _options, _store) : null;
        }
        catch (OnnxRuntimeException e)
        {
            Dispose();
            throw new MacOnnxException(
                "MAC0502",
                manifest.Model,
                $"ONNX Runtime cannot load the training graphs: {e.Message.ReplaceLineEndings(" ")}",
                "Report the model: its rewriting is at fault.",
                e
            );
        }
    }

    /// <summary>
    /// Gets the number of steps taken; steps that were skipped for numbers that are not finite do not count.
    /// </summary>
    public long Step { get; private set; }

    /// <summary>Gets the number of updates of MAC's running means.</summary>
    public long StatisticUpdates { get; private set; }

    /// <summary>
    /// Gets or sets the seed of dropout masks: a mask is a function of it, the step and the batch within the step.
    /// </summary>
    public ulong Seed { get; set; }

    /// <summary>Gets or sets the hyper-parameters of the next steps.</summary>
    public Hyperparameters Hyperparameters { get; set; }

    /// <summary>Gets the package that is trained.</summary>
    public TrainingPackage Package => _package;

    /// <summary>Gets the global l2 norm of the last train step's gradients.</summary>
    public float GradientNorm => StateStore.Floats(_store[TrainingNames.GradientNorm])[0];

    private static IEnumerable<string> Scalars =>
        [
            "learning_rate",
            "momentum",
            "weight_decay",
            "damping",
            "max_gradient_norm",
            "beta1",
            "beta2",
            "epsilon",
            "step_size",
            "second_moment_scale",
            "mean_keep",
            "mean_gain",
            "refresh_keep",
            "refresh_gain",
        ];

    /// <summary>
    /// Gets whether <see cref="ComputeFirstLayer"/> must run before the first step: the package asks for the first
    /// layer's exact curvature.
    /// </summary>
    public bool NeedsFirstLayer => _exact is { IsKnown: false };

    /// <summary>Computes the first layer's exact curvature in one pass over the training data.</summary>
    /// <param name="batches">The batches, each as in <see cref="TrainStep"/>, with their weights: their numbers of
    /// samples.</param>
    /// <exception cref="InvalidOperationException">The package does not ask for it.</exception>
    public void ComputeFirstLayer(IEnumerable<(IReadOnlyList<OrtValue> Inputs, double Weight)> batches)
    {
        var exact =
            _exact ?? throw new InvalidOperationException("The package was rewritten without FirstLayerMode.Full.");
        using var moment = OrtValue.CreateAllocatedTensorValue(
            OrtAllocator.DefaultInstance,
            Microsoft.ML.OnnxRuntime.Tensors.TensorElementType.Float,
            [_package.Manifest.Exact!.Size, _package.Manifest.Exact.Size]
        );
        using var session = new BoundSession(_package.FirstLayerModel, _options, _store);
        session.BindOutput("second_moment", moment);
        foreach (var (inputs, weight) in batches)
        {
            Bind(session, inputs);
            session.Run();
            exact.Add(moment, weight);
        }

        exact.Finish();
    }

    /// <summary>
    /// Runs forward and backward on a batch and keeps the gradients: adds them where there are some since the last
    /// optimizer step.
    /// </summary>
    /// <param name="inputs">The model's inputs in the manifest's order, then the target.</param>
    /// <param name="weight">The weight of this batch among those accumulated; equal weights give the gradient of the
    /// joined batch where batches are equally large.</param>
    /// <returns>The loss, before any update.</returns>
    /// <exception cref="MacOnnxException">The data do not fit the model.</exception>
    public float TrainStep(IReadOnlyList<OrtValue> inputs, float weight = 1)
    {
        if (inputs.Count != _dataNames.Length)
        {
            throw new ArgumentException(
                $"The model takes {_dataNames.Length} inputs ({string.Join(", ", _dataNames)}), not {inputs.Count}.",
                nameof(inputs)
            );
        }

        if (_weight > 0)
        {
            KeepSums();
        }

        Set("damping", Hyperparameters.Damping);
        Set(TrainingNames.UpdateStatistics, UpdatesMeans);
        MemoryMarshal.Cast<byte, ulong>(_store[TrainingNames.DropoutSeed].GetTensorMutableRawData())[0] =
            new SplitMix64(new SplitMix64(Seed).Next() + (ulong)Step).Next() + (ulong)_batches++;
        Bind(_training, inputs);
        _training.Run();
        var loss = StateStore.Floats(_store[_package.Manifest.Loss])[0];
        _isFinite &= float.IsFinite(loss) && float.IsFinite(GradientNorm);
        if (_sums.Count > 0)
        {
            AddToSums(weight);
        }

        _weight += weight;
        return loss;
    }

    /// <summary>
    /// Updates parameters, running statistics and optimizer state by the gradients since the last optimizer step.
    /// </summary>
    /// <returns>False where the step was skipped, and nothing changed, because a loss or gradient was not
    /// finite.</returns>
    /// <exception cref="InvalidOperationException">There was no train step.</exception>
    public bool OptimizerStep()
    {
        if (_weight <= 0)
        {
            throw new InvalidOperationException("TrainStep must come before OptimizerStep.");
        }

        var applies = _isFinite;
        if (applies)
        {
            TakeSums();
            _exact?.Invert(Hyperparameters.Damping);
            UpdateCurvature();
            SetScalars();
            _optimizer.Run();
            Step++;
        }

        ResetGradients();
        return applies;
    }

    /// <summary>Forgets the gradients since the last optimizer step.</summary>
    public void ResetGradients()
    {
        _sums.Clear();
        (_weight, _isFinite, _batches) = (0, true, 0);
    }

    /// <summary>Evaluates a batch in inference mode: running statistics, no dropout.</summary>
    /// <param name="inputs">As in <see cref="TrainStep"/>.</param>
    public EvaluationResult EvalStep(IReadOnlyList<OrtValue> inputs)
    {
        var manifest = _package.Manifest;
        if (_evaluation is null)
        {
            foreach (
                var name in new[] { manifest.EvaluationLoss, manifest.Count, manifest.Correct, manifest.Labeled }
                    .OfType<string>()
                    .Where(n => !_store.Values.ContainsKey(n))
            )
            {
                _store.AddScalar(name);
            }

            _evaluation = new BoundSession(_package.EvaluationModel, _options, _store);
        }

        Bind(_evaluation, inputs);
        _evaluation.Run();
        double? Number(string? name) => name is null ? null : StateStore.Floats(_store[name])[0];
        return new(
            (float)Number(manifest.EvaluationLoss)!,
            Number(manifest.Count) ?? 1,
            Number(manifest.Correct),
            Number(manifest.Labeled)
        );
    }

    /// <summary>Gives the gradient that the last train step computed for a parameter, before preconditioning.</summary>
    /// <param name="parameter">The parameter's name.</param>
    public Tensor Gradient(string parameter)
    {
        var state = _package.Manifest.States.First(s => s.Name == parameter);
        return new Tensor(
            ElementType.Float,
            state.Dims,
            _store[TrainingNames.Gradient(parameter)].GetTensorMutableRawData().ToArray()
        );
    }

    /// <summary>
    /// Gives every state tensor: parameters and running statistics under their names in the model, and the optimizer's
    /// state.
    /// </summary>
    public IReadOnlyDictionary<string, Tensor> GetState() =>
        _package.Manifest.States.ToDictionary(s => s.Name, _store.Get, StringComparer.Ordinal);

    /// <summary>Writes everything that continuing needs, complete or not at all.</summary>
    /// <param name="path">The safetensors file.</param>
    /// <param name="position">Where in the data training is; null where the caller does not say.</param>
    public void SaveCheckpoint(string path, DataPosition? position = null) =>
        new Checkpoint(GetState(), Step, StatisticUpdates, Hyperparameters, position ?? new()).Write(path);

    /// <summary>
    /// Continues from a checkpoint, bit for bit. Where a part of the optimizer's state is missing, as in a file of
    /// parameters alone, the optimizer starts afresh at step 0, and <see cref="MissingState"/> names the first tensor
    /// that is missing.
    /// </summary>
    /// <param name="path">The safetensors file.</param>
    /// <returns>Where in the data training was.</returns>
    public DataPosition LoadCheckpoint(string path) => Load(Checkpoint.Read(path));

    /// <summary>
    /// Gets the first tensor of the optimizer's state that the last checkpoint loaded does not hold; null where it
    /// holds all.
    /// </summary>
    public string? MissingState { get; private set; }

    internal DataPosition Load(Checkpoint checkpoint)
    {
        MissingState = Restore(checkpoint.State);
        (Step, StatisticUpdates) = MissingState is null ? (checkpoint.Step, checkpoint.StatisticUpdates) : (0, 0);
        Hyperparameters = checkpoint.Hyperparameters ?? Hyperparameters;
        _damping = Hyperparameters.Damping;
        ResetGradients();
        return checkpoint.Position;
    }

    /// <summary>Writes the model as it was exported, in inference mode, with the trained weights.</summary>
    /// <param name="path">The ONNX file.</param>
    public void ExportInferenceModel(string path) => _package.ExportInferenceModel(path, GetState());

    /// <inheritdoc/>
    public void Dispose()
    {
        _training?.Dispose();
        _optimizer?.Dispose();
        _curvature?.Dispose();
        _evaluation?.Dispose();
        _store.Dispose();
        _options.Dispose();
    }

    private bool UpdatesMeans => _curvature is not null && Step % Hyperparameters.StatEvery == 0;

    private bool Refreshes => _curvature is not null && Step % Hyperparameters.RefreshEvery == 0;

    private void Bind(BoundSession session, IReadOnlyList<OrtValue> inputs)
    {
        for (var i = 0; i < _dataNames.Length; i++)
        {
            if (session.Reads(_dataNames[i]))
            {
                session.Bind(_dataNames[i], inputs[i]);
            }
        }
    }

    /// <summary>
    /// Loads state tensors. Every parameter must be there. The optimizer's state is taken whole or not at all: where a
    /// part is missing, all of it becomes zero.
    /// </summary>
    /// <returns>The first tensor of the optimizer's state that is missing; null where all are there.</returns>
    private string? Restore(IReadOnlyDictionary<string, Tensor> tensors)
    {
        _exact?.Forget();
        var missing = _package.Manifest.States.Where(s => !tensors.ContainsKey(s.Name)).ToArray();
        if (missing.FirstOrDefault(s => s.Origin == StateOrigin.Model) is { } parameter)
        {
            throw new MacOnnxException(
                "MAC0406",
                parameter.Name,
                "The checkpoint does not hold this parameter.",
                "Use a checkpoint of this model."
            );
        }

        foreach (var state in _package.Manifest.States)
        {
            if (state.Origin == StateOrigin.Model || missing.Length == 0)
            {
                _store.Set(state, tensors[state.Name]);
            }
            else
            {
                _store[state.Name].GetTensorMutableRawData().Clear();
            }
        }

        return missing.FirstOrDefault()?.Name;
    }

    /// <summary>Starts summing: the buffers hold the first batch's gradients and are about to be overwritten.</summary>
    private void KeepSums()
    {
        if (_sums.Count == 0)
        {
            foreach (var name in _accumulated)
            {
                var values = StateStore.Floats(_store[name]);
                TensorPrimitives.Multiply(values, (float)_weight, _sums[name] = new float[values.Length]);
            }
        }
    }

    private void AddToSums(float weight)
    {
        foreach (var name in _accumulated)
        {
            TensorPrimitives.MultiplyAdd(StateStore.Floats(_store[name]), weight, _sums[name], _sums[name]);
        }
    }

    private void TakeSums()
    {
        foreach (var (name, sum) in _sums)
        {
            TensorPrimitives.Divide(sum, (float)_weight, StateStore.Floats(_store[name]));
        }
    }

    /// <summary>MAC, steps 2 and 3: the running means, their number n, and the bias-corrected means in use.</summary>
    private void UpdateCurvature()
    {
        if (UpdatesMeans || Refreshes || Hyperparameters.Damping != _damping)
        {
            StatisticUpdates += UpdatesMeans ? 1 : 0;
            RunCurvature(UpdatesMeans, Refreshes);
        }
    }

    private void RunCurvature(bool updatesMeans, bool refreshes)
    {
        var decay = Hyperparameters.StatDecay;
        Set("mean_keep", updatesMeans ? decay : 1);
        Set("mean_gain", updatesMeans ? 1 - (double)decay : 0);
        Set("refresh_keep", refreshes ? 0 : 1);
        Set("refresh_gain", refreshes && StatisticUpdates > 0 ? 1 / (1 - Math.Pow(decay, StatisticUpdates)) : 0);
        Set("damping", _damping = Hyperparameters.Damping);
        _curvature?.Run();
    }

    private void SetScalars()
    {
        var h = Hyperparameters;
        Set("learning_rate", h.LearningRate);
        Set("damping", h.Damping);
        Set("momentum", h.Momentum);
        Set("weight_decay", h.WeightDecay);
        Set("max_gradient_norm", h.MaxGradientNorm);
        Set("beta1", h.Beta1);
        Set("beta2", h.Beta2);
        Set("epsilon", h.Epsilon);
        Set("step_size", h.LearningRate / (1 - Math.Pow(h.Beta1, Step + 1)));
        Set("second_moment_scale", 1 / Math.Sqrt(1 - Math.Pow(h.Beta2, Step + 1)));
    }

    private void Set(string flag, bool value) => _store[flag].GetTensorMutableRawData()[0] = value ? (byte)1 : (byte)0;

    private void Set(string scalar, double value) => StateStore.Floats(_store[scalar])[0] = (float)value;
}
