namespace MacOnnx.Benchmarks.TorchBaseline;

/// <summary>One training step of a model in TorchSharp, repeated on the same batch.</summary>
internal interface ITorchStep : IDisposable
{
    /// <summary>The model's name.</summary>
    string Name { get; }

    /// <summary>Runs forward, cross entropy, backward and the optimizer's step.</summary>
    /// <returns>The loss before the update.</returns>
    float Step();
}
