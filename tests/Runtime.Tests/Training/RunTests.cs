using System.Diagnostics;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>Runs that were killed, damaged or started twice lose nothing and mix nothing.</summary>
public sealed class RunTests : IDisposable
{
    private readonly TempFolder _folder = new();

    private TrainerOptions Options =>
        new()
        {
            MaxSteps = 30,
            SaveEvery = 10,
            ValidationFraction = 0.1,
            OutputFolder = _folder.File("run"),
        };

    public void Dispose() => _folder.Dispose();

    public static TheoryData<string, Action<string>> Damages =>
        new()
        {
            { "cut off", path => File.WriteAllBytes(path, File.ReadAllBytes(path)[..^100]) },
            { "empty", path => File.WriteAllBytes(path, []) },
            { "a negative position", path => Change(path, "data_position", """{"epoch":-1,"batch":0,"seed":0}""") },
            { "null for hyper-parameters' number", path => Change(path, "hyperparameters", """{"momentum":null}""") },
            { "not finite", path => Spoil(path) },
        };

    [Theory]
    [MemberData(nameof(Damages))]
    public void ADamagedCheckpointIsPassedOver(string damage, Action<string> apply)
    {
        var expected = Train(Options, resume: false).Bits;
        apply(_folder.File("run/step-000030.safetensors"));
        var (_, bits, notes) = Train(Options, resume: true);
        Assert.Equal(expected, bits);
        Assert.True(notes.Count == 2, damage);
        Assert.Contains("step-000030.safetensors", notes[0], StringComparison.Ordinal);
        Assert.Equal("Continuing from step 20 instead.", notes[1]);
    }

    [Fact]
    public void WhereAllCheckpointsAreDamagedTheRunIsRefused()
    {
        Train(Options with { MaxSteps = 10 }, resume: false);
        File.WriteAllBytes(_folder.File("run/step-000010.safetensors"), []);
        var e = Assert.Throws<MacOnnxException>(() => Train(Options, resume: true));
        Assert.Equal("MAC0403", e.Diagnostic.Id);
    }

    [Fact]
    public void TheOptimizersStateIsTakenWholeOrNotAtAll()
    {
        var expected = Train(Options with { MaxSteps = 10 }, resume: false);
        var path = _folder.File("run/step-000010.safetensors");
        var states = Digits.Package.Manifest.States;
        var dropped = states.First(s => s.Role == BufferRole.State).Name;
        var file = Safetensors.Read(path);
        Safetensors.Write(path, file.Tensors.Where(t => t.Key != dropped), file.Metadata);
        using var session = Digits.Session();
        session.LoadCheckpoint(path);
        Assert.Equal(dropped, session.MissingState);
        Assert.Equal(0, session.Updates);
        var state = session.GetState();
        foreach (var s in states)
        {
            Assert.Equal(
                s.Role != BufferRole.State ? file.Tensors[s.Name].Data.ToArray() : new byte[state[s.Name].Data.Length],
                state[s.Name].Data.ToArray()
            );
        }

        var notes = Train(Options, resume: true).Notes;
        Assert.Equal(
            $"The checkpoint of step 10 does not hold '{dropped}': the optimizer's state starts afresh.",
            Assert.Single(notes)
        );
        Assert.Equal(10, expected.Result.Step);
    }

    [Fact]
    public void NumbersThatAreNotFiniteAreNotSaved()
    {
        // The decay alone takes every weight beyond float32's largest number, while loss and gradients are finite.
        var notes = new List<string>();
        using var session = Digits.Session();
        session.Hyperparameters = session.Hyperparameters with { LearningRate = 1e20f, WeightDecay = 1e30f };
        using var trainer = new Trainer(
            session,
            Digits.Data,
            Options with
            {
                MaxSteps = 1,
                SaveEvery = 1,
            },
            null,
            new Watch(p => notes.AddRange(p.Note is { } note ? [note] : Array.Empty<string>()))
        );
        var e = Assert.Throws<MacOnnxException>(() => trainer.Run(TestContext.Current.CancellationToken));
        Assert.Equal("MAC0503", e.Diagnostic.Id);
        Assert.DoesNotContain("is kept", e.Message, StringComparison.Ordinal);
        Assert.Contains("No checkpoint of step 1 is written", Assert.Single(notes), StringComparison.Ordinal);
        Assert.Null(new RunFolder(_folder.File("run")).NewestStep());
    }

    [Fact]
    public void TheBestAccuracySurvivesResuming()
    {
        Train(Options with { MaxSteps = null, Epochs = 1 }, resume: false);
        var epochs = _folder.File("run/epochs.jsonl");
        File.WriteAllText(
            epochs,
            """{"epoch":1,"step":26,"loss":1,"validation_loss":1,"validation_accuracy":1}""" + "\n"
        );
        Assert.Equal(1, Train(Options with { MaxSteps = null, Epochs = 2 }, resume: true).Result.BestAccuracy);
    }

