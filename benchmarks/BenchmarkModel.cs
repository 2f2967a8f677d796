namespace MacOnnx.Benchmarks;

/// <summary>
/// A benchmark model and its fixed batch, the same for every library that trains it.
/// </summary>
/// <param name="Name">Short name, as on the command line.</param>
/// <param name="File">The model's file name, as written by export_models.py.</param>
/// <param name="Batch">Samples in the batch.</param>
/// <param name="SampleShape">Shape of one sample, without the batch axis.</param>
internal sealed record BenchmarkModel(string Name, string File, int Batch, long[] SampleShape)
{
    /// <summary>Every model has this many classes.</summary>
    public const int Classes = 10;

    /// <summary>All models.</summary>
    public static IReadOnlyList<BenchmarkModel> All { get; } =
    [
        new("mlp", "mlp-784-512-512-10.onnx", 128, [784]),
        new("lenet", "lenet.onnx", 128, [1, 28, 28]),
        new("resnet20", "resnet20.onnx", 64, [3, 32, 32]),
        new("encoder", "encoder.onnx", 32, [64, 128]),
        new("lstm", "lstm.onnx", 32, [64, 256]),
    ];

    /// <summary>The model called <paramref name="name"/>.</summary>
    /// <exception cref="ArgumentException">There is none.</exception>
    public static BenchmarkModel Get(string name) =>
        All.FirstOrDefault(model => model.Name == name)
        ?? throw new ArgumentException($"No model '{name}'; there are {string.Join(", ", All.Select(m => m.Name))}.");

    /// <summary>Shape of the input, [batch, ..sample].</summary>
    public long[] InputShape => [Batch, .. SampleShape];

    /// <summary>The input's values, uniform in [-1, 1), row major; the same at every call.</summary>
    public float[] CreateInput()
    {
        var random = new Random(1);
        var values = new float[Batch * SampleShape.Aggregate(1L, (a, b) => a * b)];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = (2 * random.NextSingle()) - 1;
        }

        return values;
    }

    /// <summary>The class of each sample, 0 to 9; the same at every call.</summary>
    public long[] CreateLabels()
    {
        var random = new Random(2);
        return [.. Enumerable.Range(0, Batch).Select(_ => (long)random.Next(Classes))];
    }
}
