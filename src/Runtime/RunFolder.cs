using System.Globalization;
using System.Text.Json;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.Runtime;

/// <summary>The files of one training run.</summary>
/// <param name="path">The folder; it need not be there yet.</param>
public sealed class RunFolder(string path)
{
    private const string Prefix = "step-";
    private const string Suffix = ".safetensors";

    /// <summary>Gets the folder.</summary>
    public string Path { get; } = path;

    /// <summary>Gets the metrics: one JSON object a line for each step.</summary>
    public string Metrics => File("metrics.jsonl");

    /// <summary>Gets the results of the epochs: one JSON object a line for each.</summary>
    public string Epochs => File("epochs.jsonl");

    /// <summary>Gets the options that the run was started with.</summary>
    public string Options => File("run.json");

    /// <summary>Gets the folder of the package, where the run rewrote the model itself.</summary>
    public string Package => File("model.mac");

    /// <summary>Gets the trained model.</summary>
    public string TrainedModel => File("trained.onnx");

    /// <summary>Gets the plot of loss and accuracy.</summary>
    public string Plot => File("loss.svg");

    /// <summary>Gets the plot of what the preconditioners did, where the run measured it.</summary>
    public string LayerPlot => File("layers.svg");

    /// <summary>Gives the checkpoint's file after a step: <c>step-000012.safetensors</c>.</summary>
    /// <param name="step">The step, from 1.</param>
    public string Checkpoint(long step) =>
        File(string.Create(CultureInfo.InvariantCulture, $"{Prefix}{step:D6}{Suffix}"));

    /// <summary>Gets whether the run's own package is complete: its manifest is written last.</summary>
    public bool HasPackage => System.IO.File.Exists(System.IO.Path.Combine(Package, "manifest.json"));

    /// <summary>Gives the steps that there are checkpoints of, the newest first.</summary>
    public IReadOnlyList<long> Steps() =>
        !Directory.Exists(Path)
            ? []
            :
            [
                .. Directory
                    .EnumerateFiles(Path, $"{Prefix}*{Suffix}")
                    .Select(f => System.IO.Path.GetFileName(f)[Prefix.Length..^Suffix.Length])
                    .Select(n => long.TryParse(n, NumberStyles.None, CultureInfo.InvariantCulture, out var s) ? s : 0)
                    .Where(step => step > 0)
                    .OrderDescending(),
            ];

    /// <summary>Gives the last step that there is a checkpoint of; null where there is none.</summary>
    public long? NewestStep() => Steps() is [var newest, ..] ? newest : null;

    /// <summary>Reads the objects of a file of JSON lines; none where it is not there.</summary>
    /// <param name="path"><see cref="Metrics"/> or <see cref="Epochs"/>.</param>
    public static IEnumerable<JsonElement> ReadLines(string path) => MetricsLog.Lines(path).Select(l => l.Object);

    /// <summary>Reads the options that the run was started with; null where there is no run.</summary>
    /// <exception cref="MacOnnxException">The file is damaged.</exception>
    public TrainerOptions? ReadOptions()
    {
        if (!System.IO.File.Exists(Options))
        {
            return null;
        }

        try
        {
            InputFile.RequireContent(Options);
            var options = JsonSerializer.Deserialize(
                System.IO.File.ReadAllBytes(Options),
                TrainerJson.Default.TrainerOptions
            );
            return options is null ? null : options with { OutputFolder = Path };
        }
        catch (Exception e)
            when (e is JsonException or InvalidDataException or IOException or UnauthorizedAccessException)
        {
            throw new MacOnnxException(
                "MAC0703",
                Options,
                "The run's options cannot be read.",
                "Start another run.",
                e
            );
        }
    }

    /// <summary>
    /// Takes the folder for this process alone, until the result is disposed or the process ends, and removes the
    /// temporary files of processes that were killed. The folder is made if missing.
    /// </summary>
    /// <exception cref="MacOnnxException">Another trainer has the folder (MAC0704), or it cannot be written
    /// (MAC0401).</exception>
    internal IDisposable Claim()
    {
        var path = File(".lock");
        try
        {
            Directory.CreateDirectory(Path);
            var claim = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            AtomicFile.RemoveAbandoned(Path);
            AtomicFile.RemoveAbandoned(Package);
            return claim;
        }
        catch (IOException e) when (System.IO.File.Exists(path))
        {
            throw new MacOnnxException(
                "MAC0704",
                Path,
                "Another process is training in this folder.",
                "Wait for it to end, or choose another folder.",
                e
            );
        }
        catch (Exception e) when (AtomicFile.Fault(path, e) is { } fault)
        {
            throw fault;
        }
    }

    internal void WriteOptions(TrainerOptions options) =>
        AtomicFile.Write(Options, s => JsonSerializer.Serialize(s, options, TrainerJson.Default.TrainerOptions));

    private string File(string name) => System.IO.Path.Combine(Path, name);
}
