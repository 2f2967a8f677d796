#pragma warning disable xUnit1051 // No test here runs long enough to be cancelled.
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime.Tests.Data;

/// <summary>Counts what the whole process allocates, so no other test may run beside it.</summary>
[CollectionDefinition(nameof(BatchLoaderAllocationTests), DisableParallelization = true)]
[Collection(nameof(BatchLoaderAllocationTests))]
public sealed class BatchLoaderAllocationTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(1000)]
    public void A_step_allocates_the_same_few_bytes_whatever_the_batch_size(int batchSize)
    {
        using var loader = new BatchLoader(
            BatchLoaderTests.Samples(100 * batchSize),
            batchSize,
            shuffle: true,
            seed: 1
        );
        Assert.Equal(100, loader.Epoch(0).Count());
        var least = Enumerable
            .Range(1, 10)
            .Min(epoch =>
            {
                var before = GC.GetTotalAllocatedBytes(precise: true);
                _ = loader.Epoch(epoch).Count();
                return GC.GetTotalAllocatedBytes(precise: true) - before;
            });

        // A task, its closure and a Batch: 216 bytes measured. One batch of 1,000 samples has 16,000.
        Assert.InRange(least / 100, 0, 1000);
    }
}
