using System.Diagnostics;
using System.Text;
using MacOnnx.Cli.Tests.Support;
using MacOnnx.Runtime;

namespace MacOnnx.Cli.Tests;

/// <summary>The shipped language model learns from the shipped text.</summary>
public sealed class LanguageModelTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task TheModelLearnsMoreThanHowOftenLettersOccurAndTheSampleWritesWithIt()
    {
        var text = await File.ReadAllBytesAsync(Repository.Models("kjv.txt"), TestContext.Current.CancellationToken);
        var result = await Maconnx.SucceedJson(
            "train",
            Repository.Models("chargpt.onnx"),
            "--data",
            Repository.Models("kjv.txt"),
            "--context",
            "64",
            "--batch-size",
            "32",
            "--max-steps",
            "120",
            "-o",
            _folder.File("run")
        );

        // Letters drawn by how often they occur have a loss of 3.01, each given the letter before it 2.4 or so; 120
        // steps come to 2.3.
        var entropy = text.GroupBy(b => b).Select(g => (double)g.Count() / text.Length).Sum(p => -p * Math.Log(p));
        var loss = result.GetProperty("validation").GetProperty("loss").GetDouble();
        Assert.InRange(loss, 1, entropy - 0.5);
        var evaluation = await Maconnx.SucceedJson(
            "eval",
            _folder.File("run/model.mac"),
            "--checkpoint",
            _folder.File("run/step-000120.safetensors"),
            "--data",
            Repository.Models("kjv.txt"),
            "--context",
            "100"
        );
        Assert.InRange(evaluation.GetProperty("loss").GetDouble(), 1, entropy - 0.5);

        var written = await Generate(_folder.File("run/trained.onnx"), "And God ", "400");
        Assert.StartsWith("And God ", written, StringComparison.Ordinal);
        Assert.Equal(written, await Generate(_folder.File("run/trained.onnx"), "And God ", "400"));

        // Untrained, one byte of four would be in the text's alphabet, and one of 256 a space instead of one of five.
        var alphabet = text.ToHashSet();
        Assert.InRange(written.Count(c => c < 128 && alphabet.Contains((byte)c)), 0.9 * written.Length, written.Length);
        Assert.InRange(written.Count(c => c == ' '), 0.1 * written.Length, 0.35 * written.Length);
    }

    [Fact]
    public async Task AResumedRunSeesTheSameWindows()
    {
        // 540 characters to train on, 32 windows, 4 steps an epoch.
        var text = _folder.File(
            "short.txt",
            (await File.ReadAllTextAsync(Repository.Models("kjv.txt"), TestContext.Current.CancellationToken))[..600]
        );
        string[] train = ["train", Repository.Models("chargpt.onnx"), "--data", text, "--threads", "1"];
        string[] options = ["--context", "16", "--batch-size", "8", "--seed", "4"];
        await Maconnx.Succeed([.. train, .. options, "--max-steps", "10", "-o", _folder.File("whole")]);
        await Maconnx.Succeed([.. train, .. options, "--max-steps", "6", "-o", _folder.File("run")]);
        Assert.Contains(
            "another --context: 16, not 8",
            await Maconnx.Fail(
                1,
                [.. train, "--max-steps", "10", "-o", _folder.File("run"), "--resume", "--context", "8"]
            ),
            StringComparison.Ordinal
        );
        await Maconnx.Succeed([.. train, "--max-steps", "10", "-o", _folder.File("run"), "--resume"]);
        foreach (var file in new[] { "step-000010.safetensors", "metrics.jsonl", "epochs.jsonl" })
        {
            Assert.Equal(
                await File.ReadAllBytesAsync(_folder.File($"whole/{file}"), TestContext.Current.CancellationToken),
                await File.ReadAllBytesAsync(_folder.File($"run/{file}"), TestContext.Current.CancellationToken)
            );
        }

        Assert.Equal(
            10,
            RunFolder
                .ReadLines(_folder.File("run/metrics.jsonl"))
                .Select(l => l.GetProperty("loss").GetDouble())
                .Distinct()
                .Count()
        );
    }

    private static async Task<string> Generate(params string[] arguments)
    {
        var start = new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, "GenerateText"), arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardOutputEncoding = Encoding.Latin1,
        };
        using var process = Process.Start(start)!;
        var output = await process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var error = await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal(("", 0), (error, process.ExitCode));
        return output;
    }
}
