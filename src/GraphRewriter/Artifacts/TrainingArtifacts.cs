using Google.Protobuf;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>
/// The files that ONNX Runtime's on-device training takes (<c>onnxruntime.training.artifacts</c>): the training graph,
/// and with it perhaps an optimizer graph, an evaluation graph and a checkpoint. A graph of forward, backward and
/// update is a training graph too.
/// </summary>
public sealed class TrainingArtifacts
{
    /// <summary>The name of the training graph in a folder of artifacts.</summary>
    public const string TrainingFile = "training_model.onnx";

    /// <summary>The name of the optimizer graph in a folder of artifacts.</summary>
    public const string OptimizerFile = "optimizer_model.onnx";

    /// <summary>The name of the evaluation graph in a folder of artifacts.</summary>
    public const string EvaluationFile = "eval_model.onnx";

    /// <summary>The name of the checkpoint in a folder of artifacts.</summary>
    public const string CheckpointFile = "checkpoint";

    internal TrainingArtifacts(string path, ModelProto training) => (Path, Training) = (path, training);

    /// <summary>Gets the path of the training graph, or a name for one from memory.</summary>
    public string Path { get; }

    /// <summary>Gets the checkpoint; null where the training graph itself holds the parameters.</summary>
    public OrtCheckpointFile? Checkpoint { get; private init; }

    /// <summary>Gets whether there is an optimizer graph, which <see cref="OptimizerKind.Keep"/> needs unless the
    /// training graph updates its parameters itself.</summary>
    public bool HasOptimizer => Optimizer is not null;

    /// <summary>Gets whether the training graph holds more than a forward pass.</summary>
    public bool HoldTraining => TrainingGraph.IsTraining(Training.Graph);

    internal ModelProto Training { get; }

    internal (ModelProto Model, string Path)? Optimizer { get; private init; }

    internal (ModelProto Model, string Path)? Evaluation { get; private init; }

    /// <summary>Reads artifacts.</summary>
    /// <param name="training">The training graph.</param>
    /// <param name="optimizer">The optimizer graph; null for none.</param>
    /// <param name="evaluation">The evaluation graph; null for the training graph's forward part in inference
    /// mode.</param>
    /// <param name="checkpoint">The checkpoint; null where the training graph holds the parameters.</param>
    /// <exception cref="MacOnnxException">A file cannot be read or is not of its kind.</exception>
    public static TrainingArtifacts Read(
        string training,
        string? optimizer = null,
        string? evaluation = null,
        string? checkpoint = null
    ) =>
        new(training, ModelReader.Read(training))
        {
            Optimizer = optimizer is null ? null : (ModelReader.Read(optimizer), optimizer),
            Evaluation = evaluation is null ? null : (ModelReader.Read(evaluation), evaluation),
            Checkpoint = checkpoint is null ? null : OrtCheckpointFile.Read(checkpoint),
        };

    /// <summary>Reads the artifacts of a folder, by their usual names; only the training graph must be there.</summary>
    /// <param name="folder">The folder.</param>
    /// <inheritdoc cref="Read(string, string?, string?, string?)" path="/exception"/>
    public static TrainingArtifacts ReadFolder(string folder)
    {
        return Read(
            System.IO.Path.Combine(folder, TrainingFile),
            Optional(OptimizerFile),
            Optional(EvaluationFile),
            Optional(CheckpointFile)
        );

        string? Optional(string name) =>
            System.IO.Path.Combine(folder, name) is var path && (File.Exists(path) || Directory.Exists(path))
                ? path
                : null;
    }

    /// <summary>Takes artifacts from memory.</summary>
    /// <param name="training">The training graph.</param>
    /// <param name="optimizer">The optimizer graph; null for none.</param>
    /// <param name="evaluation">The evaluation graph; null for none.</param>
    /// <param name="checkpoint">The checkpoint; null where the training graph holds the parameters.</param>
    /// <exception cref="MacOnnxException">A graph is none.</exception>
    public static TrainingArtifacts Read(
        byte[] training,
        byte[]? optimizer = null,
        byte[]? evaluation = null,
        OrtCheckpointFile? checkpoint = null
    ) =>
        new(TrainingFile, ModelReader.Read(training, TrainingFile))
        {
            Optimizer = optimizer is null ? null : (ModelReader.Read(optimizer, OptimizerFile), OptimizerFile),
            Evaluation = evaluation is null ? null : (ModelReader.Read(evaluation, EvaluationFile), EvaluationFile),
            Checkpoint = checkpoint,
        };

