using System.Collections.Immutable;
using System.Text.Json;
using System.Text.Json.Serialization;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>A graph input as the model declares it.</summary>
/// <param name="Name">The name.</param>
/// <param name="Type">The element type.</param>
/// <param name="Dims">The dimensions; -1 where any size is accepted.</param>
public sealed record TensorInfo(string Name, ElementType Type, ImmutableArray<long> Dims);

/// <summary>What joins the files of a package: <c>manifest.json</c>.</summary>
public sealed record Manifest
{
    /// <summary>The format that this version writes and reads.</summary>
    public const int CurrentFormat = 2;

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

    /// <summary>Gets the model's own outputs, which the evaluation graph has too.</summary>
    public required ImmutableArray<string> Outputs { get; init; }

    /// <summary>Gets the names of the trained parameters.</summary>
    public required ImmutableArray<string> Trained { get; init; }

    /// <summary>Gets every tensor that the runtime keeps: parameters, state, gradients, scalars.</summary>
    public required ImmutableArray<BufferInfo> Buffers { get; init; }

    /// <summary>
    /// Gets the buffers that inputs and outputs of the graphs are bound to. Inputs for data are not among them.
    /// </summary>
    public required ImmutableArray<Binding> Bindings { get; init; }

    /// <summary>Gets what the host computes between graphs.</summary>
    public ImmutableArray<HostRefresh> HostRefreshes { get; init; } = [];

    /// <summary>Gets the moving average of the weights; null where none is kept.</summary>
    public WeightAverage? Average { get; init; }

    /// <summary>
    /// Gets the buffer of what the diagnostics graph measures of each layer, by the layer's weight.
    /// </summary>
    public ImmutableSortedDictionary<string, string> Diagnostics { get; init; } =
        ImmutableSortedDictionary<string, string>.Empty;

    /// <summary>Gets the SHA-256 of every other file of the package, in lower-case hexadecimal digits.</summary>
    public ImmutableSortedDictionary<string, string> Files { get; init; } =
        ImmutableSortedDictionary<string, string>.Empty;

    /// <summary>Gets the updates that were applied before the starting weights, whose optimizer state the package then
    /// holds too.</summary>
    public long Updates { get; init; }

    /// <summary>Gets the buffers that checkpoints hold.</summary>
    [JsonIgnore]
    public IEnumerable<BufferInfo> States => Buffers.Where(b => b.IsState);

    /// <summary>Gets what was understood of every floating-point constant.</summary>
    public required ImmutableArray<ParameterReport> Parameters { get; init; }

    /// <summary>Gives whether training reads a hyper-parameter, such as <c>damping</c>.</summary>
    /// <param name="hyperparameter">Its name in formulas, see <see cref="Hyperparameters.Named"/>.</param>
    public bool Reads(string hyperparameter)
    {
        var reads = false;
        foreach (var formula in Buffers.Select(b => b.Formula).OfType<string>().Distinct())
        {
            _ = Formula.Parse(formula)(name =>
            {
                reads |= name == hyperparameter;
                return 1;
            });
        }

        return reads;
    }

    /// <summary>Reads <c>manifest.json</c>.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="MacOnnxException">The file is missing, damaged, or of another format.</exception>
    public static Manifest Read(string path)
    {
        try
        {
            InputFile.RequireContent(path);
            var json = File.ReadAllBytes(path);
            var format = FormatOf(json);
            if (format != CurrentFormat)
            {
                throw new MacOnnxException(
                    "MAC0405",
                    path,
                    $"The package has the format {format}; this version reads {CurrentFormat}.",
                    "Rewrite the model again."
                );
            }

            var manifest =
                JsonSerializer.Deserialize(json, ManifestJson.Default.Manifest)
                ?? throw new JsonException("The manifest is null.");
            return manifest.Fault() is { } fault ? throw new JsonException(fault) : manifest;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new MacOnnxException(
                "MAC0403",
                path,
                $"The manifest is damaged: {InputFile.Reason(e)}.",
                "Rewrite the model again.",
                e
            );
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new MacOnnxException(
                "MAC0402",
                path,
                $"The manifest cannot be read: {InputFile.Reason(e)}.",
                "Give a folder that 'maconnx rewrite' wrote.",
                e
            );
        }
    }

    private static long FormatOf(byte[] json)
    {
        using var document = JsonDocument.Parse(json);
        return
            document.RootElement.ValueKind == JsonValueKind.Object
            && document.RootElement.TryGetProperty("format", out var format)
            && format.TryGetInt64(out var number)
            ? number
            : throw new JsonException("it does not say its format");
    }

