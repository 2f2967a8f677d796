using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime;

/// <summary>Evaluates a model over a data set, batch by batch.</summary>
/// <remarks>
/// Owns the native buffers of the batches of a <see cref="Dataset"/>: dispose it. A model that fixes its batch size
/// leaves out a last batch of fewer samples.
/// </remarks>
public sealed class Evaluator : IDisposable
{
    private readonly MacTrainingSession _session;
    private readonly IBatchSource _data;
    private readonly BatchLoader? _owned;
    private readonly Gate _gate;

    /// <summary>Initializes a new instance of the <see cref="Evaluator"/> class for data in memory.</summary>
    /// <param name="session">The session, whose current weights are evaluated.</param>
    /// <param name="data">The data.</param>
    /// <param name="batchSize">The samples of a batch; 0 passes every array as it is.</param>
    /// <exception cref="GraphRewriter.Diagnostics.MacOnnxException">A label is out of range, or the data give no batch
    /// that the model takes.</exception>
    public Evaluator(MacTrainingSession session, Dataset data, int batchSize)
    {
        ArgumentNullException.ThrowIfNull(session);
        ArgumentNullException.ThrowIfNull(data);
        data.CheckLabels(session.Package.Manifest);
        _gate = new(this);
        (_session, _data) = (session, _owned = new BatchLoader(data, batchSize, shuffle: false, seed: 0));
    }

    /// <summary>Initializes a new instance of the <see cref="Evaluator"/> class for batches of any source.</summary>
    /// <param name="session">The session, whose current weights are evaluated.</param>
    /// <param name="data">The batches; epoch 0 is evaluated. Labels must be classes of the model.</param>
    public Evaluator(MacTrainingSession session, IBatchSource data)
    {
        ArgumentNullException.ThrowIfNull(session);
        ArgumentNullException.ThrowIfNull(data);
        (_session, _data, _gate) = (session, data, new(this));
    }

    /// <summary>Evaluates once, in inference mode.</summary>
    /// <param name="cancellationToken">Ends the evaluation after the current batch.</param>
    /// <returns>The loss is the mean over all elements that count, the accuracy the part of right answers among
    /// them.</returns>
    /// <exception cref="OperationCanceledException">Cancelled.</exception>
    public Evaluation Run(CancellationToken cancellationToken = default)
    {
        using var pass = _gate.Enter();
        var isCounted = _session.Package.Manifest.Buffers.Any(b => b.Role == BufferRole.EvaluationCount);
        var (loss, count, correct, labeled, samples) = (0.0, 0.0, (double?)0, (double?)0, 0L);
        foreach (var batch in _data.Epoch(0, 0, cancellationToken))
        {
            var result = _session.EvalStep(batch.Values);
            var weight = isCounted ? result.Count : batch.Samples;
            loss += result.Loss * weight;
            count += weight;
            correct += result.Correct;
            labeled += result.Labeled;
            samples += batch.Samples;
        }

        return new(loss / count, correct / labeled, samples);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_gate.Close())
        {
            _owned?.Dispose();
        }
    }
}
