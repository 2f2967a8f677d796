using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>A source that a user writes trains as the built-in one does.</summary>
public sealed class BatchSourceTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>The same batches in the same order: the same bits, and a resumed run has them too.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void AStreamOfBatchesTrainsAsALoaderDoes(int accumulation)
    {
        var options = new TrainerOptions
        {
            Epochs = 2,
            Shuffle = false,
            AccumulationSteps = accumulation,
        };
        using var expected = Digits.Session();
        using (var trainer = new Trainer(expected, Digits.Data, options))
        {
            trainer.Run(TestContext.Current.CancellationToken);
        }

        using var session = Digits.Session();
        using (var trainer = new Trainer(session, new Stream(), options, new Stream()))
        {
            var result = trainer.Run(TestContext.Current.CancellationToken);
            using var evaluator = new Evaluator(expected, Digits.Data, 64);
            Assert.Equal(evaluator.Run(TestContext.Current.CancellationToken), result.Validation);
        }

        Assert.Equal(Digits.Bits(expected), Digits.Bits(session));

        // Stopped within an epoch.
        var partial = options with
        {
            OutputFolder = _folder.File("run"),
        };
        using (var first = Digits.Session())
        using (var trainer = new Trainer(first, new Stream(), partial with { MaxSteps = 5 }))
        {
            trainer.Run(TestContext.Current.CancellationToken);
        }

        using var resumed = Digits.Session();
        using (var trainer = new Trainer(resumed, new Stream(), partial))
        {
            Assert.True(trainer.Resume());
            trainer.Run(TestContext.Current.CancellationToken);
        }

        Assert.Equal(Digits.Bits(expected), Digits.Bits(resumed));
    }

    [Fact]
    public void ASourceWithoutBatchesEndsTheRun()
    {
        using var session = Digits.Session();
        using var trainer = new Trainer(session, new Stream(rows: 0), new TrainerOptions());
        Assert.Equal(
            "MAC0608",
            Assert.Throws<MacOnnxException>(() => trainer.Run(TestContext.Current.CancellationToken)).Diagnostic.Id
        );
    }

    [Fact]
    public void AScheduleNeedsAnEnd()
    {
        using var session = Digits.Session();
        var options = new TrainerOptions { Schedule = ScheduleKind.Cosine };
        using var trainer = new Trainer(session, new Stream(), options);
        Assert.Equal(
            "TrainerOptions.ScheduleSteps",
            Assert.Throws<MacOnnxException>(() => trainer.Run(TestContext.Current.CancellationToken)).Diagnostic.Where
        );
    }

    /// <summary>Reads the digits line by line and never knows how many are left.</summary>
    private sealed class Stream(int rows = int.MaxValue) : IBatchSource
    {
        public long? BatchesPerEpoch => null;

        public IEnumerable<Batch> Epoch(long epoch, long firstBatch, CancellationToken cancellationToken)
        {
            var lines = File.ReadLines(Path.Combine(Repository.Root, "models", "digits.csv"))
                .Skip(1)
                .Take(rows)
                .Chunk(64);
            foreach (var (index, chunk) in lines.Index().Skip((int)firstBatch))
            {
                cancellationToken.ThrowIfCancellationRequested();
                var numbers = chunk.Select(l => l.Split(',').Select(n => float.Parse(n, null)).ToArray()).ToArray();
                using var pixels = OrtValue.CreateTensorValueFromMemory(
                    numbers.SelectMany(n => n[..64]).ToArray(),
                    [chunk.Length, 64]
                );
                using var labels = OrtValue.CreateTensorValueFromMemory(
                    numbers.Select(n => (long)n[64]).ToArray(),
                    [chunk.Length]
                );
                yield return new Batch([pixels, labels], index, chunk.Length);
            }
        }
    }
}