    /// <summary>Gives what is wrong with the tables, as the end of a sentence; null where nothing is.</summary>
    private string? Fault()
    {
        if (
            Model is null
            || Options?.Hyperparameters is null
            || Options.Dimensions is null
            || Options.Groups is null
            || Options.Groups.Any(g => g?.Pattern is null || g.Formulas is null)
            || Average is { Weight: null } or { Averages: null }
            || Options.TargetName is null
            || Files is null
            || Diagnostics is null
            || Inputs.IsDefault
            || Outputs.IsDefault
            || Trained.IsDefault
            || Buffers.IsDefault
            || Bindings.IsDefault
            || HostRefreshes.IsDefault
            || Parameters.IsDefault
        )
        {
            return "a part of it is null";
        }

        if (
            Inputs.Append(Target ?? Inputs.FirstOrDefault()).Any(i => i?.Name is null || i.Dims.IsDefault)
            || Logits is { Dims.IsDefault: true }
            || Parameters.Any(p => p?.Name is null || p.Shape.IsDefault || p.UsedBy.IsDefault)
            || Files.Any(f => f.Value is null)
            || Bindings.Any(b => b?.Graph is null || b.Value is null)
            || HostRefreshes.Any(h => h is null)
        )
        {
            return "an entry of it is null";
        }

        var buffers = new Dictionary<string, BufferInfo>(StringComparer.Ordinal);
        foreach (var buffer in Buffers)
        {
            if (string.IsNullOrEmpty(buffer?.Name) || !buffers.TryAdd(buffer.Name, buffer))
            {
                return $"the buffer '{buffer?.Name}' has no name or appears twice";
            }

            if (
                buffer.Dims.IsDefault
                || buffer.Dims.Any(d => d < 0)
                || buffer.Type.Size() == 0
                || Size(buffer) is not { } bytes
                || bytes > Array.MaxLength
            )
            {
                return $"the buffer '{buffer.Name}' has an impossible type or shape";
            }

            if (buffer.Role == BufferRole.Scalar && !Formula.IsValid(buffer.Formula))
            {
                return $"the formula of '{buffer.Name}' cannot be read";
            }
        }

        var names = Bindings
            .Select(b => b?.Buffer)
            .Concat(
                HostRefreshes.SelectMany(h => new[] { h.Source, h.Result, h.Damping, h.Pass?.Samples ?? h.Damping })
            )
            .Concat(Trained)
            .Concat(Diagnostics.SelectMany(Pair))
            .Concat(Average is { } average ? [average.Weight, .. average.Averages.SelectMany(Pair)] : []);
        return names.FirstOrDefault(n => n is null || !buffers.ContainsKey(n), "") is var unknown and not ""
                ? $"there is no buffer '{unknown}'"
            : HostRefreshes.FirstOrDefault(h => !Fits(h, buffers)) is { } refresh
                ? $"the matrix '{refresh.Source}' and its inverse do not fit"
            : Diagnostics.Any(d =>
                buffers[d.Value] is not { Type: ElementType.Float, Place: BufferPlace.Host, Dims: [3] }
            )
                ? "the numbers of a layer are not three"
            : Average?.Averages.Any(a => !buffers[a.Value].Dims.SequenceEqual(buffers[a.Key].Dims)) == true
                ? "an average's shape is not its parameter's"
            : null;

        static string[] Pair(KeyValuePair<string, string> pair) => [pair.Key, pair.Value];
    }

    /// <summary>Whether the matrices of a refresh are square and of one size, and its numbers numbers.</summary>
    private static bool Fits(HostRefresh refresh, Dictionary<string, BufferInfo> buffers)
    {
        var (source, result) = (buffers[refresh.Source], buffers[refresh.Result]);
        var numbers = new[] { refresh.Damping, refresh.Pass?.Samples ?? refresh.Damping }.Select(n => buffers[n]);
        return source is { Type: ElementType.Float, Dims: [var rows, var columns] }
            && rows == columns
            && result.Type == source.Type
            && result.Dims.SequenceEqual(source.Dims)
            && numbers.All(n => n is { Type: ElementType.Float, Dims: [] });
    }

    /// <summary>Gives the bytes of a buffer; null where their number is beyond all numbers.</summary>
    private static long? Size(BufferInfo buffer)
    {
        try
        {
            return buffer.Bytes;
        }
        catch (OverflowException)
        {
            return null;
        }
    }

    internal byte[] ToJson() => JsonSerializer.SerializeToUtf8Bytes(this, ManifestText.Default.Manifest);
}

[JsonSourceGenerationOptions(
    WriteIndented = true,
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    UseStringEnumConverter = true,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull
)]
[JsonSerializable(typeof(Manifest))]
internal sealed partial class ManifestJson : JsonSerializerContext;

/// <summary>
/// Writes manifests. Without what reading needs, which takes far longer to set up than writing takes.
/// </summary>
[JsonSourceGenerationOptions(
    WriteIndented = true,
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    UseStringEnumConverter = true,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    GenerationMode = JsonSourceGenerationMode.Serialization
)]
[JsonSerializable(typeof(Manifest))]
internal sealed partial class ManifestText : JsonSerializerContext;
