using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.Json.Serialization.Metadata;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.Runtime.Comparisons;

/// <summary>Everything that decides how a run ends.</summary>
/// <param name="Package">The hash of the package.</param>
/// <param name="Data">The hash of the data.</param>
/// <param name="Hyperparameters">The hyper-parameters.</param>
/// <param name="Training">How it trains; its seed and its steps are among them.</param>
/// <param name="IsEvaluated">Whether it is evaluated at its end.</param>
internal sealed record TrialKey(
    string Package,
    string Data,
    Hyperparameters Hyperparameters,
    TrainerOptions Training,
    bool IsEvaluated
);

/// <summary>What a run left.</summary>
/// <param name="Key">What decided it.</param>
/// <param name="Losses">The loss of each step; null where the run diverged.</param>
/// <param name="Validation">The evaluation after it.</param>
internal sealed record Trial(TrialKey Key, float[]? Losses, Evaluation? Validation);

/// <summary>What decides how long steps take, and how many there are.</summary>
/// <param name="Packages">The hashes of the packages.</param>
/// <param name="Data">The hash of the data.</param>
/// <param name="Training">How a run trains.</param>
/// <param name="Budget">What the number of steps follows from; empty where it is given.</param>
internal sealed record TimingKey(string[] Packages, string Data, TrainerOptions Training, string Budget);

/// <summary>The times of steps.</summary>
/// <param name="Key">What decides them.</param>
/// <param name="Milliseconds">The time of a step of each method.</param>
/// <param name="Steps">The steps of a final run.</param>
internal sealed record Timing(TimingKey Key, double[] Milliseconds, long Steps);

/// <summary>
/// The finished runs of comparisons, each in a file named by the hash of its key: a comparison takes from the folder
/// what it would compute again, and leaves alone what belongs to others.
/// </summary>
/// <param name="folder">The folder; null to keep nothing.</param>
internal sealed class TrialStore(string? folder)
{
    /// <summary>Gives the run with a key; null where it is not there, or its file is damaged.</summary>
    public Trial? Find(string method, TrialKey key) =>
        Read(File(method, key, TrialJson.Default.TrialKey), TrialJson.Default.Trial) is { } trial && trial.Key == key
            ? trial
            : null;

    /// <summary>Gives the times with a key; null where they are not there, or their file is damaged.</summary>
    public Timing? Find(TimingKey key) =>
        Read(File("steps", key, TrialJson.Default.TimingKey), TrialJson.Default.Timing) is { } timing
        && timing.Milliseconds.Length == key.Packages.Length
            ? timing
            : null;

    /// <summary>Keeps a run.</summary>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public void Keep(string method, Trial trial) =>
        Write(File(method, trial.Key, TrialJson.Default.TrialKey), trial, TrialJson.Default.Trial);

    /// <summary>Keeps times.</summary>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public void Keep(Timing timing) =>
        Write(File("steps", timing.Key, TrialJson.Default.TimingKey), timing, TrialJson.Default.Timing);

    private string? File<T>(string name, T key, JsonTypeInfo<T> type)
    {
        if (folder is null)
        {
            return null;
        }

        var hash = Convert.ToHexStringLower(SHA256.HashData(JsonSerializer.SerializeToUtf8Bytes(key, type)));
        var safe = string.Concat(name.Select(c => char.IsAsciiLetterOrDigit(c) || c is '-' ? c : '_'));
        return Path.Combine(folder, $"{safe[..Math.Min(safe.Length, 40)]}-{hash[..16]}.json");
    }

    private static T? Read<T>(string? path, JsonTypeInfo<T> type)
        where T : class
    {
        try
        {
            if (path is null || !System.IO.File.Exists(path))
            {
                return null;
            }

            InputFile.RequireContent(path);
            return JsonSerializer.Deserialize(System.IO.File.ReadAllBytes(path), type);
        }
        catch (Exception e) when (e is JsonException or InvalidDataException)
        {
            return null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new MacOnnxException(
                "MAC0402",
                path!,
                $"The file cannot be read: {InputFile.Reason(e)}.",
                "Correct the permissions or choose another folder.",
                e
            );
        }
    }

    private static void Write<T>(string? path, T value, JsonTypeInfo<T> type)
    {
        if (path is not null)
        {
            AtomicFile.Write(path, stream => JsonSerializer.Serialize(stream, value, type));
        }
    }
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    UseStringEnumConverter = true,
    NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals
)]
[JsonSerializable(typeof(Trial))]
[JsonSerializable(typeof(TrialKey))]
[JsonSerializable(typeof(Timing))]
[JsonSerializable(typeof(TimingKey))]
internal sealed partial class TrialJson : JsonSerializerContext;
