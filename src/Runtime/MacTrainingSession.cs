using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Checkpoints;
using MacOnnx.Runtime.Data;
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

/// <summary>
/// Trains a rewritten model on the stock ONNX Runtime: gradients, then the update, step by step.
/// </summary>
/// <remarks>
/// Used as ONNX Runtime's former training session was: <see cref="TrainStep"/> computes loss and gradients,
/// <see cref="OptimizerStep"/> applies them. Several train steps before one optimizer step accumulate: their gradients
/// are averaged, weighted by what each batch's loss is the mean over. Owns native memory: dispose it. Not thread-safe:
/// a call during another one, <see cref="Dispose"/> too, is an <see cref="InvalidOperationException"/>.
/// </remarks>
public sealed class MacTrainingSession : IDisposable
{
    private readonly Gate _gate;
    private readonly SessionSettings _settings;
    private readonly BufferSet _buffers;
    private readonly BoundSession _training;
    private readonly BoundSession _optimizer;
    private readonly BoundSession? _curvature;
    private readonly LayerMeter? _meter;
    private readonly ScalarTable _curvatureScalars;
    private readonly ScalarTable _optimizerScalars;
    private readonly ScalarTable _hostScalars;
    private readonly HostInverse[] _inverses;
    private readonly string[] _dataNames;
    private ulong _seed;
    private Hyperparameters _hyperparameters;
    private Accumulator? _accumulator;
    private BoundSession? _evaluation;
    private bool _updatesStatistics;
    private bool _isFinite = true;
    private bool _isPending;
    private long _batches;
    private (float Gradients, float Statistics) _first;
    private LossScale _lossScale = LossScale.First;

    /// <summary>
    /// Initializes a new instance of the <see cref="MacTrainingSession"/> class at the package's starting weights.
    /// </summary>
    /// <param name="package">The package.</param>
    /// <param name="configure">Adjusts the session options, for threads or execution providers; null for the
    /// defaults.</param>
    /// <param name="useKernels">Whether kernels written in C# compute updates and some gradients, instead of the
    /// standard operators that the package defines them by: faster on the CPU; say false for other execution
    /// providers.</param>
    /// <exception cref="MacOnnxException">
    /// ONNX Runtime cannot load a graph (MAC0502), or a graph is not the one that the manifest describes (MAC0403).
    /// </exception>
    public MacTrainingSession(TrainingPackage package, Action<SessionOptions>? configure = null, bool useKernels = true)
    {
        ArgumentNullException.ThrowIfNull(package);
        (Package, _gate) = (package, new(this));
        var manifest = package.Manifest;
        _hyperparameters = manifest.Options.Hyperparameters;
        _settings = new(configure, useKernels);
        _buffers = new BufferSet(manifest.Buffers);
        _dataNames =
        [
            .. manifest.Inputs.Select(i => i.Name),
            .. manifest.Target is { } t ? [t.Name] : Array.Empty<string>(),
        ];
        _inverses = [.. manifest.HostRefreshes.Select(h => new HostInverse(h, _buffers))];
        _curvatureScalars = Scalars(ScalarTable.ReadBy(manifest, PackageFiles.Curvature));
        _optimizerScalars = Scalars(ScalarTable.ReadBy(manifest, PackageFiles.Optimizer));
        _hostScalars = Scalars(manifest.HostRefreshes.Select(h => h.Damping));
        try
        {
            _training = Load(PackageFiles.Training);
            _optimizer = Load(PackageFiles.Optimizer);
            _curvature = package.Model(PackageFiles.Curvature).IsEmpty ? null : Load(PackageFiles.Curvature);
            _meter = manifest.Diagnostics.IsEmpty ? null : new(manifest, Load(PackageFiles.Diagnostics), _buffers);
            MissingState = Restore(package.Weights);
            Updates = MissingState is null ? manifest.Updates : 0;
        }
        catch
        {
            Dispose();
            throw;
        }

        ScalarTable Scalars(IEnumerable<string> names) => new(manifest, names, _buffers);
    }