    /// <summary>Whether a folder holds training artifacts: a training graph, and not the manifest of a
    /// package.</summary>
    /// <param name="folder">The folder; a file is none.</param>
    public static bool AreIn(string folder) =>
        File.Exists(System.IO.Path.Combine(folder, TrainingFile))
        && !File.Exists(System.IO.Path.Combine(folder, PackageFiles.Manifest));

    /// <summary>Gives the same artifacts with other parameters.</summary>
    /// <param name="checkpoint">The checkpoint.</param>
    public TrainingArtifacts With(OrtCheckpointFile checkpoint) =>
        new(Path, Training)
        {
            Optimizer = Optimizer,
            Evaluation = Evaluation,
            Checkpoint = checkpoint,
        };

    /// <summary>Writes the part of the evaluation graph that computes some values, with the checkpoint's parameters and
    /// in inference mode.</summary>
    /// <param name="path">The ONNX file.</param>
    /// <param name="outputs">The values.</param>
    /// <exception cref="MacOnnxException">There is no such value (MAC0201), or the file cannot be written
    /// (MAC0401).</exception>
    public void ExportInferenceModel(string path, IReadOnlyCollection<string> outputs)
    {
        ArgumentNullException.ThrowIfNull(outputs);
        var model = TrainingGraph.Inference(this, outputs);
        AtomicFile.Write(path, model.WriteTo);
    }

    /// <summary>Gets the names of the parameters, in the order of the training graph's inputs.</summary>
    internal IEnumerable<string> ParameterNames =>
        Training
            .Graph.Input.Select(i => i.Name)
            .Where(n => Checkpoint is { } c && (c.Trainable.ContainsKey(n) || c.Frozen.ContainsKey(n)));

    /// <summary>Gives the inputs that are data.</summary>
    internal string[] InputNames(bool training)
    {
        var graph = training ? Training.Graph : (Evaluation?.Model ?? Training).Graph;
        var parameters = ParameterNames.ToHashSet(StringComparer.Ordinal);
        var state = TrainingGraph.AccumulatorInputs(graph);
        return [.. graph.Input.Select(i => i.Name).Where(n => !parameters.Contains(n) && !state.Contains(n))];
    }

    /// <summary>Gives the outputs that are not an accumulator's.</summary>
    internal string[] OutputNames(bool training)
    {
        var graph = training ? Training.Graph : (Evaluation?.Model ?? Training).Graph;
        var flags = TrainingGraph.Accumulators(graph).SelectMany(n => n.Output).ToHashSet(StringComparer.Ordinal);
        return [.. graph.Output.Select(o => o.Name).Where(n => !flags.Contains(n))];
    }

    /// <summary>Gives a checkpoint with zeros where a nominal one has no values, of the training graph's
    /// shapes.</summary>
    internal OrtCheckpointFile Filled(OrtCheckpointFile checkpoint)
    {
        return !checkpoint.IsNominal
            ? checkpoint
            : checkpoint with
            {
                IsNominal = false,
                Trainable = Zeros(checkpoint.Trainable),
                Frozen = Zeros(checkpoint.Frozen),
            };

        OrderedDictionary<string, Tensor> Zeros(IReadOnlyDictionary<string, Tensor> tensors) =>
            new(tensors.Select(t => KeyValuePair.Create(t.Key, Zero(t.Key, t.Value.Type))));

        Tensor Zero(string name, ElementType type)
        {
            var shape = Training.Graph.Input.FirstOrDefault(i => i.Name == name)?.Type?.TensorType?.Shape;
            long[] dims = [.. shape?.Dim.Select(d => d.DimValue) ?? []];
            return new(type, [.. dims], new byte[InputFile.CheckedSize(dims, type.Size(), Array.MaxLength)]);
        }
    }
}
