using System.CommandLine;
using System.Diagnostics;
using MacOnnx.Cli.Tests.Support;
using MacOnnx.Runtime;

namespace MacOnnx.Cli.Tests;

/// <summary>
/// What the command does with runs that were killed, with full disks, and with options of the library.
/// </summary>
public sealed class RunCommandTests : IDisposable
{
    private static readonly string[] Train =
    [
        "train",
        Repository.Models("digits-mlp.onnx"),
        "--data",
        Repository.Models("digits.csv"),
        "--threads",
        "1",
    ];

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task DiagnosticsAreInTheMetricsAndAPlot()
    {
        string[] line = [.. Train, "--max-steps", "3", "--refresh-every", "2", "-o", _folder.File("run")];
        await Maconnx.Succeed([.. line, "--diagnostics"]);
        var steps = RunFolder.ReadLines(_folder.File("run/metrics.jsonl")).ToArray();
        Assert.Equal([true, false, true], steps.Select(s => s.TryGetProperty("layers", out _)));
        Assert.Equal(
            ["fc1.weight", "fc2.weight", "fc3.weight"],
            steps[2].GetProperty("layers").EnumerateObject().Select(l => l.Name)
        );
        Assert.InRange(
            steps[0].GetProperty("layers").GetProperty("fc1.weight").GetProperty("cosine").GetDouble(),
            0,
            1
        );
        var plot = await File.ReadAllTextAsync(_folder.File("run/layers.svg"), TestContext.Current.CancellationToken);
        Assert.Contains("fc1.weight", plot, StringComparison.Ordinal);

        await Maconnx.Succeed([.. line[..^1], _folder.File("plain")]);
        Assert.False(File.Exists(_folder.File("plain/layers.svg")));
    }

    /// <summary>Killed while it wrote its package: graphs are there, the manifest is not.</summary>
    [Fact]
    public async Task ARunWithoutACompletePackageStartsAfresh()
    {
        await Maconnx.Succeed([.. Train, "--max-steps", "5", "-o", _folder.File("whole")]);
        Directory.CreateDirectory(_folder.File("run/model.mac"));
        File.Copy(
            _folder.File("whole/model.mac/training_model.onnx"),
            _folder.File("run/model.mac/training_model.onnx")
        );
        Assert.Contains(
            "run holds no checkpoint yet: the run starts afresh.",
            await Maconnx.Succeed([.. Train, "--max-steps", "5", "-o", _folder.File("run"), "--resume"]),
            StringComparison.Ordinal
        );
        Assert.Equal(
            await File.ReadAllBytesAsync(
                _folder.File("whole/step-000005.safetensors"),
                TestContext.Current.CancellationToken
            ),
            await File.ReadAllBytesAsync(
                _folder.File("run/step-000005.safetensors"),
                TestContext.Current.CancellationToken
            )
        );
    }