    /// <summary>
    /// Gets the number of updates; steps that were skipped for numbers that are not finite do not count.
    /// </summary>
    public long Updates { get; private set; }

    /// <summary>
    /// Gets or sets the seed of dropout masks: a mask is a function of it, the step and the batch within the step.
    /// </summary>
    public ulong Seed
    {
        get => _seed;
        set
        {
            using var pass = _gate.Enter();
            _seed = value;
        }
    }

    /// <summary>Gets or sets the hyper-parameters of the next steps.</summary>
    public Hyperparameters Hyperparameters
    {
        get => _hyperparameters;
        set
        {
            using var pass = _gate.Enter();
            _hyperparameters = value;
        }
    }

    /// <summary>Gets the package that is trained.</summary>
    public TrainingPackage Package { get; }

    /// <summary>
    /// Gets what the preconditioner of each layer did in the last optimizer step; empty where that did not refresh
    /// preconditioners, or the package was rewritten without <see cref="RewriteOptions.Diagnostics"/>.
    /// </summary>
    public IReadOnlyList<LayerDiagnostics> Diagnostics { get; private set; } = [];

    /// <summary>Gets the global l2 norm of the gradients since the last optimizer step, before clipping.</summary>
    public float GradientNorm
    {
        get
        {
            using var pass = _gate.Enter();
            return Norm;
        }
    }

    /// <summary>
    /// Gets what the last train step's loss is the mean over: elements, or the sum of class weights; null where the
    /// model computes the loss itself.
    /// </summary>
    public float? LossCount
    {
        get
        {
            using var pass = _gate.Enter();
            return Count;
        }
    }

    /// <summary>
    /// Gets whether <see cref="ComputeFirstLayer"/> must run before the first step: the package asks for the first
    /// layer's exact curvature.
    /// </summary>
    public bool NeedsFirstLayer
    {
        get
        {
            using var pass = _gate.Enter();
            return _inverses.Any(i => !i.IsKnown);
        }
    }

    /// <summary>Gets or sets whether an optimizer step leaves the gradients, so that later train steps add to
    /// them.</summary>
    internal bool KeepsGradients { get; set; }

    private float Norm => _buffers.Number(BufferRole.GradientNorm)!.Value;

    private float? Count => _buffers.Number(BufferRole.LossCount);

    private bool IsDue(int interval) => Updates % interval == 0;

    /// <summary>Computes the first layer's exact curvature in one pass over the training data.</summary>
    /// <param name="batches">The batches, each as in <see cref="TrainStep"/>, with their numbers of samples.</param>
    /// <exception cref="InvalidOperationException">The package does not ask for it.</exception>
    public void ComputeFirstLayer(IEnumerable<(IReadOnlyList<OrtValue> Inputs, double Samples)> batches)
    {
        ArgumentNullException.ThrowIfNull(batches);
        using var pass = _gate.Enter();
        var inverse =
            _inverses.FirstOrDefault(i => i.Pass is not null)
            ?? throw new InvalidOperationException("The package was rewritten without the first layer's curvature.");
        using var session = Load(inverse.Pass!.Graph);
        foreach (var (inputs, samples) in batches)
        {
            session.Feed(_dataNames, inputs);
            session.Run();
            inverse.Add(samples);
        }

        inverse.Finish();
    }

