using System.Collections.Immutable;
using System.Security.Cryptography;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter;

/// <summary>
/// A rewritten model: graphs that the stock ONNX Runtime loads, the starting weights, and a manifest that joins them.
/// </summary>
public sealed class TrainingPackage
{
    /// <summary>The files that an earlier package in the same folder may have left.</summary>
    private static readonly string[] OptionalFiles =
    [
        PackageFiles.Curvature,
        PackageFiles.FirstLayer,
        PackageFiles.Diagnostics,
    ];

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

    /// <summary>Gets the names, options, buffers and bindings that join the graphs.</summary>
    public Manifest Manifest { get; }

    /// <summary>
    /// Gets the starting values of parameters and running statistics, by their names in the model; float also where
    /// the model holds float16 or bfloat16. With them is the optimizer's state where <see cref="Manifest.Updates"/> is
    /// not 0.
    /// </summary>
    public IReadOnlyDictionary<string, Tensor> Weights { get; }

    /// <summary>Gets the model as it was exported, without its weights.</summary>
    public ReadOnlyMemory<byte> ForwardModel => Model(PackageFiles.Forward);

    private IReadOnlyDictionary<string, byte[]> Models { get; }

    /// <summary>Reads a package that <see cref="Save"/> wrote, and checks that it is complete and unchanged.</summary>
    /// <param name="folder">The folder.</param>
    /// <exception cref="MacOnnxException">A file is missing or damaged, or not the one that was saved.</exception>
    public static TrainingPackage Load(string folder)
    {
        var manifest = Manifest.Read(Path.Combine(folder, PackageFiles.Manifest));
        var models = new Dictionary<string, byte[]>(StringComparer.Ordinal);
        IReadOnlyDictionary<string, Tensor>? weights = null;
        foreach (var (file, hash) in manifest.Files)
        {
            var path = Path.Combine(folder, Path.GetFileName(file));
            if (file == PackageFiles.Checkpoint)
            {
                (weights, var found) = (Safetensors.Read(path).Tensors, HashOf(path));
                Require(path, found == hash);
                continue;
            }

            models[file] = InputFile.ReadAll(path);
            Require(path, Hash(models[file]) == hash);
        }

        var needed = manifest.Bindings.Select(b => b.Graph).Append(PackageFiles.Forward).Distinct();
        var missing =
            needed.FirstOrDefault(f => !models.ContainsKey(f)) ?? (weights is null ? PackageFiles.Checkpoint : null);
        return missing is null
            ? new TrainingPackage(manifest, weights!, models)
            : throw new MacOnnxException(
                "MAC0403",
                Path.Combine(folder, PackageFiles.Manifest),
                $"The manifest does not name '{missing}'.",
                "Rewrite the model again."
            );
    }

    /// <summary>Gives a graph as an ONNX file.</summary>
    /// <param name="file">The file, as bindings name it.</param>
    /// <returns>The bytes; empty where the package has no such graph.</returns>
    public ReadOnlyMemory<byte> Model(string file) => Models.GetValueOrDefault(file, []);

    /// <summary>
    /// Writes the package. The manifest, which holds the hashes of the other files, is removed first and written last:
    /// a folder that a failure left half written is not a package.
    /// </summary>
    /// <param name="folder">The folder, made if it is not there.</param>
    /// <exception cref="MacOnnxException">A file cannot be written.</exception>
    public void Save(string folder)
    {
        var manifest = Path.Combine(folder, PackageFiles.Manifest);
        AtomicFile.Delete(manifest);
        AtomicFile.RemoveAbandoned(folder);
        var hashes = Models.ToDictionary(
            m => m.Key,
            m => WriteHashed(Path.Combine(folder, m.Key), s => s.Write(m.Value)),
            StringComparer.Ordinal
        );
        hashes[PackageFiles.Checkpoint] = WriteHashed(
            Path.Combine(folder, PackageFiles.Checkpoint),
            s => Safetensors.Write(s, Weights)
        );
        foreach (var file in OptionalFiles.Where(f => !Models.ContainsKey(f)))
        {
            AtomicFile.Delete(Path.Combine(folder, file));
        }

        var complete = Manifest with { Files = hashes.ToImmutableSortedDictionary(StringComparer.Ordinal) };
        AtomicFile.Write(manifest, s => s.Write(complete.ToJson()));
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
        var names = Manifest.States.Where(s => s.Role != BufferRole.State).Select(s => s.Name).ToArray();
        if (Array.Find(names, name => !weights.ContainsKey(name)) is { } missing)
        {
            throw new MacOnnxException(
                "MAC0406",
                missing,
                "The checkpoint does not hold this parameter.",
                "Use a checkpoint of this model."
            );
        }

        InferenceModel.Write(path, ForwardModel.Span, names.ToDictionary(k => k, k => weights[k]));
    }

