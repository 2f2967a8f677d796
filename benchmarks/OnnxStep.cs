using MacOnnx.GraphRewriter;
using MacOnnx.Runtime;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Benchmarks;

/// <summary>A training step of a rewritten model on ONNX Runtime: gradients and update, the batch bound once.</summary>
internal sealed class OnnxStep : IDisposable
{
    private readonly MacTrainingSession _session;
    private readonly OrtValue[] _batch;

    /// <summary>Initializes a new instance of the <see cref="OnnxStep"/> class.</summary>
    /// <param name="model">The model; its file is in <paramref name="folder"/>.</param>
    /// <param name="folder">The folder that export_models.py wrote.</param>
    /// <param name="options">How the model is rewritten.</param>
    /// <param name="threads">Threads inside an operator.</param>
    public OnnxStep(BenchmarkModel model, string folder, RewriteOptions options, int threads)
    {
        var (package, report) = Rewriter.Rewrite(Path.Combine(folder, model.File), options);
        StateBytes = report.StateBytes;
        _session = new MacTrainingSession(
            package,
            o =>
            {
                o.IntraOpNumThreads = threads;
            }
        );
        _batch =
        [
            model.Vocabulary is null
                ? OrtValue.CreateTensorValueFromMemory(model.CreateInput(), model.InputShape)
                : OrtValue.CreateTensorValueFromMemory(model.CreateIds(), model.InputShape),
            OrtValue.CreateTensorValueFromMemory(model.CreateLabels(), model.LabelShape),
        ];
    }

    /// <summary>Gets the bytes that the optimizer keeps beside the parameters.</summary>
    public long StateBytes { get; }

    /// <summary>Takes one step and gives its loss.</summary>
    public float Step()
    {
        var loss = _session.TrainStep(_batch);
        return _session.OptimizerStep()
            ? loss
            : throw new InvalidOperationException("The loss or a gradient is not finite.");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _session.Dispose();
        foreach (var value in _batch)
        {
            value.Dispose();
        }
    }
}