    /// <summary>
    /// Runs forward and backward on a batch and keeps the gradients: averages them with those since the last optimizer
    /// step.
    /// </summary>
    /// <param name="inputs">The model's inputs in the manifest's order, then the target.</param>
    /// <param name="samples">
    /// The samples of this batch: the weight of its statistics among those accumulated, and of its gradients where the
    /// model computes the loss itself.
    /// </param>
    /// <returns>The loss, before any update.</returns>
    /// <exception cref="ArgumentException">There are not as many inputs as the model has.</exception>
    /// <exception cref="MacOnnxException">The data do not fit the model.</exception>
    public float TrainStep(IReadOnlyList<OrtValue> inputs, float samples = 1)
    {
        using var pass = _gate.Enter();
        CheckInputs(inputs);
        if (_batches == 0)
        {
            _updatesStatistics = _curvature is not null && IsDue(Hyperparameters.StatEvery);
        }
        else
        {
            _accumulator ??= new Accumulator(Package, Load(PackageFiles.Accumulation), _buffers);
            if (_batches == 1)
            {
                _accumulator.Begin(_first.Gradients, _first.Statistics);
                _training.Redirect(_accumulator.BatchOf);
            }
        }

        SetStepInputs();
        _training.Feed(_dataNames, inputs);
        _training.Run();
        var loss = _buffers.Number(BufferRole.Loss)!.Value;
        _isFinite &= float.IsFinite(loss) && float.IsFinite(Norm);
        if (_batches++ == 0)
        {
            _first = (Count ?? samples, samples);
        }
        else
        {
            _accumulator!.Add(Count ?? samples, samples, _isPending);
        }

        _isPending = true;
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
        using var pass = _gate.Enter();
        if (_batches == 0)
        {
            throw new InvalidOperationException("TrainStep must come before OptimizerStep.");
        }

        var applies = _isFinite;
        Diagnostics = [];
        if (applies)
        {
            _isPending = false;
            var measures = UpdateCurvature() && _meter is not null;
            if (measures)
            {
                _meter!.Begin();
            }

            _optimizerScalars.Set(name => Variable(name, false, false));
            _optimizer.Run();
            Diagnostics = measures ? _meter!.End() : [];
            Updates++;
        }

        _lossScale = _buffers.Find(BufferRole.LossScale) is null ? _lossScale : _lossScale.After(applies);
        if (!KeepsGradients)
        {
            Forget();
        }

        return applies;
    }

    /// <summary>Forgets the gradients since the last optimizer step.</summary>
    public void ResetGradients()
    {
        using var pass = _gate.Enter();
        Forget();
    }

    /// <summary>Evaluates a batch in inference mode: running statistics, no dropout.</summary>
    /// <param name="inputs">As in <see cref="TrainStep"/>.</param>
    /// <exception cref="ArgumentException">There are not as many inputs as the model has.</exception>
    /// <exception cref="MacOnnxException">The data do not fit the model.</exception>
    public EvaluationResult EvalStep(IReadOnlyList<OrtValue> inputs)
    {
        using var pass = _gate.Enter();
        CheckInputs(inputs);
        _evaluation ??= Load(PackageFiles.Evaluation);
        _evaluation.Feed(_dataNames, inputs);
        _evaluation.Run();
        return new(
            _buffers.Number(BufferRole.EvaluationLoss)!.Value,
            _buffers.Number(BufferRole.EvaluationCount) ?? 1,
            _buffers.Number(BufferRole.Correct),
            _buffers.Number(BufferRole.Labeled)
        );
    }

    /// <summary>
    /// Gives the gradient since the last optimizer step of a parameter, before clipping and preconditioning.
    /// </summary>
    /// <param name="parameter">The parameter's name.</param>
    /// <exception cref="ArgumentException">No trained parameter has this name.</exception>
    public Tensor Gradient(string parameter)
    {
        using var pass = _gate.Enter();
        var trained = Package.Manifest.Trained.IndexOf(parameter);
        var gradients = Package.Manifest.Buffers.Where(b => b.Role == BufferRole.Gradient);
        return trained >= 0
            ? _buffers.Get(gradients.ElementAt(trained))
            : throw new ArgumentException($"No trained parameter is called '{parameter}'.", nameof(parameter));
    }

    /// <summary>
    /// Gives every state tensor: parameters and running statistics under their names in the model, and the optimizer's
    /// state.
    /// </summary>
    public IReadOnlyDictionary<string, Tensor> GetState()
    {
        using var pass = _gate.Enter();
        return Package.Manifest.States.ToDictionary(s => s.Name, _buffers.Get, StringComparer.Ordinal);
    }