    /// <summary>
    /// Writes the model, in inference mode and with the starting weights, and in it the training algorithm as ONNX
    /// defines it (<c>training_info</c>): one step of a session, of standard operators and those of ONNX Runtime.
    /// </summary>
    /// <remarks>
    /// A step that is not finite is not skipped, and dropout masks follow from the step alone. Hyper-parameters are
    /// initializers of the algorithm.
    /// </remarks>
    /// <param name="path">The ONNX file to write.</param>
    /// <exception cref="MacOnnxException">The host takes part in a step, weights have 16 bits, or the file would have
    /// more than 2 GB (MAC0809); or the file cannot be written.</exception>
    public void SaveTrainingInfo(string path) => TrainingInfo.Write(path, this);

    /// <summary>Gives the moving average of the weights, and running statistics as they are.</summary>
    /// <param name="state">The state of a session, or the tensors of a checkpoint.</param>
    /// <returns>A value for each name in <see cref="Weights"/>; the weights themselves before the first step.</returns>
    /// <exception cref="MacOnnxException">
    /// The package keeps no average (MAC0304), or the state lacks a part of it (MAC0406).
    /// </exception>
    public IReadOnlyDictionary<string, Tensor> AveragedWeights(IReadOnlyDictionary<string, Tensor> state)
    {
        ArgumentNullException.ThrowIfNull(state);
        var average =
            Manifest.Average
            ?? throw new MacOnnxException(
                "MAC0304",
                $"{nameof(Hyperparameters)}.{nameof(Hyperparameters.Ema)}",
                $"The package of '{Manifest.Model}' keeps no average of the weights.",
                "Rewrite the model with it."
            );
        var weight = Of(average.Weight).ToDouble()[0];
        return Weights.Keys.ToDictionary(
            name => name,
            name =>
                weight > 0 && average.Averages.TryGetValue(name, out var sum)
                    ? Tensor.From<float>(
                        Of(name).Dims.AsSpan(),
                        [.. Of(sum).ToDouble().Select(e => (float)(e / weight))]
                    )
                    : Of(name),
            StringComparer.Ordinal
        );

        Tensor Of(string name) =>
            state.TryGetValue(name, out var tensor)
                ? tensor
                : throw new MacOnnxException(
                    "MAC0406",
                    name,
                    "The checkpoint does not hold this tensor.",
                    "Use a checkpoint of this model."
                );
    }

    private static void Require(string path, bool isUnchanged)
    {
        if (!isUnchanged)
        {
            throw new MacOnnxException(
                "MAC0403",
                path,
                "The file is not the one that the manifest was written with.",
                "Rewrite the model again."
            );
        }
    }

    /// <summary>Writes a file, and gives the SHA-256 of what was written.</summary>
    private static string WriteHashed(string path, Action<Stream> write)
    {
        using var hash = SHA256.Create();
        AtomicFile.Write(
            path,
            file =>
            {
                using var stream = new CryptoStream(file, hash, CryptoStreamMode.Write, leaveOpen: true);
                write(stream);
            }
        );
        return Convert.ToHexStringLower(hash.Hash!);
    }

    private static string Hash(byte[] bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    private static string HashOf(string path) =>
        InputFile.Read(path, "file", stream => Convert.ToHexStringLower(SHA256.HashData(stream)));
}
