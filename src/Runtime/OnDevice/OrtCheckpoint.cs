using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.OnDevice;

/// <summary>
/// Parameters, properties and optimizer state, with the members of ONNX Runtime's former <c>CheckpointState</c>.
/// </summary>
/// <remarks>Once a session trains with it, it is the session's state that it gives, changes and saves.</remarks>
public sealed class OrtCheckpoint
{
    private const string Group = "group0";
    private readonly SortedDictionary<string, object> _properties = new(StringComparer.Ordinal);
    private OrtCheckpointFile _file;
    private MacTrainingSession? _session;

    private OrtCheckpoint(OrtCheckpointFile file)
    {
        _file = file;
        foreach (var (name, value) in file.Properties)
        {
            _properties.Add(name, value);
        }
    }

    /// <summary>Gets what the file held when it was loaded.</summary>
    internal OrtCheckpointFile File => _file;

    /// <summary>Loads a checkpoint: a file, or the folder of an older release.</summary>
    /// <param name="checkpointPath">The file or folder.</param>
    /// <exception cref="MacOnnxException">It cannot be read (MAC0402) or is damaged (MAC0403).</exception>
    public static OrtCheckpoint LoadCheckpoint(string checkpointPath) => new(OrtCheckpointFile.Read(checkpointPath));

    /// <summary>Loads a checkpoint from memory.</summary>
    /// <param name="checkpoint">The file's content.</param>
    /// <exception cref="MacOnnxException">It is damaged (MAC0403).</exception>
    public static OrtCheckpoint LoadCheckpoint(byte[] checkpoint) => new(OrtCheckpointFile.Read(checkpoint));

    /// <summary>Saves a checkpoint, which ONNX Runtime 1.17 to 1.19 can load too.</summary>
    /// <param name="state">The checkpoint.</param>
    /// <param name="checkpointPath">The file.</param>
    /// <param name="includeOptimizerState">Whether the optimizer's state is saved, so that training can go on.</param>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public static void SaveCheckpoint(OrtCheckpoint state, string checkpointPath, bool includeOptimizerState = false)
    {
        ArgumentNullException.ThrowIfNull(state);
        var file = state._session is { } session
            ? Of(session.Package, session.GetState(), session.Updates, session.Hyperparameters.LearningRate)
            : state._file;
        var complete = file with { Properties = state._properties, Groups = includeOptimizerState ? file.Groups : [] };
        complete.Write(checkpointPath);
    }

    /// <summary>Makes a checkpoint file of a package's state.</summary>
    /// <param name="package">The package; its parameters are those of training artifacts.</param>
    /// <param name="state">The state by name.</param>
    /// <param name="updates">The updates applied.</param>
    /// <param name="learningRate">The learning rate.</param>
    /// <returns>The file, its tensors in the order of their names, as ONNX Runtime saves them. State of an optimizer
    /// that ONNX Runtime does not have is left out.</returns>
    /// <exception cref="MacOnnxException">The state does not hold a parameter (MAC0406).</exception>
    public static OrtCheckpointFile Of(
        TrainingPackage package,
        IReadOnlyDictionary<string, Tensor> state,
        long updates,
        float learningRate
    )
    {
        ArgumentNullException.ThrowIfNull(package);
        ArgumentNullException.ThrowIfNull(state);
        var trained = package.Manifest.Trained.Order(StringComparer.Ordinal).ToArray();
        var momentums = trained.ToDictionary(p => p, Momentums, StringComparer.Ordinal);
        var isKnown = momentums.Values.All(m => m.Count > 0) || package.Manifest.States.All(IsParameter);
        return new OrtCheckpointFile
        {
            Trainable = trained.ToDictionary(p => p, Value, StringComparer.Ordinal),
            Frozen = package
                .Manifest.States.Where(IsParameter)
                .Select(s => s.Name)
                .Except(trained, StringComparer.Ordinal)
                .Order(StringComparer.Ordinal)
                .ToDictionary(p => p, Value, StringComparer.Ordinal),
            Groups = isKnown
                ? [new(Group, updates, learningRate, trained.ToDictionary(p => p, p => StateOf(momentums[p], p)))]
                : [],
        };

        Tensor Value(string name) =>
            state.GetValueOrDefault(name)
            ?? throw new MacOnnxException(
                "MAC0406",
                name,
                "The checkpoint does not hold this parameter.",
                "Use a checkpoint of this model."
            );

        Dictionary<string, Tensor> Momentums(string parameter) =>
            state.GetValueOrDefault($"{parameter}.exp_avg") is { } first
            && state.GetValueOrDefault($"{parameter}.exp_avg_sq") is { } second
                ? new() { ["momentum0"] = first, ["momentum1"] = second }
                : [];

        // SGD has no state, but ONNX Runtime saves zeros for it.
        IReadOnlyDictionary<string, Tensor> StateOf(Dictionary<string, Tensor> known, string parameter) =>
            known.Count > 0
                ? known
                : new Dictionary<string, Tensor>
                {
                    ["momentum0"] = new(
                        ElementType.Float,
                        Value(parameter).Dims,
                        new byte[Value(parameter).ElementCount * sizeof(float)]
                    ),
                };
    }

