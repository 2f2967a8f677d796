using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter;

/// <summary>
/// A rewritten model: graphs that the stock ONNX Runtime loads, the starting weights, and a manifest that joins them.
/// </summary>
public sealed class TrainingPackage
{
    /// <summary>The name of the starting checkpoint's file.</summary>
    public const string CheckpointFile = "checkpoint.safetensors";

    private const string ManifestFile = "manifest.json";

    internal TrainingPackage(
        Manifest manifest,
        IReadOnlyDictionary<string, Tensor> weights,
        IReadOnlyDictionary<string, byte[]> models
    )
    {
        Manifest = manifest;
        Weights = weights;
        Models = models;
    }

    /// <summary>Gets the names, options and state that join the graphs.</summary>
    public Manifest Manifest { get; }

    /// <summary>Gets the starting values of parameters and running statistics, by their names in the model.</summary>
    public IReadOnlyDictionary<string, Tensor> Weights { get; }

    /// <summary>Gets the graph of forward pass, loss, gradients and statistics, as an ONNX file.</summary>
    public ReadOnlyMemory<byte> TrainingModel => Models["training_model.onnx"];

    /// <summary>Gets the graph of the parameters' update, as an ONNX file.</summary>
    public ReadOnlyMemory<byte> OptimizerModel => Models["optimizer_model.onnx"];

    /// <summary>Gets the graph of the statistics' update, as an ONNX file; empty for optimizers without any.</summary>
    public ReadOnlyMemory<byte> CurvatureModel => Models["curvature_model.onnx"];

    /// <summary>
    /// Gets the graph of the second moment of the first layer's input, as an ONNX file; empty where it is not asked
    /// for.
    /// </summary>
    public ReadOnlyMemory<byte> FirstLayerModel => Models["first_layer_model.onnx"];

    /// <summary>Gets the graph of forward pass and loss in inference mode, as an ONNX file.</summary>
    public ReadOnlyMemory<byte> EvaluationModel => Models["eval_model.onnx"];

    /// <summary>Gets the model as it was exported, without its weights.</summary>
    public ReadOnlyMemory<byte> ForwardModel => Models["forward_model.onnx"];

    private IReadOnlyDictionary<string, byte[]> Models { get; }

    /// <summary>Reads a package that <see cref="Save"/> wrote.</summary>
    /// <param name="folder">The folder.</param>
    /// <exception cref="MacOnnxException">A file is missing or damaged.</exception>
    public static TrainingPackage Load(string folder)
    {
        var manifest = Manifest.Read(Path.Combine(folder, ManifestFile));
        var weights = Safetensors.Read(Path.Combine(folder, CheckpointFile)).Tensors;
        return new TrainingPackage(
            manifest,
            weights,
            ModelFiles.ToImmutableDictionary(
                f => f,
                f =>
                    IsOptional(f) && !File.Exists(Path.Combine(folder, f))
                        ? []
                        : InputFile.ReadAll(Path.Combine(folder, f))
            )
        );
    }

    /// <summary>
    /// Writes the package: graphs, checkpoint, and last the manifest, without which a folder is no package.
    /// </summary>
    /// <param name="folder">The folder, made if it is not there.</param>
    /// <exception cref="MacOnnxException">A file cannot be written.</exception>
    public void Save(string folder)
    {
        foreach (var (file, bytes) in Models)
        {
            if (bytes.Length > 0)
            {
                AtomicFile.Write(Path.Combine(folder, file), s => s.Write(bytes));
            }
            else
            {
                File.Delete(Path.Combine(folder, file));
            }
        }

        Safetensors.Write(Path.Combine(folder, CheckpointFile), Weights);
        AtomicFile.Write(Path.Combine(folder, ManifestFile), s => s.Write(Manifest.ToJson()));
    }

    /// <summary>
    /// Writes the model as it was exported, in inference mode and with other weights; large ones go to a file beside
    /// it.
    /// </summary>
    /// <param name="path">The ONNX file to write.</param>
    /// <param name="weights">A value for each name in <see cref="Weights"/>.</param>
    /// <exception cref="MacOnnxException">A weight is missing or has another shape, or the file cannot be
    /// written.</exception>
    public void ExportInferenceModel(string path, IReadOnlyDictionary<string, Tensor> weights)
    {
        if (Weights.Keys.FirstOrDefault(name => !weights.ContainsKey(name)) is { } missing)
        {
            throw new MacOnnxException(
                "MAC0406",
                missing,
                "The checkpoint does not hold this parameter.",
                "Use a checkpoint of this model."
            );
        }

        InferenceModel.Write(path, ForwardModel.Span, Weights.Keys.ToDictionary(k => k, k => weights[k]));
    }

    private static bool IsOptional(string file) => file is "curvature_model.onnx" or "first_layer_model.onnx";

    private static readonly string[] ModelFiles =
    [
        "training_model.onnx",
        "optimizer_model.onnx",
        "curvature_model.onnx",
        "first_layer_model.onnx",
        "eval_model.onnx",
        "forward_model.onnx",
    ];
}
