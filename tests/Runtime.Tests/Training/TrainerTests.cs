using System.Text.Json;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Data;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>What a trainer leaves in its folder and in the weights.</summary>
public sealed class TrainerTests : IDisposable
{
    private readonly TempFolder _folder = new();

    /// <summary>26 batches an epoch, 13 steps; 45 steps end in the fourth epoch.</summary>
    private TrainerOptions Options =>
        new()
        {
            Epochs = 5,
            MaxSteps = 45,
            BatchSize = 64,
            Seed = 3,
            AccumulationSteps = 2,
            SaveEvery = 10,
            ValidationFraction = 0.1,
            Schedule = ScheduleKind.Cosine,
            ScheduleSteps = 60,
            WarmupSteps = 5,
            OutputFolder = _folder.File("run"),
        };

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(17)] // Within an epoch.
    [InlineData(26)] // At the end of one.
    public void AResumedRunEqualsAnUninterruptedOne(long stopAt)
    {
        var whole = Options with { OutputFolder = _folder.File("whole") };
        var expected = Train(whole, resume: false);

        // Cancelled, then killed after some more steps: a torn line, and lines of steps that no checkpoint holds.
        using var stop = new CancellationTokenSource();
        var partial = Train(Options, resume: false, stopAt, stop);
        Assert.True(partial.Result.WasCancelled);
        Assert.Equal(stopAt, partial.Result.Step);
        Assert.Equal(_folder.File(Path.Combine("run", $"step-0000{stopAt}.safetensors")), partial.Result.Checkpoint);
        File.AppendAllText(
            _folder.File("run/metrics.jsonl"),
            $$"""{"step":{{stopAt + 1}},"epoch":2,"loss":1}""" + "\n" + """{"step":"""
        );

        var resumed = Train(Options, resume: true);
        Assert.Equal(expected.Bits, resumed.Bits);
        Assert.Equal(expected.Result.Loss, resumed.Result.Loss);
        foreach (var file in new[] { "step-000045.safetensors", "metrics.jsonl", "epochs.jsonl" })
        {
            Assert.Equal(
                File.ReadAllBytes(_folder.File(Path.Combine("whole", file))),
                File.ReadAllBytes(_folder.File(Path.Combine("run", file)))
            );
        }
    }

    [Fact]
    public void EveryStepIsALineAndEveryTenthACheckpoint()
    {
        var seen = new List<TrainingProgress>();
        using var session = Digits.Session();
        using var trainer = new Trainer(session, Digits.Data, Options, null, new Watch(seen.Add));
        var result = trainer.Run(TestContext.Current.CancellationToken);
        var lines = RunFolder.ReadLines(_folder.File("run/metrics.jsonl")).ToArray();
        Assert.Equal(Enumerable.Range(1, 45), lines.Select(l => l.GetProperty("step").GetInt32()));
        Assert.Equal(
            seen.Where(s => s.Finished is null).Select(s => s.Loss),
            lines.Select(l => l.GetProperty("loss").GetSingle())
        );
        Assert.Equal(result.Loss, lines[^1].GetProperty("loss").GetSingle());
        Assert.Equal(0.1f / 5, lines[0].GetProperty("learning_rate").GetSingle());
        Assert.Equal(0.1f, lines[4].GetProperty("learning_rate").GetSingle());
        Assert.Equal(
            (float)(0.1f * 0.5 * (1 + Math.Cos(Math.PI * 39 / 55))),
            lines[44].GetProperty("learning_rate").GetSingle()
        );
        Assert.All(lines, l => Assert.True(l.GetProperty("gradient_norm").GetSingle() > 0));
        Assert.Equal(
            [10, 20, 30, 40, 45],
            Directory
                .GetFiles(_folder.File("run"), "*.safetensors")
                .Order(StringComparer.Ordinal)
                .Select(f => int.Parse(Path.GetFileNameWithoutExtension(f)[5..], null))
        );
        Assert.DoesNotContain(
            Directory.GetFiles(_folder.File("run")),
            f => f.EndsWith(".tmp", StringComparison.Ordinal)
        );

        var epochs = RunFolder.ReadLines(_folder.File("run/epochs.jsonl")).ToArray();
        Assert.Equal([13, 26, 39], epochs.Select(e => e.GetProperty("step").GetInt32()));
        Assert.Equal(
            lines[..13].Average(l => l.GetProperty("loss").GetSingle()),
            epochs[0].GetProperty("loss").GetDouble(),
            1e-6
        );
        Assert.Equal(3, seen.Count(s => s.Finished is not null));
        Assert.True(epochs[2].GetProperty("validation_accuracy").GetDouble() > 0.5);

        // The last evaluation is of the last weights.
        using var evaluator = new Evaluator(session, trainer.Validation!, 64);
        Assert.Equal(evaluator.Run(TestContext.Current.CancellationToken), result.Validation);
        Assert.Equal(180, result.Validation!.Samples);
        Assert.Equal(0.1f, session.Hyperparameters.LearningRate);
    }

    /// <summary>
    /// Both sum the same 256 losses; float32 sums in another order differ by some 1e-7 of values near 1 in each of
    /// three steps.
    /// </summary>
    [Fact]
    public void AccumulatedBatchesEqualTheWholeBatch()
    {
        var options = new TrainerOptions { MaxSteps = 3, Shuffle = false };
        using var whole = Digits.Session();
        using var parts = Digits.Session();
        using (var trainer = new Trainer(whole, Digits.Data, options with { BatchSize = 256 }))
        {
            trainer.Run(TestContext.Current.CancellationToken);
        }

        using (var trainer = new Trainer(parts, Digits.Data, options with { BatchSize = 64, AccumulationSteps = 4 }))
        {
            trainer.Run(TestContext.Current.CancellationToken);
        }

        var expected = whole.GetState();
        foreach (var (name, tensor) in parts.GetState())
        {
            Assert.All(expected[name].ToDouble().Zip(tensor.ToDouble()), p => Assert.Equal(p.First, p.Second, 2e-6));
        }
    }

    [Fact]
    public void AStepWithoutFiniteNumbersChangesNothing()
    {
        var data = WithNaN(70);
        var before = Array.Empty<byte>();
        using var session = Digits.Session();
        var watch = new Watch(p =>
        {
            if (p.Step == 1)
            {
                before = Digits.Bits(session);
            }

            Assert.Equal(p.Step == 2, p.Skipped);
            if (p.Step == 2)
            {
                Assert.Equal(before, Digits.Bits(session));
            }
        });
        using var trainer = new Trainer(
            session,
            data,
            new TrainerOptions
            {
                MaxSteps = 4,
                Shuffle = false,
                OutputFolder = _folder.File("run"),
            },
            null,
            watch
        );
        var result = trainer.Run(TestContext.Current.CancellationToken);
        Assert.Equal((4, 3), (result.Step, session.Updates));
        var lines = RunFolder.ReadLines(_folder.File("run/metrics.jsonl")).ToArray();
        Assert.Equal([1, 2, 3, 4], lines.Select(l => l.GetProperty("step").GetInt32()));
        Assert.Equal(JsonValueKind.Null, lines[1].GetProperty("loss").ValueKind);
        Assert.True(lines[1].GetProperty("skipped").GetBoolean());
        Assert.False(lines[2].TryGetProperty("skipped", out _));
    }

    [Fact]
    public void TrainingStopsWhenNumbersStayNotFinite()
    {
        using var session = Digits.Session();
        var data = WithNaN([.. Enumerable.Range(2, 26).Select(batch => batch * 64)]);
        using var trainer = new Trainer(
            session,
            data,
            new TrainerOptions
            {
                Shuffle = false,
                OutputFolder = _folder.File("run"),
                SaveEvery = 1,
            }
        );
        var e = Assert.Throws<MacOnnxException>(() => trainer.Run(TestContext.Current.CancellationToken));
        Assert.Equal("MAC0503", e.Diagnostic.Id);
        Assert.Contains("10 steps in a row", e.Message, StringComparison.Ordinal);
        using var again = Digits.Session();
        again.LoadCheckpoint(_folder.File("run/step-000012.safetensors"));
        Assert.Equal(2, again.Updates);
        Assert.Equal(Digits.Bits(session), Digits.Bits(again));
    }

    [Fact]
    public void AFailedSaveKeepsTheOlderFiles()
    {
        // A folder in the checkpoint's place: the file cannot be renamed over it.
        Directory.CreateDirectory(_folder.File("run/step-000002.safetensors"));
        using var session = Digits.Session();
        using var trainer = new Trainer(
            session,
            Digits.Data,
            new TrainerOptions { SaveEvery = 1, OutputFolder = _folder.File("run") }
        );
        Assert.Equal(
            "MAC0401",
            Assert.Throws<MacOnnxException>(() => trainer.Run(TestContext.Current.CancellationToken)).Diagnostic.Id
        );
        using var again = Digits.Session();
        again.LoadCheckpoint(_folder.File("run/step-000001.safetensors"));
        Assert.Equal(1, again.Updates);
    }

    [Fact]
    public void AUsedFolderIsNotOverwritten()
    {
        var options = new TrainerOptions { MaxSteps = 1, OutputFolder = _folder.File("run") };
        Train(options, resume: false);
        Assert.Equal("MAC0701", Assert.Throws<MacOnnxException>(() => Train(options, resume: false)).Diagnostic.Id);
        Assert.Equal(
            "MAC0702",
            Assert.Throws<MacOnnxException>(() => Train(options with { BatchSize = 32 }, resume: true)).Diagnostic.Id
        );
        Assert.Equal(
            "MAC0702",
            Assert.Throws<MacOnnxException>(() => Train(options with { Seed = 1 }, resume: true)).Diagnostic.Id
        );
    }

    [Fact]
    public void LabelsAreCheckedBeforeTraining()
    {
        var labels = Digits.Data["labels"].Span<long>().ToArray();
        labels[5] = 10;
        var data = new Dataset(
            "digits",
            Digits.Data.Specs,
            new Dictionary<string, Tensor>
            {
                ["input"] = Digits.Data["input"],
                ["labels"] = Tensor.From<long>([labels.Length], labels),
            }
        );
        using var session = Digits.Session();
        Assert.Contains(
            "Row 5 has the label 10",
            Assert.Throws<MacOnnxException>(() => new Trainer(session, data, new TrainerOptions())).Message,
            StringComparison.Ordinal
        );
        Assert.Throws<MacOnnxException>(() => new Evaluator(session, data, 0));
    }

    public static TheoryData<string, TrainerOptions> OutOfRange =>
        new()
        {
            {
                "Epochs",
                new TrainerOptions { Epochs = 0 }
            },
            {
                "MaxSteps",
                new TrainerOptions { MaxSteps = 0 }
            },
            {
                "AccumulationSteps",
                new TrainerOptions { AccumulationSteps = 0 }
            },
            {
                "Schedule",
                new TrainerOptions { Schedule = (ScheduleKind)9 }
            },
            {
                "ScheduleSteps",
                new TrainerOptions { ScheduleSteps = 0 }
            },
            {
                "ValidationFraction",
                new TrainerOptions { ValidationFraction = 1 }
            },
        };

    [Theory]
    [MemberData(nameof(OutOfRange))]
    public void OptionsOutOfRangeAreNamed(string property, TrainerOptions options) =>
        Assert.Equal($"TrainerOptions.{property}", Assert.Throws<MacOnnxException>(options.Check).Diagnostic.Where);

    private static (TrainingResult Result, byte[] Bits) Train(
        TrainerOptions options,
        bool resume,
        long? stopAt = null,
        CancellationTokenSource? stop = null
    )
    {
        using var session = Digits.Session();
        using var trainer = new Trainer(
            session,
            Digits.Data,
            options,
            null,
            new Watch(p =>
            {
                if (p.Step == stopAt)
                {
                    stop!.Cancel();
                }
            })
        );
        Assert.Equal(resume, resume && trainer.Resume());
        var result = trainer.Run(stop?.Token ?? CancellationToken.None);
        return (result, Digits.Bits(session));
    }

    private static Dataset WithNaN(params int[] rows)
    {
        var pixels = Digits.Data["input"].Span<float>().ToArray();
        foreach (var row in rows)
        {
            pixels[row * 64] = float.NaN;
        }

        return new Dataset(
            "digits",
            Digits.Data.Specs,
            new Dictionary<string, Tensor>
            {
                ["input"] = Tensor.From<float>([pixels.Length / 64, 64], pixels),
                ["labels"] = Digits.Data["labels"],
            }
        );
    }
}