    [Fact]
    public async Task ADamagedCheckpointIsPassedOverLoudly()
    {
        await Maconnx.Succeed([.. Train, "--max-steps", "4", "--save-every", "2", "-o", _folder.File("run")]);
        _folder.File("run/step-000004.safetensors", "damaged");
        var (code, output, error) = await Maconnx.Run(
            TestContext.Current.CancellationToken,
            [.. Train, "--max-steps", "4", "-o", _folder.File("run"), "--resume"]
        );
        Assert.Equal(0, code);
        Assert.Contains("note: ", error, StringComparison.Ordinal);
        Assert.Contains(
            "step-000004.safetensors: This is not a usable safetensors file",
            error,
            StringComparison.Ordinal
        );
        Assert.Contains("note: Continuing from step 2 instead.", error, StringComparison.Ordinal);
        Assert.Contains("after step 2.", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ASecondProcessIsToldThatTheFolderIsInUse()
    {
        string[] train = [.. Train, "--epochs", "1000000", "-o", _folder.File("run")];
        using var first = Process.Start(
            new ProcessStartInfo(Maconnx.Program, train) { RedirectStandardOutput = true }
        )!;
        while (
            !(await first.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken))!.StartsWith(
                "epoch",
                StringComparison.Ordinal
            )
        ) { }

        try
        {
            Assert.Contains(
                "Another process is training in this folder",
                await Maconnx.Fail(1, [.. train, "--resume"]),
                StringComparison.Ordinal
            );
        }
        finally
        {
            first.Kill();
            await first.WaitForExitAsync(TestContext.Current.CancellationToken);
        }

        await Maconnx.Succeed([.. Train, "--max-steps", "1", "-o", _folder.File("other")]);
    }

    /// <summary>
    /// The metrics reach the largest size that a file may have, where a checkpoint is still small enough: a checkpoint
    /// is written, and the run goes on from it with the bits of one that was never stopped.
    /// </summary>
    [Fact]
    public async Task AMetricsFileThatCannotGrowSavesTheRunFirst()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows has no limit on the size of files.");
        var package = _folder.File("mlp.mac");
        await Maconnx.Succeed("rewrite", Repository.Models("digits-mlp.onnx"), "-o", package);
        string[] train = ["train", package, .. Train[2..], "--max-steps", "2000"];
        await Maconnx.Succeed([.. train, "-o", _folder.File("whole")]);
        // 128 blocks of 512 bytes, or of 1024 in some shells: fewer than the bytes of 2000 lines. Signal 25 would end
        // the process; .NET reserves its own memory by a file unless told not to.
        string[] limit =
        [
            "-c",
            "trap '' 25; ulimit -f 128; export DOTNET_EnableWriteXorExecute=0; exec \"$0\" \"$@\"",
            Maconnx.Program,
        ];
        using var limited = Process.Start(
            new ProcessStartInfo("sh", [.. limit, .. train, "-o", _folder.File("run")])
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            }
        )!;
        var output = limited.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var error = await limited.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await output;
        await limited.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal(2, limited.ExitCode);
        Assert.StartsWith(
            $"error: {_folder.File("run/metrics.jsonl")}: The file cannot be written",
            error,
            StringComparison.Ordinal
        );
        var lines = RunFolder.ReadLines(_folder.File("run/metrics.jsonl")).Count();
        Assert.Equal(lines + 1, new RunFolder(_folder.File("run")).NewestStep());
        await Maconnx.Succeed([.. train, "-o", _folder.File("run"), "--resume"]);
        Assert.Equal(
            await File.ReadAllBytesAsync(
                _folder.File("whole/step-002000.safetensors"),
                TestContext.Current.CancellationToken
            ),
            await File.ReadAllBytesAsync(
                _folder.File("run/step-002000.safetensors"),
                TestContext.Current.CancellationToken
            )
        );
    }

    [Theory]
    [InlineData("inspect {mlp}", ">/dev/full", 2, "standard output")]
    [InlineData("inspect {mlp}", ">/dev/full 2>/dev/full", 2, "")]
    [InlineData("inspect none.onnx", "2>/dev/full", 1, "")]
    [InlineData("train {mlp} --data {csv} --max-steps 2", "-o /dev/full", 2, "cannot be written")]
    public async Task OutputThatCannotBeWrittenIsOneLine(string line, string rest, int code, string text)
    {
        Assert.SkipUnless(File.Exists("/dev/full"), "There is no /dev/full.");
        var command = line.Replace("{mlp}", Repository.Models("digits-mlp.onnx"), StringComparison.Ordinal)
            .Replace("{csv}", Repository.Models("digits.csv"), StringComparison.Ordinal);
        await Shell($"'{Maconnx.Program}' {command} {rest}", code, text);
    }

    [Fact]
    public async Task AWorkingFolderThatIsGoneIsOneLine()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows keeps a folder that is in use.");
        var gone = Directory.CreateDirectory(_folder.File("gone")).FullName;
        await Shell(
            $"cd '{gone}'; rmdir '{gone}'; '{Maconnx.Program}' rewrite {Repository.Models("digits-mlp.onnx")} -o x.mac",
            2,
            "folder"
        );
    }

    /// <summary>A field's property is called as its option is, so that the library's messages fit both.</summary>
    [Fact]
    public void EveryPropertyHasAnOption()
    {
        string[] options = [.. TrainOptions(), .. OptionsOf(RewriteCommand.Create())];
        string[] none =
        [
            "Hyperparameters",
            "AveragesWeights",
            "ClipsGradients",
            "ConfigureSession",
            "Methods",
            "MaxSkippedSteps",
        ];
        foreach (
            var property in new[]
            {
                typeof(TrainerOptions),
                typeof(GraphRewriter.RewriteOptions),
                typeof(GraphRewriter.Hyperparameters),
            }.SelectMany(t => t.GetProperties().Where(p => p.DeclaringType == t && p.Name != "EqualityContract"))
        )
        {
            if (!none.Contains(property.Name))
            {
                Assert.Contains(FlagNames.Flag(property.Name), options);
            }
        }

        Assert.Equal(
            "--max-steps: or --learning-rate.",
            FlagNames.Apply("TrainerOptions.MaxSteps: or Hyperparameters.LearningRate.")
        );
    }

    [Fact]
    public void NumbersThatAreNotFiniteAreNullInJson() =>
        Assert.Equal(new EvaluationJson(null, null, 3), EvaluationJson.Of(new(double.NaN, double.NaN, 3)));

    /// <summary>ONNX Runtime's own log of a step that fails must not come before the one line.</summary>
    [Fact]
    public async Task AStepThatOnnxRuntimeStopsIsOneLine()
    {
        // Only a process of its own shows what ONNX Runtime writes.
        await Maconnx.Succeed("rewrite", Repository.Models("chargpt.onnx"), "-o", _folder.File("gpt.mac"));
        var ids = GraphRewriter.Ir.Tensor.From<ushort>([4000], [.. Enumerable.Repeat((ushort)60000, 4000)]);
        _folder.File("data.bin", ids.Data.ToArray());
        await Shell(
            $"'{Maconnx.Program}' train {_folder.File("gpt.mac")} --data {_folder.File("data.bin")} --context 8"
                + $" --max-steps 1 -o {_folder.File("run")}",
            null,
            "error: "
        );
    }

    private static string[] TrainOptions() => OptionsOf(TrainCommand.Create());

    private static string[] OptionsOf(Command command) =>
        [.. command.Options.SelectMany(o => o.Aliases.Prepend(o.Name))];

    /// <summary>Runs a shell's line, of which standard error must be at most one line and hold a text.</summary>
    private static async Task Shell(string line, int? code, string text)
    {
        using var shell = Process.Start(
            new ProcessStartInfo("sh", ["-c", line]) { RedirectStandardOutput = true, RedirectStandardError = true }
        )!;
        var output = shell.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var error = await shell.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await output;
        await shell.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(error.Trim('\n').Split('\n').Length == 1, error);
        Assert.Contains(text, error, StringComparison.Ordinal);
        Assert.DoesNotContain("internal error", error, StringComparison.Ordinal);
        Assert.True(code is null ? shell.ExitCode is 1 or 2 : shell.ExitCode == code, $"{shell.ExitCode}: {error}");
    }
}
