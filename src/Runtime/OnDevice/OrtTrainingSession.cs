using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.OnDevice;

/// <summary>
/// Trains with the artifacts of ONNX Runtime's on-device training on the stock runtime, with the members of its former
/// <c>TrainingSession</c>.
/// </summary>
/// <remarks>
/// The artifacts' own backward pass and optimizer are kept. Inputs are <see cref="OrtValue"/>s in the order of
/// <see cref="InputNames"/>; a step gives the loss alone. Not thread-safe.
/// </remarks>
public sealed class OrtTrainingSession : IDisposable
{
    private const float FirstLearningRate = 0.001f;

    private readonly TrainingArtifacts _artifacts;
    private readonly string[] _parameters;
    private Func<long, float>? _schedule;

    /// <summary>
    /// Initializes a new instance of the <see cref="OrtTrainingSession"/> class from files.
    /// </summary>
    /// <param name="state">The parameters, which the session then changes.</param>
    /// <param name="trainModelPath">The training graph.</param>
    /// <param name="evalModelPath">The evaluation graph; null for none.</param>
    /// <param name="optimizerModelPath">The optimizer graph; null for none, then there is no optimizer step.</param>
    /// <exception cref="MacOnnxException">A file cannot be read, or files do not fit each other.</exception>
    public OrtTrainingSession(
        OrtCheckpoint state,
        string trainModelPath,
        string? evalModelPath = null,
        string? optimizerModelPath = null
    )
        : this(state, TrainingArtifacts.Read(trainModelPath, optimizerModelPath, evalModelPath)) { }

    /// <summary>
    /// Initializes a new instance of the <see cref="OrtTrainingSession"/> class from memory.
    /// </summary>
    /// <param name="state">The parameters, which the session then changes.</param>
    /// <param name="trainModel">The training graph.</param>
    /// <param name="evalModel">The evaluation graph; null for none.</param>
    /// <param name="optimizerModel">The optimizer graph; null for none.</param>
    /// <exception cref="MacOnnxException">A graph is damaged, or graphs do not fit each other.</exception>
    public OrtTrainingSession(OrtCheckpoint state, byte[] trainModel, byte[]? evalModel, byte[]? optimizerModel)
        : this(state, TrainingArtifacts.Read(trainModel, optimizerModel, evalModel)) { }

    /// <summary>
    /// Initializes a new instance of the <see cref="OrtTrainingSession"/> class with options of its own.
    /// </summary>
    /// <param name="state">The parameters, which the session then changes.</param>
    /// <param name="artifacts">The artifacts; their checkpoint is not looked at.</param>
    /// <param name="options">How to rewrite them, with MAC for example; null to keep the artifacts' optimizer.</param>
    /// <param name="configure">Adjusts the session options; null for the defaults.</param>
    /// <exception cref="MacOnnxException">The files do not fit each other.</exception>
    public OrtTrainingSession(
        OrtCheckpoint state,
        TrainingArtifacts artifacts,
        RewriteOptions? options = null,
        Action<SessionOptions>? configure = null
    )
    {
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(artifacts);
        _artifacts = artifacts.With(artifacts.Filled(state.File));
        var (package, _) = Rewriter.Rewrite(
            _artifacts,
            options
                ?? new()
                {
                    Optimizer = artifacts.HasOptimizer ? OptimizerKind.Keep : OptimizerKind.Sgd,
                    Hyperparameters = new() { LearningRate = FirstLearningRate },
                }
        );
        _parameters = [.. _artifacts.ParameterNames];
        Session = new MacTrainingSession(package, configure) { KeepsGradients = true };
        state.Attach(Session);
    }

    /// <summary>Gets the session that does the work.</summary>
    public MacTrainingSession Session { get; }

    /// <summary>Computes loss and gradients of a batch, and adds the gradients to those before.</summary>
    /// <param name="inputValues">The inputs, in the order of <see cref="InputNames"/>.</param>
    /// <returns>The loss, which the caller disposes.</returns>
    public IDisposableReadOnlyCollection<OrtValue> TrainStep(IReadOnlyCollection<OrtValue> inputValues) =>
        Loss(Session.TrainStep([.. inputValues]));

    /// <summary>Computes the loss of a batch in inference mode.</summary>
    /// <inheritdoc cref="TrainStep"/>
    public IDisposableReadOnlyCollection<OrtValue> EvalStep(IReadOnlyCollection<OrtValue> inputValues) =>
        Loss(Session.EvalStep([.. inputValues]).Loss);

    /// <summary>Has the next <see cref="TrainStep"/> replace the gradients instead of adding to them.</summary>
    public void LazyResetGrad() => Session.ResetGradients();

    /// <summary>Updates the parameters. The gradients stay until <see cref="LazyResetGrad"/>.</summary>
    /// <exception cref="InvalidOperationException">There was no train step, or there is no optimizer.</exception>
    public void OptimizerStep()
    {
        if (!_artifacts.HasOptimizer && Session.Package.Manifest.Options.Optimizer == OptimizerKind.Keep)
        {
            throw new InvalidOperationException("The session was made without an optimizer graph.");
        }

        Session.OptimizerStep();
    }

