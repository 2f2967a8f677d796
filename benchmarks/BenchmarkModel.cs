namespace MacOnnx.Benchmarks;

/// <summary>
/// A benchmark model and its fixed batch, the same for every library that trains it.
/// </summary>
/// <param name="Name">Short name, as on the command line.</param>
/// <param name="File">The model's file name, as written by export_models.py.</param>
/// <param name="Batch">Samples in the batch.</param>
/// <param name="SampleShape">Shape of one sample, without the batch axis.</param>
/// <param name="Vocabulary">Number of tokens of a language model, whose samples are ids and whose labels are the next
/// ids; null for other models.</param>
internal sealed record BenchmarkModel(string Name, string File, int Batch, long[] SampleShape, int? Vocabulary = null)
{
    /// <summary>Every model that is no language model has this many classes.</summary>
    public const int Classes = 10;

    /// <summary>All models.</summary>
    public static IReadOnlyList<BenchmarkModel> All { get; } =
    [
        new("mlp", "mlp-784-512-512-10.onnx", 128, [784]),
        new("lenet", "lenet.onnx", 128, [1, 28, 28]),
        new("resnet20", "resnet20.onnx", 64, [3, 32, 32]),
        new("resnet18", "resnet18.onnx", 16, [3, 64, 64]),
        new("mobilenet", "mobilenet.onnx", 16, [3, 64, 64]),
        new("encoder", "encoder.onnx", 32, [64, 128]),
        new("gpt", "gpt.onnx", 32, [64], Vocabulary: 256),
        new("lstm", "lstm.onnx", 32, [64, 256]),
    ];

    /// <summary>The model called <paramref name="name"/>.</summary>
    /// <exception cref="ArgumentException">There is none.</exception>
    public static BenchmarkModel Get(string name) =>
        All.FirstOrDefault(model => model.Name == name)
        ?? throw new ArgumentException($"No model '{name}'; there are {string.Join(", ", All.Select(m => m.Name))}.");

    /// <summary>Shape of the input, [batch, ..sample].</summary>
    public long[] InputShape => [Batch, .. SampleShape];

    /// <summary>Shape of the labels, [batch], or [batch, token].</summary>
    public long[] LabelShape => Vocabulary is null ? [Batch] : InputShape;

    /// <summary>The input's values, uniform in [-1, 1), row major; the same at every call.</summary>
    public float[] CreateInput()
    {
        var random = new Random(1);
        return [.. Enumerable.Range(0, Count(InputShape)).Select(_ => (2 * random.NextSingle()) - 1)];
    }

    /// <summary>A language model's input, row major; the same at every call.</summary>
    public long[] CreateIds() => Numbers(seed: 1, InputShape);

    /// <summary>The labels, row major; the same at every call.</summary>
    public long[] CreateLabels() => Numbers(seed: 2, LabelShape);

    private long[] Numbers(int seed, long[] shape)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, Count(shape)).Select(_ => (long)random.Next(Vocabulary ?? Classes))];
    }

    private static int Count(long[] shape) => (int)shape.Aggregate(1L, (a, b) => a * b);
}