    /// <summary>Adds or replaces a whole number.</summary>
    /// <param name="propertyName">The name.</param>
    /// <param name="propertyValue">The value.</param>
    public void AddProperty(string propertyName, long propertyValue) => _properties[propertyName] = propertyValue;

    /// <summary>Adds or replaces a number.</summary>
    /// <inheritdoc cref="AddProperty(string, long)"/>
    public void AddProperty(string propertyName, float propertyValue) => _properties[propertyName] = propertyValue;

    /// <summary>Adds or replaces a text.</summary>
    /// <inheritdoc cref="AddProperty(string, long)"/>
    public void AddProperty(string propertyName, string propertyValue) => _properties[propertyName] = propertyValue;

    /// <summary>Gives a property: a <see cref="long"/>, a <see cref="float"/> or a <see cref="string"/>.</summary>
    /// <param name="propertyName">The name.</param>
    /// <exception cref="KeyNotFoundException">There is no such property.</exception>
    public object GetProperty(string propertyName) => _properties[propertyName];

    /// <summary>Gives a copy of a parameter, which the caller disposes.</summary>
    /// <param name="parameterName">The name.</param>
    /// <exception cref="ArgumentException">There is no such parameter.</exception>
    public OrtValue GetParameter(string parameterName) => OrtValues.Of(Parameter(parameterName));

    /// <summary>Replaces a parameter.</summary>
    /// <param name="parameterName">The name.</param>
    /// <param name="parameter">The new value, of the same type and shape.</param>
    /// <exception cref="ArgumentException">There is no such parameter, or it has another type or shape.</exception>
    public void UpdateParameter(string parameterName, OrtValue parameter)
    {
        ArgumentNullException.ThrowIfNull(parameter);
        var (old, tensor) = (Parameter(parameterName), OrtValues.ToTensor(parameter));
        if (old.Type != tensor.Type || !old.Dims.SequenceEqual(tensor.Dims))
        {
            throw new ArgumentException($"'{parameterName}' is {old}, not {tensor}.", nameof(parameter));
        }

        var changed = new Dictionary<string, Tensor> { [parameterName] = tensor };
        if (_session is { } session)
        {
            session.SetState(changed);
            return;
        }

        _file = _file with { Trainable = Replaced(_file.Trainable), Frozen = Replaced(_file.Frozen) };

        IReadOnlyDictionary<string, Tensor> Replaced(IReadOnlyDictionary<string, Tensor> all) =>
            new OrderedDictionary<string, Tensor>(
                all.Select(p => KeyValuePair.Create(p.Key, changed.GetValueOrDefault(p.Key, p.Value)))
            );
    }

    /// <summary>Has a session's state be that of the checkpoint.</summary>
    internal void Attach(MacTrainingSession session) => _session = session;

    private static bool IsParameter(BufferInfo buffer) => buffer.IsState && buffer.Role != BufferRole.State;

    private Tensor Parameter(string name)
    {
        var all = _session?.GetState() ?? _file.Parameters.ToDictionary(p => p.Key, p => p.Value);
        return all.GetValueOrDefault(name)
            ?? throw new ArgumentException($"There is no parameter '{name}'.", nameof(name));
    }
}
