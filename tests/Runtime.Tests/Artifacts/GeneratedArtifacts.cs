using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>One set of artifacts that onnxruntime-training 1.19.2 made, with what it computed on them.</summary>
internal sealed class GeneratedArtifacts
{
    private readonly JsonElement _golden;
    private readonly IReadOnlyDictionary<string, Tensor> _batches;

    public GeneratedArtifacts(string name)
    {
        Folder = Path.Combine(Repository.Shared("ort-artifacts"), "generated", name);
        _golden = JsonDocument.Parse(File.ReadAllText(Path.Combine(Folder, "golden.json"))).RootElement;
        _batches = NpzFile.Read(Path.Combine(Folder, "batches.npz"));
        Golden = NpzFile.Read(Path.Combine(Folder, "golden.npz"));
    }

    public string Folder { get; }

    public IReadOnlyDictionary<string, Tensor> Golden { get; }

    public float LearningRate => _golden.GetProperty("learning_rate").GetSingle();

    public float[] Losses => Numbers(_golden.GetProperty("losses"));

    public float[] AccumulatedLosses => Numbers(_golden.GetProperty("accumulated").GetProperty("losses"));

    public float EvaluationLoss(int step) => _golden.GetProperty("eval_loss").GetProperty($"{step}").GetSingle();

    public IEnumerable<string> Trainable =>
        _golden.GetProperty("trainable").EnumerateArray().Select(p => p.GetString()!);

    public RewriteOptions Keep =>
        new()
        {
            Optimizer = OptimizerKind.Keep,
            Hyperparameters = new() { LearningRate = LearningRate },
        };

    /// <summary>Gives a batch in the order of a package's inputs; 8 is none of them.</summary>
    public OrtValue[] Batch(TrainingPackage package, int index) => Values(package, a => Slice(_batches[a], index));

    public OrtValue[] EvaluationBatch(TrainingPackage package) => Values(package, a => _batches[$"eval_{a}"]);

    private OrtValue[] Values(TrainingPackage package, Func<string, Tensor> array)
    {
        var names = _golden
            .GetProperty("graph_inputs")
            .EnumerateObject()
            .ToDictionary(p => p.Value.GetString()!, p => p.Name);
        return [.. package.Manifest.Inputs.Select(i => OrtValues.Of(array(names[i.Name])))];
    }

    private static Tensor Slice(Tensor all, int index)
    {
        var size = all.Data.Length / (int)all.Dims[0];
        return new(all.Type, all.Dims.RemoveAt(0), all.Data.Slice(index * size, size));
    }

    private static float[] Numbers(JsonElement array) => [.. array.EnumerateArray().Select(n => n.GetSingle())];

    /// <summary>Compares relative to the largest magnitude of the tensor.</summary>
    public static void Near(Tensor expected, Tensor actual, double tolerance, string what)
    {
        var x = expected.Span<float>();
        var y = actual.Span<float>();
        Assert.Equal(expected.Dims, actual.Dims);
        var (difference, scale) = (0.0, 1e-12);
        for (var i = 0; i < x.Length; i++)
        {
            difference = Math.Max(difference, Math.Abs((double)x[i] - y[i]));
            scale = Math.Max(scale, Math.Abs((double)x[i]));
        }

        Assert.True(
            difference <= tolerance * scale,
            $"{what} differs by {difference / scale:e2} of its largest number."
        );
    }
}
