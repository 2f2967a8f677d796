using System.Collections.Immutable;
using System.Text.Json;
using System.Text.Json.Serialization;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Optimizer;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>A graph input as the model declares it.</summary>
/// <param name="Name">The name.</param>
/// <param name="Type">The element type.</param>
/// <param name="Dims">The dimensions; -1 where any size is accepted.</param>
public sealed record TensorInfo(string Name, ElementType Type, ImmutableArray<long> Dims);

/// <summary>The layer that the exact second moment A of its input preconditions.</summary>
/// <param name="Moment">The state that holds A, [size, size].</param>
/// <param name="Inverse">The optimizer graph's input for (A + rho I)^-1.</param>
/// <param name="Size">The inputs of one output of the layer, and one more for the bias.</param>
public sealed record ExactLayer(string Moment, string Inverse, long Size);

/// <summary>What joins the files of a package: <c>manifest.json</c>.</summary>
public sealed record Manifest
{
    /// <summary>The format that this version writes and reads.</summary>
    public const int CurrentFormat = 1;

    /// <summary>Gets the format.</summary>
    public int Format { get; init; } = CurrentFormat;

    /// <summary>Gets the file name of the model that was rewritten.</summary>
    public required string Model { get; init; }

    /// <summary>
    /// Gets the options that the model was rewritten with; its hyper-parameters are the defaults of training.
    /// </summary>
    public required RewriteOptions Options { get; init; }

    /// <summary>Gets the model's inputs.</summary>
    public required ImmutableArray<TensorInfo> Inputs { get; init; }

    /// <summary>Gets the target's graph input; null where the model computes the loss itself.</summary>
    public TensorInfo? Target { get; init; }

    /// <summary>Gets the number of classes, for cross entropy.</summary>
    public long? Classes { get; init; }

    /// <summary>Gets the class axis of the logits, for cross entropy.</summary>
    public int? ClassAxis { get; init; }

    /// <summary>Gets the logits, for cross entropy.</summary>
    public TensorInfo? Logits { get; init; }

    /// <summary>Gets the output of the training graph that is the loss.</summary>
    public required string Loss { get; init; }

    /// <summary>Gets the output of the evaluation graph that is the loss.</summary>
    public required string EvaluationLoss { get; init; }

    /// <summary>
    /// Gets the evaluation graph's output that counts the elements the loss is the mean of; null where that is not
    /// known.
    /// </summary>
    public string? Count { get; init; }

    /// <summary>
    /// Gets the evaluation graph's output that counts right answers; null for losses without classes.
    /// </summary>
    public string? Correct { get; init; }

    /// <summary>
    /// Gets the evaluation graph's output that counts the labels that are not ignored; null for losses without classes.
    /// </summary>
    public string? Labeled { get; init; }

    /// <summary>Gets the model's own outputs, which the evaluation graph has too.</summary>
    public required ImmutableArray<string> Outputs { get; init; }

    /// <summary>Gets the names of the trained parameters, in the order of the training graph's gradients.</summary>
    public required ImmutableArray<string> Trained { get; init; }

    /// <summary>
    /// Gets every tensor that is kept from step to step: parameters, running statistics, optimizer state.
    /// </summary>
    public required ImmutableArray<StateTensor> States { get; init; }

    /// <summary>
    /// Gets the training graph's outputs that only the optimizer and curvature graphs read, beside the gradients, with
    /// their shapes.
    /// </summary>
    public required ImmutableArray<TensorInfo> Statistics { get; init; }

    /// <summary>Gets the layer that is preconditioned exactly; null for none.</summary>
    public ExactLayer? Exact { get; init; }

    /// <summary>Gets what was understood of every floating-point constant.</summary>
    public required ImmutableArray<ParameterReport> Parameters { get; init; }

    /// <summary>Reads <c>manifest.json</c>.</summary>
    /// <exception cref="MacOnnxException">The file is missing, damaged, or of another format.</exception>
    public static Manifest Read(string path)
    {
        try
        {
            var manifest = JsonSerializer.Deserialize(File.ReadAllBytes(path), ManifestJson.Default.Manifest);
            return manifest is { Format: CurrentFormat }
                ? manifest
                : throw new MacOnnxException(
                    "MAC0405",
                    path,
                    $"The package has the format {manifest?.Format}; this version reads {CurrentFormat}.",
                    "Rewrite the model again."
                );
        }
        catch (JsonException e)
        {
            throw new MacOnnxException("MAC0403", path, "The manifest is damaged.", "Rewrite the model again.", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new MacOnnxException(
                "MAC0402",
                path,
                $"The manifest cannot be read: {e.Message}",
                "Give a folder that 'maconnx rewrite' wrote.",
                e
            );
        }
    }

    internal byte[] ToJson() => JsonSerializer.SerializeToUtf8Bytes(this, ManifestJson.Default.Manifest);
}

[JsonSourceGenerationOptions(
    WriteIndented = true,
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    UseStringEnumConverter = true,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull
)]
[JsonSerializable(typeof(Manifest))]
internal sealed partial class ManifestJson : JsonSerializerContext;
