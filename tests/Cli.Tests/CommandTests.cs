using System.Diagnostics;
using MacOnnx.Cli.Tests.Support;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.Runtime;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Cli.Tests;

/// <summary>The commands of the README, and what they leave behind.</summary>
public sealed class CommandTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task TrainingTheShippedNetworkReaches97Percent()
    {
        var run = _folder.File("run");
        var text = await Maconnx.Succeed(
            "train",
            Repository.Models("digits-cnn.onnx"),
            "--data",
            Repository.Models("digits.csv"),
            "-o",
            run,
            "--threads",
            "1"
        );
        var lines = text.TrimEnd().Split('\n');
        Assert.Equal(10, lines.Count(l => l.StartsWith("epoch", StringComparison.Ordinal)));
        Assert.DoesNotContain('\e', text);
        var epochs = RunFolder.ReadLines(Path.Combine(run, "epochs.jsonl")).ToArray();
        Assert.True(epochs[^1].GetProperty("validation_accuracy").GetDouble() >= 0.97, lines[^5]);
        foreach (var file in new[] { "trained.onnx", "step-000260.safetensors", "loss.svg" })
        {
            Assert.Contains(lines[^4..], l => l.EndsWith(Path.Combine(run, file), StringComparison.Ordinal));
            Assert.True(File.Exists(Path.Combine(run, file)));
        }

        Assert.Contains(
            "validation accuracy",
            await File.ReadAllTextAsync(Path.Combine(run, "loss.svg"), TestContext.Current.CancellationToken),
            StringComparison.Ordinal
        );

        // eval and export agree with what training reported and exported.
        var (package, checkpoint) = (Path.Combine(run, "model.mac"), Path.Combine(run, "step-000260.safetensors"));
        var evaluation = await Maconnx.SucceedJson(
            "eval",
            package,
            "--checkpoint",
            checkpoint,
            "--data",
            Repository.Models("digits.csv")
        );
        Assert.Equal(1797, evaluation.GetProperty("samples").GetInt64());
        var accuracy = evaluation.GetProperty("accuracy").GetDouble();
        Assert.True(accuracy >= 0.97, $"{accuracy}");
        Assert.Equal(accuracy, Accuracy(Path.Combine(run, "trained.onnx")), 1e-9);
        var exported = _folder.File("again.onnx");
        await Maconnx.Succeed("export", package, "--checkpoint", checkpoint, "-o", exported);
        Assert.Equal(await Bytes(Path.Combine(run, "trained.onnx")), await Bytes(exported));
        Assert.Contains(
            ", accuracy ",
            await Maconnx.Succeed(
                "eval",
                package,
                "--checkpoint",
                checkpoint,
                "--data",
                Repository.Models("digits.csv")
            ),
            StringComparison.Ordinal
        );
    }

    [Fact]
    public async Task APackageTrainsWithOtherHyperparameters()
    {
        var package = _folder.File("mlp.mac");
        var report = await Maconnx.SucceedJson(
            "rewrite",
            Repository.Models("digits-mlp.onnx"),
            "-o",
            package,
            "--learning-rate",
            "0.05"
        );
        Assert.Equal(package, report.GetProperty("package").GetString());
        Assert.All(
            [
                "training_model.onnx",
                "optimizer_model.onnx",
                "eval_model.onnx",
                "checkpoint.safetensors",
                "manifest.json",
            ],
            f => Assert.True(File.Exists(Path.Combine(package, f)), f)
        );
        string[] train = ["train", package, "--data", Repository.Models("digits.csv"), "--max-steps", "2"];
        var first = await Maconnx.SucceedJson([.. train, "-o", _folder.File("a")]);
        Assert.Equal(2, first.GetProperty("step").GetInt64());
        Assert.False(Directory.Exists(_folder.File("a/model.mac")));
        Assert.Equal(0.05f, Rate("a"));
        await Maconnx.Succeed([.. train, "-o", _folder.File("b"), "--learning-rate", "0.01"]);
        Assert.Equal(0.01f, Rate("b"));
        Assert.Contains(
            "--loss",
            await Maconnx.Fail(1, [.. train, "-o", _folder.File("c"), "--loss", "mse"]),
            StringComparison.Ordinal
        );
        Assert.Contains(
            "--nesterov",
            await Maconnx.Fail(1, [.. train, "-o", _folder.File("c"), "--nesterov"]),
            StringComparison.Ordinal
        );
        Assert.Contains(
            "--max-gradient-norm",
            await Maconnx.Fail(1, [.. train, "-o", _folder.File("c"), "--max-gradient-norm", "1"]),
            StringComparison.Ordinal
        );
        Assert.False(Directory.Exists(_folder.File("c")));
    }

    [Fact]
    public async Task CtrlCSavesAndTheRunGoesOn()
    {
        string[] train =
        [
            "train",
            Repository.Models("digits-mlp.onnx"),
            "--data",
            Repository.Models("digits.csv"),
            "--threads",
            "1",
            "--epochs",
            "2",
            "--schedule",
            "linear",
        ];
        await Maconnx.Succeed([.. train, "-o", _folder.File("whole")]);
        using var stop = new CancellationTokenSource();
        await stop.CancelAsync();
        var (code, output, error) = await Maconnx.Run(stop.Token, [.. train, "-o", _folder.File("run")]);
        Assert.Equal((130, ""), (code, error));
        Assert.Contains("--resume", output, StringComparison.Ordinal);
        Assert.False(File.Exists(_folder.File("run/trained.onnx")));

        // Resuming needs no option that the run was started with.
        var resume = await Maconnx.Run(
            TestContext.Current.CancellationToken,
            "train",
            Repository.Models("digits-mlp.onnx"),
            "--data",
            Repository.Models("digits.csv"),
            "--threads",
            "1",
            "-o",
            _folder.File("run"),
            "--resume"
        );
        Assert.Equal((0, ""), (resume.Code, resume.Error));
        Assert.Equal(
            await Bytes(_folder.File("whole/step-000052.safetensors")),
            await Bytes(_folder.File("run/step-000052.safetensors"))
        );
        Assert.Equal(await Bytes(_folder.File("whole/metrics.jsonl")), await Bytes(_folder.File("run/metrics.jsonl")));
    }

    [Fact]
    public async Task AnInterruptSignalEndsTheProgramAfterItsStep()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows has no kill -INT.");
        var start = new ProcessStartInfo(Maconnx.Program)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach (
            var argument in new[]
            {
                "train",
                Repository.Models("digits-mlp.onnx"),
                "--data",
                Repository.Models("digits.csv"),
                "--epochs",
                "1000000",
                "-o",
                _folder.File("run"),
            }
        )
        {
            start.ArgumentList.Add(argument);
        }

        using var process = Process.Start(start)!;
        while (
            !(await process.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken))!.StartsWith(
                "epoch",
                StringComparison.Ordinal
            )
        ) { }

        using (var kill = Process.Start("kill", ["-INT", $"{process.Id}"]))
        {
            await kill.WaitForExitAsync(TestContext.Current.CancellationToken);
        }

        var output = await process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal(
            ("", 130),
            (await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken), process.ExitCode)
        );
        Assert.Contains("Continue with --resume", output, StringComparison.Ordinal);
        var step = new RunFolder(_folder.File("run")).NewestStep();
        Assert.Equal(
            step,
            RunFolder.ReadLines(_folder.File("run/metrics.jsonl")).Last().GetProperty("step").GetInt64()
        );
    }

    [Fact]
    public async Task CheckpointsFollowTheReferenceVectors()
    {
        var folder = Repository.Shared("mac-vectors");
        var inputs = NpzFile.Read(Path.Combine(folder, "mlp_inputs.npz"));
        NpzFile.Write(_folder.File("data.npz"), [new("input", Flat(inputs["x"])), new("labels", Flat(inputs["y"]))]);
        await Maconnx.Succeed(
            "train",
            Path.Combine(folder, "mlp_op16_dyn.onnx"),
            "--data",
            _folder.File("data.npz"),
            "--batch-size",
            "8",
            "--no-shuffle",
            "--epochs",
            "1",
            "--save-every",
            "1",
            "-o",
            _folder.File("run"),
            "--learning-rate",
            "0.1",
            "--momentum",
            "0.9",
            "--weight-decay",
            "0.005",
            "--no-decay",
            "^$",
            "--damping",
            "1",
            "--stat-decay",
            "0.95",
            "--stat-every",
            "2",
            "--refresh-every",
            "4"
        );
        var path = Path.Combine(folder, "mlp_coupled.npz");
        var expected = NpzFile.Read(path, [.. NpzFile.Names(path).Where(n => n != "config")]);
        var metrics = RunFolder.ReadLines(_folder.File("run/metrics.jsonl")).ToArray();
        for (var step = 0; step < 12; step++)
        {
            Assert.Equal(expected["loss"].Span<double>()[step], metrics[step].GetProperty("loss").GetDouble(), 2e-5);
            var found = Safetensors.Read(_folder.File($"run/step-{step + 1:000000}.safetensors")).Tensors;
            foreach (
                var (name, tensor) in expected.Where(e =>
                    e.Key.StartsWith($"step{step:00}/param/", StringComparison.Ordinal)
                )
            )
            {
                // A right float32 run is within 3e-7, a plausible mistake beyond 1e-3.
                Assert.All(
                    tensor.ToDouble().Zip(found[name.Split('/')[2]].ToDouble()),
                    p => Assert.Equal(p.First, p.Second, 2e-5)
                );
            }
        }
    }

    [Theory]
    [InlineData("--help", "Commands:")]
    [InlineData("train --help", "--validation-split")]
    [InlineData("--version", ".")]
    public async Task HelpIsShown(string args, string text) =>
        Assert.Contains(text, await Maconnx.Succeed(args.Split(' ')), StringComparison.Ordinal);

    private float Rate(string run) =>
        RunFolder.ReadLines(_folder.File($"{run}/metrics.jsonl")).First().GetProperty("learning_rate").GetSingle();

    private static Tensor Flat(Tensor batches) =>
        new(batches.Type, batches.Dims[2..].Insert(0, batches.Dims[0] * batches.Dims[1]), batches.Data);

    private static Task<byte[]> Bytes(string path) =>
        File.ReadAllBytesAsync(path, TestContext.Current.CancellationToken);

    /// <summary>Gives an exported model's accuracy over all digits, by ONNX Runtime alone.</summary>
    private static double Accuracy(string model)
    {
        using var session = new InferenceSession(model);
        Assert.Equal(["input"], session.InputNames);
        Assert.Equal(["logits"], session.OutputNames);
        var rows = File.ReadLines(Repository.Models("digits.csv"))
            .Skip(1)
            .Select(l =>
                l.Split(',').Select(v => float.Parse(v, System.Globalization.CultureInfo.InvariantCulture)).ToArray()
            )
            .ToArray();
        using var input = OrtValue.CreateTensorValueFromMemory(
            rows.SelectMany(r => r[..64]).ToArray(),
            [rows.Length, 1, 8, 8]
        );
        using var run = new RunOptions();
        using var outputs = session.Run(run, ["input"], [input], ["logits"]);
        var logits = outputs[0].GetTensorDataAsSpan<float>().ToArray();
        return rows.Select(
                (r, i) =>
                    Array.IndexOf(logits, logits[(i * 10)..((i + 1) * 10)].Max(), i * 10) - (i * 10) == (int)r[64]
                        ? 1.0
                        : 0
            )
            .Average();
    }

    /// <summary>
    /// Groups and averages are options of rewriting; the average is evaluated and exported on request.
    /// </summary>
    [Fact]
    public async Task GroupsAndAveragesOfWeights()
    {
        var (run, data) = (_folder.File("run"), Repository.Models("digits.csv"));
        string[] options =
        [
            "--optimizer",
            "eva",
            "--update",
            "adamw",
            "--group",
            "^fc1: learning-rate=0x",
            "--layer-decay",
            "0.5",
            "--ema",
            "0.9",
        ];
        await Maconnx.Succeed([
            "train",
            Repository.Models("digits-mlp.onnx"),
            "--data",
            data,
            "-o",
            run,
            "--max-steps",
            "20",
            .. options,
        ]);
        var (package, checkpoint) = (Path.Combine(run, "model.mac"), Path.Combine(run, "step-000020.safetensors"));
        var (before, after) = (
            Safetensors.Read(Path.Combine(package, "checkpoint.safetensors")).Tensors,
            Safetensors.Read(checkpoint).Tensors
        );
        Assert.Equal(before["fc1.weight"].ToDouble(), after["fc1.weight"].ToDouble());
        Assert.NotEqual(before["fc2.weight"].ToDouble(), after["fc2.weight"].ToDouble());
        string[] evaluation = ["eval", package, "--checkpoint", checkpoint, "--data", data];
        var (last, average) = (
            (await Maconnx.SucceedJson(evaluation)).GetProperty("loss").GetDouble(),
            (await Maconnx.SucceedJson([.. evaluation, "--ema"])).GetProperty("loss").GetDouble()
        );

        // The average lags behind, in a run that still falls fast.
        Assert.True(average > last, $"{average} and {last}");
        var exported = _folder.File("average.onnx");
        await Maconnx.Succeed("export", package, "--checkpoint", checkpoint, "-o", exported, "--ema");
        Assert.NotEqual(await Bytes(Path.Combine(run, "trained.onnx")), await Bytes(exported));
    }

    [Fact]
    public async Task EveryPassCanBeLookedAt()
    {
        var folder = _folder.File("passes");
        await Maconnx.Succeed(
            "rewrite",
            Repository.Models("digits-mlp.onnx"),
            "-o",
            _folder.File("m.mac"),
            "--optimizer",
            "mac-adamw",
            "--dump-passes",
            folder
        );
        var files = Directory.EnumerateFiles(folder).Select(f => Path.GetFileName(f)!).Order(StringComparer.Ordinal);
        Assert.Equal("01-import.txt", files.First());
        Assert.Contains(files, f => f.EndsWith("-lowering.txt", StringComparison.Ordinal));
        var optimizer = files.Single(f => f.EndsWith("-optimizer-graph.txt", StringComparison.Ordinal));
        Assert.Contains(
            "maconnx::MacAdamWUpdateWithBias",
            await File.ReadAllTextAsync(Path.Combine(folder, optimizer), TestContext.Current.CancellationToken),
            StringComparison.Ordinal
        );
    }
}
