namespace MacOnnx.Runtime.Data;

/// <summary>Gives a <see cref="Trainer"/> or an <see cref="Evaluator"/> its batches, epoch by epoch.</summary>
/// <remarks>
/// <see cref="BatchLoader"/> is the source for data in memory; another one can stream them from files, a network or a
/// generator. A run resumes with the same bits if an epoch's batches depend on its number alone.
/// </remarks>
public interface IBatchSource
{
    /// <summary>
    /// Gets the number of batches of every epoch, 1 or more; null where only the end of the epoch tells. A run then
    /// has no last step known in advance, unless <see cref="TrainerOptions.MaxSteps"/> sets one.
    /// </summary>
    long? BatchesPerEpoch { get; }

    /// <summary>Gives the batches of an epoch, in order.</summary>
    /// <param name="epoch">The epoch's number, from 0.</param>
    /// <param name="firstBatch">The <see cref="Batch.Index"/> to begin with; where it is the number of batches of the
    /// epoch, there are none left.</param>
    /// <param name="cancellationToken">Ends the enumeration with an <see cref="OperationCanceledException"/> before the
    /// next batch.</param>
    /// <returns>The batches, each needed until the enumeration moves on or is disposed, so that buffers can be
    /// reused.</returns>
    IEnumerable<Batch> Epoch(long epoch, long firstBatch = 0, CancellationToken cancellationToken = default);
}