    /// <summary>Gives every state tensor in place: for those who are done with it before the next step.</summary>
    internal IReadOnlyDictionary<string, Tensor> ViewState()
    {
        using var pass = _gate.Enter();
        return View();
    }

    /// <summary>Replaces state tensors; those that are not named keep their values.</summary>
    /// <param name="state">New values by name, of the types and shapes that <see cref="GetState"/> gives. All are
    /// checked before the first is set.</param>
    /// <exception cref="ArgumentException">No state tensor has a name, or it has another type or shape.</exception>
    public void SetState(IReadOnlyDictionary<string, Tensor> state)
    {
        ArgumentNullException.ThrowIfNull(state);
        using var pass = _gate.Enter();
        var buffers = Package.Manifest.States.Where(s => state.ContainsKey(s.Name)).ToArray();
        if (buffers.Length < state.Count)
        {
            var unknown = state.Keys.Except(buffers.Select(b => b.Name), StringComparer.Ordinal).First();
            throw new ArgumentException($"No state tensor is called '{unknown}'.", nameof(state));
        }

        foreach (var buffer in buffers)
        {
            if (state[buffer.Name] is var tensor && !buffer.Fits(tensor))
            {
                throw new ArgumentException(
                    $"'{buffer.Name}' is {buffer.Type}[{string.Join(',', buffer.Dims)}], not {tensor}.",
                    nameof(state)
                );
            }
        }

        if (buffers.Any(b => b.Role == BufferRole.State))
        {
            Array.ForEach(_inverses, i => i.Forget());
        }

        Array.ForEach(buffers, b => _buffers.Set(b, state[b.Name]));
    }

    /// <summary>Writes everything that continuing needs, complete or not at all.</summary>
    /// <param name="path">The safetensors file.</param>
    /// <param name="position">Where in the data training is; null where the caller does not say.</param>
    public void SaveCheckpoint(string path, DataPosition? position = null)
    {
        using var pass = _gate.Enter();
        new Checkpoint(View(), Updates, Seed, _lossScale, Hyperparameters, position ?? new()).Write(path);
    }

    /// <summary>
    /// Continues from a checkpoint, bit for bit. Where a part of the optimizer's state is missing, as in a file of
    /// parameters alone, the optimizer starts afresh at step 0, and <see cref="MissingState"/> names the first tensor
    /// that is missing.
    /// </summary>
    /// <param name="path">The safetensors file.</param>
    /// <returns>Where in the data training was.</returns>
    public DataPosition LoadCheckpoint(string path)
    {
        using var pass = _gate.Enter();
        return Continue(Checkpoint.Read(path));
    }

    /// <summary>
    /// Gets the first tensor of the optimizer's state that the last checkpoint loaded does not hold; null where it
    /// holds all.
    /// </summary>
    public string? MissingState { get; private set; }

    internal DataPosition Load(Checkpoint checkpoint)
    {
        using var pass = _gate.Enter();
        return Continue(checkpoint);
    }

    /// <summary>Writes the model as it was exported, in inference mode, with the trained weights.</summary>
    /// <param name="path">The ONNX file.</param>
    public void ExportInferenceModel(string path)
    {
        using var pass = _gate.Enter();
        Package.ExportInferenceModel(path, View());
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_gate.Close())
        {
            return;
        }