    /// <summary>Sets the learning rate; 0.001 before.</summary>
    /// <param name="learningRate">The rate, 0 or more.</param>
    public void SetLearningRate(float learningRate)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(learningRate);
        Session.Hyperparameters = Session.Hyperparameters with { LearningRate = learningRate };
    }

    /// <summary>Gives the learning rate.</summary>
    public float GetLearningRate() => Session.Hyperparameters.LearningRate;

    /// <summary>
    /// Has <see cref="SchedulerStep"/> raise the learning rate in equal steps to the initial one, then lower it to
    /// zero.
    /// </summary>
    /// <param name="warmupStepCount">The updates over which it rises.</param>
    /// <param name="totalStepCount">The updates after which it is zero.</param>
    /// <param name="initialLearningRate">The highest rate.</param>
    public void RegisterLinearLRScheduler(long warmupStepCount, long totalStepCount, float initialLearningRate)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(warmupStepCount);
        ArgumentOutOfRangeException.ThrowIfLessThan(totalStepCount, warmupStepCount);
        SetLearningRate(initialLearningRate);
        _schedule = step =>
            initialLearningRate
            * (
                step < warmupStepCount
                    ? (float)step / Math.Max(1, warmupStepCount)
                    : Math.Max(0, (float)(totalStepCount - step) / Math.Max(1, totalStepCount - warmupStepCount))
            );
    }

    /// <summary>Sets the learning rate for the number of updates so far.</summary>
    /// <exception cref="InvalidOperationException">No scheduler is registered.</exception>
    public void SchedulerStep() =>
        SetLearningRate(
            (_schedule ?? throw new InvalidOperationException("No learning rate scheduler is registered."))(
                Session.Updates
            )
        );

    /// <summary>Writes the part of the evaluation graph that computes some values, with the trained
    /// parameters.</summary>
    /// <param name="inferenceModelPath">The ONNX file.</param>
    /// <param name="graphOutputNames">The values.</param>
    /// <exception cref="MacOnnxException">There is no such value (MAC0201), or the file cannot be written
    /// (MAC0401).</exception>
    public void ExportModelForInferencing(string inferenceModelPath, IReadOnlyCollection<string> graphOutputNames) =>
        _artifacts
            .With(OrtCheckpoint.Of(Session.Package, Session.GetState(), 0, 0))
            .ExportInferenceModel(inferenceModelPath, graphOutputNames);

    /// <summary>Gives all parameters in one value, in the order of the training graph's inputs.</summary>
    /// <param name="onlyTrainable">Whether frozen parameters are left out.</param>
    /// <returns>A vector of floats, which the caller disposes.</returns>
    public OrtValue ToBuffer(bool onlyTrainable)
    {
        var state = Session.GetState();
        var numbers = Names(onlyTrainable).SelectMany(n => state[n].Span<float>().ToArray()).ToArray();
        return OrtValues.Of(Tensor.From<float>([numbers.Length], numbers));
    }

    /// <summary>Replaces all parameters by what <see cref="ToBuffer"/> gave.</summary>
    /// <param name="ortValue">The vector.</param>
    /// <param name="onlyTrainable">Whether frozen parameters are left out.</param>
    /// <exception cref="ArgumentException">The vector has another length.</exception>
    public void FromBuffer(OrtValue ortValue, bool onlyTrainable)
    {
        ArgumentNullException.ThrowIfNull(ortValue);
        var (state, values) = (Session.GetState(), OrtValues.ToTensor(ortValue));
        var names = Names(onlyTrainable);
        var count = names.Sum(n => state[n].ElementCount);
        if (values.Type != ElementType.Float || values.ElementCount != count)
        {
            throw new ArgumentException($"The parameters are Float[{count}], not {values}.", nameof(ortValue));
        }

        var (changed, at) = (new Dictionary<string, Tensor>(StringComparer.Ordinal), 0);
        foreach (var name in names)
        {
            var size = state[name].Data.Length;
            changed.Add(name, new(ElementType.Float, state[name].Dims, values.Data.Slice(at, size)));
            at += size;
        }

        Session.SetState(changed);
    }

    /// <summary>Gives the names of the inputs that a step takes.</summary>
    /// <param name="training">Whether those of the training graph.</param>
    public IReadOnlyList<string> InputNames(bool training) => _artifacts.InputNames(training);

    /// <summary>Gives the names of the graph's outputs; the loss is the first.</summary>
    /// <param name="training">Whether those of the training graph.</param>
    public IReadOnlyList<string> OutputNames(bool training) => _artifacts.OutputNames(training);

    /// <inheritdoc/>
    public void Dispose() => Session.Dispose();

    private static OwnedValues Loss(float loss) => new(OrtValues.Of(Tensor.From<float>([], [loss])));

    private string[] Names(bool onlyTrainable) =>
        onlyTrainable ? [.. _parameters.Where(Session.Package.Manifest.Trained.Contains)] : _parameters;
}