    [Fact]
    public void TemporaryFilesOfKilledRunsAreRemoved()
    {
        Train(Options with { MaxSteps = 10 }, resume: false);
        Directory.CreateDirectory(_folder.File("run/model.mac"));
        string[] left = [$"run/.{Guid.NewGuid():N}.tmp", $"run/model.mac/.{Guid.NewGuid():N}.tmp"];
        Array.ForEach(left, f => File.WriteAllText(_folder.File(f), "half a file"));
        var (own, used) = (_folder.File("run/.notes.tmp"), _folder.File($"run/.{Guid.NewGuid():N}.tmp"));
        File.WriteAllText(own, "mine");
        using (new FileStream(used, FileMode.CreateNew, FileAccess.Write, FileShare.None))
        {
            Train(Options, resume: true);
            Assert.DoesNotContain(left, f => File.Exists(_folder.File(f)));
            Assert.True(File.Exists(own));
            Assert.True(File.Exists(used));
        }
    }

    /// <summary>Opening a pipe that nobody writes to would wait for ever.</summary>
    [Fact]
    public void APipeInAFilesPlaceIsRefused()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows has no pipes among its files.");
        Train(Options with { MaxSteps = 10 }, resume: false);
        foreach (var (file, id) in new[] { ("run.json", "MAC0703"), ("step-000010.safetensors", "MAC0403") })
        {
            var path = _folder.File($"run/{file}");
            File.Move(path, _folder.File("good"));
            using (var make = Process.Start("mkfifo", [path]))
            {
                make.WaitForExit();
            }

            var e = Assert.Throws<MacOnnxException>(() => Train(Options, resume: true));
            Assert.Equal(id, e.Diagnostic.Id);
            File.Move(_folder.File("good"), path, overwrite: true);
        }
    }

    [Fact]
    public void AFolderTakesOneTrainerAtATime()
    {
        using var session = Digits.Session();
        using (var first = new Trainer(session, Digits.Data, Options))
        {
            first.Check();
            var e = Assert.Throws<MacOnnxException>(() => Train(Options, resume: false));
            Assert.Equal("MAC0704", e.Diagnostic.Id);
            Assert.Equal("MAC0704", Assert.Throws<MacOnnxException>(() => Train(Options, resume: true)).Diagnostic.Id);
        }

        Assert.Equal(30, Train(Options, resume: false).Result.Step);
    }

    /// <summary>A row that is not finite is left out of the second moment, as its batch is of training.</summary>
    [Fact]
    public void ARowWithoutNumbersDoesNotRuinTheFirstLayer()
    {
        var package = Rewriter
            .Rewrite(
                Path.Combine(Repository.Root, "models", "digits-mlp.onnx"),
                new RewriteOptions { FirstLayer = FirstLayerMode.Full }
            )
            .Package;
        var pixels = Digits.Data["input"].Span<float>().ToArray();
        pixels[70 * 64] = float.NaN;
        var data = new Dataset(
            "digits",
            Digits.Data.Specs,
            new Dictionary<string, Tensor>
            {
                ["input"] = Tensor.From<float>([pixels.Length / 64, 64], pixels),
                ["labels"] = Digits.Data["labels"],
            }
        );
        using var session = Digits.Session(package);
        using var trainer = new Trainer(session, data, new TrainerOptions { MaxSteps = 5, Shuffle = false });
        Assert.Equal(1, trainer.Run(TestContext.Current.CancellationToken).SkippedSteps);
    }

    [Fact]
    public void LabelsThatAreAllIgnoredAreRefused()
    {
        var labels = new long[Digits.Data["labels"].ElementCount];
        Array.Fill(labels, -100);
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
        var e = Assert.Throws<MacOnnxException>(() => new Trainer(session, data, new TrainerOptions()));
        Assert.Equal("MAC0606", e.Diagnostic.Id);
        Assert.Contains("Every label is -100", e.Message, StringComparison.Ordinal);
    }

    private static (TrainingResult Result, byte[] Bits, List<string> Notes) Train(TrainerOptions options, bool resume)
    {
        var notes = new List<string>();
        using var session = Digits.Session();
        using var trainer = new Trainer(
            session,
            Digits.Data,
            options,
            null,
            new Watch(p => notes.AddRange(p.Note is { } note ? [note] : Array.Empty<string>()))
        );
        if (resume)
        {
            trainer.Resume();
        }

        return (trainer.Run(CancellationToken.None), Digits.Bits(session), notes);
    }

    private static void Change(string path, string key, string value)
    {
        var file = Safetensors.Read(path);
        Safetensors.Write(path, file.Tensors, new Dictionary<string, string>(file.Metadata) { [key] = value });
    }

    private static void Spoil(string path)
    {
        var file = Safetensors.Read(path);
        var (name, tensor) = file.Tensors.Last(t => t.Value.Type == ElementType.Float);
        var values = tensor.Span<float>().ToArray();
        values[^1] = float.PositiveInfinity;
        Safetensors.Write(
            path,
            file.Tensors.Select(t =>
                KeyValuePair.Create(t.Key, t.Key == name ? Tensor.From<float>(tensor.Dims.ToArray(), values) : t.Value)
            ),
            file.Metadata
        );
    }
}