        _training?.Dispose();
        _optimizer?.Dispose();
        _curvature?.Dispose();
        _meter?.Dispose();
        _accumulator?.Dispose();
        _evaluation?.Dispose();
        _buffers.Dispose();
    }

    private BoundSession Load(string file)
    {
        using var options = _settings.For(file);
        return new(Package, file, options, _buffers);
    }

    private IReadOnlyDictionary<string, Tensor> View() =>
        Package.Manifest.States.ToDictionary(s => s.Name, _buffers.View, StringComparer.Ordinal);

    private DataPosition Continue(Checkpoint checkpoint)
    {
        MissingState = Restore(checkpoint.State);
        Updates = MissingState is null ? checkpoint.Updates : 0;
        (_seed, _lossScale) = (checkpoint.Seed, checkpoint.LossScale);
        _hyperparameters = checkpoint.Hyperparameters ?? _hyperparameters;
        Forget();
        return checkpoint.Position;
    }

    private void CheckInputs(IReadOnlyList<OrtValue> inputs)
    {
        ArgumentNullException.ThrowIfNull(inputs);
        if (inputs.Count != _dataNames.Length)
        {
            throw new ArgumentException(
                $"The model takes {_dataNames.Length} inputs ({string.Join(", ", _dataNames)}), not {inputs.Count}.",
                nameof(inputs)
            );
        }
    }

    /// <summary>Forgets the gradients since the last optimizer step.</summary>
    private void Forget()
    {
        if (_batches > 1)
        {
            _training.Redirect(buffer => buffer);
        }

        (_isFinite, _batches) = (true, 0);
    }

    /// <summary>Sets what the training graph reads beside parameters and data.</summary>
    private void SetStepInputs()
    {
        _buffers.Set(BufferRole.UpdateStatistics, _updatesStatistics);
        var step = new SplitMix64(new SplitMix64(Seed).Next() + (ulong)Updates).Next();
        _buffers.Set(BufferRole.DropoutSeed, step + (ulong)_batches);
        _buffers.Set(
            BufferRole.LossScale,
            Hyperparameters.LossScale > 0 ? Hyperparameters.LossScale : _lossScale.Value
        );
    }

    /// <summary>
    /// Loads state tensors. Every parameter must be there. The optimizer's state is taken whole or not at all: where a
    /// part is missing, all of it becomes zero.
    /// </summary>
    /// <returns>The first tensor of the optimizer's state that is missing; null where all are there.</returns>
    private string? Restore(IReadOnlyDictionary<string, Tensor> tensors)
    {
        Array.ForEach(_inverses, i => i.Forget());
        var missing = Package.Manifest.States.Where(s => !tensors.ContainsKey(s.Name)).ToArray();
        if (missing.FirstOrDefault(s => s.Role != BufferRole.State) is { } parameter)
        {
            throw new MacOnnxException(
                "MAC0406",
                parameter.Name,
                "The checkpoint does not hold this parameter.",
                "Use a checkpoint of this model."
            );
        }

        foreach (var state in Package.Manifest.States)
        {
            if (state.Role != BufferRole.State || missing.Length == 0)
            {
                _buffers.Set(state, tensors[state.Name]);
            }
            else
            {
                _buffers.Clear(state.Name);
            }
        }

        return missing.FirstOrDefault()?.Name;
    }

    /// <summary>Updates moving averages and cached preconditioners, and what the host computes of them.</summary>
    /// <returns>Whether preconditioners were refreshed.</returns>
    private bool UpdateCurvature()
    {
        var refreshes = _curvature is not null && IsDue(Hyperparameters.RefreshEvery);
        var hasChanged = _curvatureScalars.Set(name => Variable(name, _updatesStatistics, refreshes));
        if (_curvature is not null && (hasChanged || _updatesStatistics || refreshes))
        {
            _curvature.Run();
            foreach (var inverse in _inverses.Where(i => refreshes && i.Pass is null))
            {
                inverse.Forget();
            }
        }

        _hostScalars.Set(name => Variable(name, _updatesStatistics, refreshes));
        Array.ForEach(_inverses, i => i.Run());
        return refreshes;
    }

    private double? Variable(string name, bool updates, bool refreshes) =>
        name switch
        {
            "step" => Updates + 1,
            "update" => updates ? 1 : 0,
            "refresh" => refreshes ? 1 : 0,
            "loss_count" => _batches > 1 ? _accumulator!.LossCount : _first.Gradients,
            _ => Hyperparameters.Named(name),
        };
}
