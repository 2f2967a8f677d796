using System.Globalization;
using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Json.Serialization;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Checkpoints;

/// <summary>Where in the data training is.</summary>
/// <param name="Epoch">The epoch, from 0.</param>
/// <param name="Batch">The next batch of that epoch.</param>
/// <param name="Seed">The seed of the order of samples.</param>
public readonly record struct DataPosition(long Epoch, long Batch, ulong Seed);

/// <summary>
/// What a checkpoint file holds: tensors by name, and in the metadata the counters, hyper-parameters and data position.
/// </summary>
/// <param name="State">Parameters, running statistics and optimizer state.</param>
/// <param name="Updates">The updates applied.</param>
/// <param name="Seed">The seed of dropout masks.</param>
/// <param name="LossScale">The dynamic loss scale.</param>
/// <param name="Hyperparameters">The hyper-parameters; null in a file of weights alone.</param>
/// <param name="Position">Where in the data training is.</param>
public sealed record Checkpoint(
    IReadOnlyDictionary<string, Tensor> State,
    long Updates,
    ulong Seed,
    LossScale LossScale,
    Hyperparameters? Hyperparameters,
    DataPosition Position
)
{
    /// <summary>Gets whether every number of the state is finite.</summary>
    public bool IsFinite => HasFiniteNumbers(State.Values);

    /// <summary>Writes the file, complete or not at all.</summary>
    /// <param name="path">The safetensors file.</param>
    public void Write(string path) =>
        Safetensors.Write(
            path,
            State,
            new Dictionary<string, string>
            {
                ["updates"] = Updates.ToString(CultureInfo.InvariantCulture),
                ["seed"] = Seed.ToString(CultureInfo.InvariantCulture),
                ["loss_scale"] = LossScale.Value.ToString(CultureInfo.InvariantCulture),
                ["loss_scale_steps"] = LossScale.Steps.ToString(CultureInfo.InvariantCulture),
                ["hyperparameters"] = JsonSerializer.Serialize(
                    Hyperparameters,
                    CheckpointJson.Default.Hyperparameters!
                ),
                ["data_position"] = JsonSerializer.Serialize(Position, CheckpointJson.Default.DataPosition),
            }
        );

    /// <summary>Reads a file; one without metadata is taken as weights before the first step.</summary>
    /// <param name="path">The safetensors file.</param>
    /// <exception cref="MacOnnxException">The file is missing or damaged.</exception>
    public static Checkpoint Read(string path)
    {
        var file = Safetensors.Read(path);
        try
        {
            T? Number<T>(string key)
                where T : struct, INumber<T> =>
                file.Metadata.TryGetValue(key, out var text) ? T.Parse(text, CultureInfo.InvariantCulture) : null;
            var position = file.Metadata.TryGetValue("data_position", out var p)
                ? JsonSerializer.Deserialize(p, CheckpointJson.Default.DataPosition)
                : new();
            return new Checkpoint(
                file.Tensors,
                Number<long>("updates") is var n and not < 0 ? n ?? 0 : throw new FormatException("A negative count."),
                Number<ulong>("seed") ?? 0,
                new(Number<float>("loss_scale") ?? LossScale.First.Value, Number<long>("loss_scale_steps") ?? 0),
                file.Metadata.TryGetValue("hyperparameters", out var h)
                    ? JsonSerializer.Deserialize(h, CheckpointJson.Default.Hyperparameters)
                    : null,
                position is { Epoch: >= 0, Batch: >= 0 } ? position : throw new InvalidDataException()
            );
        }
        catch (Exception e) when (e is JsonException or FormatException or OverflowException or InvalidDataException)
        {
            throw new MacOnnxException(
                "MAC0404",
                path,
                "The checkpoint's metadata are damaged.",
                "Use another checkpoint.",
                e
            );
        }
    }

    /// <summary>Whether all floating-point numbers of some tensors are finite.</summary>
    internal static bool HasFiniteNumbers(IEnumerable<Tensor> tensors) =>
        tensors.All(t =>
            t.Type switch
            {
                ElementType.Float => t.Parts().All(p => TensorPrimitives.IsFiniteAll(Numbers<float>(p))),
                ElementType.Double => t.Parts().All(p => TensorPrimitives.IsFiniteAll(Numbers<double>(p))),
                ElementType.Float16 => t.Parts().All(p => TensorPrimitives.IsFiniteAll(Numbers<Half>(p))),
                _ => true,
            }
        );

    private static ReadOnlySpan<T> Numbers<T>(ReadOnlyMemory<byte> bytes)
        where T : unmanaged => MemoryMarshal.Cast<byte, T>(bytes.Span);
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower)]
[JsonSerializable(typeof(Hyperparameters))]
[JsonSerializable(typeof(DataPosition))]
internal sealed partial class CheckpointJson : JsonSerializerContext;
