using System.Diagnostics;
using MacOnnx.Cli.Tests.Support;

namespace MacOnnx.Cli.Tests;

/// <summary>
/// Kills the program at random moments and damages its files at random places. Short in the normal run, long with
/// <c>-trait Category=Nightly</c>; the seed is that of the case, and a failure names it.
/// </summary>
public sealed class ReliabilityTests : IDisposable
{
    private static readonly string[] Data = ["--data", Repository.Models("digits.csv"), "--threads", "1"];

    private static readonly string[] Training = [.. Data, "--max-steps", "120", "--save-every", "10"];

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public Task KilledRunsEndWithTheSameBits() => Kill(runs: 2, seed: 1);

    [Fact]
    [Trait("Category", "Nightly")]
    public Task ManyKilledRunsEndWithTheSameBits()
    {
        SkipUnlessNightly();
        return Kill(runs: 40, seed: 2);
    }

    [Fact]
    public Task DamagedFilesAreOneLine() => Damage(files: 60, seed: 1);

    [Fact]
    [Trait("Category", "Nightly")]
    public Task ManyDamagedFilesAreOneLine()
    {
        SkipUnlessNightly();
        return Damage(files: 1000, seed: 2);
    }

    private static void SkipUnlessNightly() =>
        Assert.SkipUnless(
            Environment.GetEnvironmentVariable("MACONNX_NIGHTLY") == "1",
            "Takes long: set MACONNX_NIGHTLY=1."
        );

    /// <summary>
    /// Resumes each run after every kill until it ends, and compares it with one that was never killed.
    /// </summary>
    private async Task Kill(int runs, int seed)
    {
        string[] train = ["train", Repository.Models("digits-mlp.onnx"), .. Training, "-o"];
        var clock = Stopwatch.StartNew();
        Assert.Equal((0, ""), await Start([.. train, _folder.File("whole")], Timeout.InfiniteTimeSpan));
        var length = clock.Elapsed.TotalMilliseconds;
        var random = new Random(seed);
        var kills = 0;
        for (var run = 0; run < runs; run++)
        {
            var folder = _folder.File($"run{run}");
            for (var life = 0; ; life++)
            {
                // The last life is not killed: a run must not depend on luck to end.
                var patience =
                    life < 4 ? TimeSpan.FromMilliseconds(random.NextDouble() * length) : Timeout.InfiniteTimeSpan;
                var (code, error) = await Start([.. train, folder, .. Resume(life)], patience);
                if (code == 0)
                {
                    break;
                }

                kills++;
                Assert.True(code is null, $"seed {seed}, run {run}, life {life}: exit code {code}, {error}");
            }

            foreach (var file in new[] { "step-000120.safetensors", "metrics.jsonl", "epochs.jsonl", "trained.onnx" })
            {
                var (expected, found) = (await Bytes($"whole/{file}"), await Bytes($"run{run}/{file}"));
                Assert.True(expected.SequenceEqual(found), $"seed {seed}, run {run}: {file} differs");
            }

            Assert.DoesNotContain(
                Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories),
                f => f.EndsWith(".tmp", StringComparison.Ordinal)
            );
        }

        TestContext.Current.SendDiagnosticMessage($"{kills} kills in {runs} runs");

        static string[] Resume(int life) => life == 0 ? [] : ["--resume"];
    }

    /// <summary>Changes, cuts or doubles bytes of one file, and runs the command that reads it.</summary>
    private async Task Damage(int files, int seed)
    {
        string[] train =
        [
            "train",
            Repository.Models("digits-mlp.onnx"),
            .. Data,
            "--max-steps",
            "4",
            "--save-every",
            "2",
        ];
        await Maconnx.Succeed([.. train, "-o", _folder.File("good")]);
        var random = new Random(seed);
        string[] names =
        [
            .. Directory
                .EnumerateFiles(_folder.File("good"), "*", SearchOption.AllDirectories)
                .Where(f => new FileInfo(f).Length > 0)
                .Select(f => Path.GetRelativePath(_folder.File("good"), f))
                .Where(f => Path.GetExtension(f) is ".safetensors" or ".json" or ".jsonl")
                .Order(StringComparer.Ordinal),
            "digits.csv",
        ];
        var (run, csv) = (_folder.File("run"), _folder.File("run/digits.csv"));
        for (var i = 0; i < files; i++)
        {
            CopyFolder(_folder.File("good"), run);
            File.Copy(Repository.Models("digits.csv"), csv);
            var damaged = Path.Combine(run, names[random.Next(names.Length)]);
            await File.WriteAllBytesAsync(
                damaged,
                Mutate(await File.ReadAllBytesAsync(damaged, TestContext.Current.CancellationToken), random),
                TestContext.Current.CancellationToken
            );
            string[] line = damaged.EndsWith("checkpoint.safetensors", StringComparison.Ordinal)
                ? ["export", Path.Combine(run, "model.mac"), "--checkpoint", damaged, "-o", Path.Combine(run, "x.onnx")]
                :
                [
                    "train",
                    Repository.Models("digits-mlp.onnx"),
                    "--data",
                    csv,
                    .. Data[2..],
                    "--max-steps",
                    "5",
                    "-o",
                    run,
                    "--resume",
                ];
            var clock = Stopwatch.StartNew();
            var before = GC.GetTotalAllocatedBytes();
            var (code, _, error) = await Maconnx.Run(TestContext.Current.CancellationToken, line);
            var what = $"seed {seed}, file {i} ({Path.GetFileName(damaged)}): exit code {code}, {error}";
            Assert.False(code is not (0 or 1 or 2) || error.Contains("internal error", StringComparison.Ordinal), what);
            var lines = error.Split('\n', StringSplitOptions.RemoveEmptyEntries);
            Assert.True(
                lines.Count(l => !l.StartsWith("note: ", StringComparison.Ordinal)) == (code == 0 ? 0 : 1),
                what
            );
            Assert.True(clock.Elapsed < TimeSpan.FromSeconds(20), $"{what} {clock.Elapsed}");
            Assert.True(GC.GetTotalAllocatedBytes() - before < 1L << 30, what);
            Directory.Delete(run, recursive: true);
        }
    }

    private static byte[] Mutate(byte[] original, Random random)
    {
        // The beginning of a file, where its structure is, is met as often as all the rest.
        int Place() => random.Next(random.Next(2) == 0 ? Math.Min(original.Length, 300) : original.Length);
        var (at, bytes) = (Place(), original.ToList());
        switch (random.Next(5))
        {
            case 0:
                return original[..at];
            case 1:
                bytes[at] = (byte)random.Next(256);
                break;
            case 2:
                bytes[at] ^= (byte)(1 << random.Next(8));
                break;
            case 3:
                bytes.InsertRange(at, bytes.GetRange(at, Math.Min(20, bytes.Count - at)));
                break;
            default:
                bytes.RemoveRange(at, Math.Min(random.Next(1, 20), bytes.Count - at));
                break;
        }

        return [.. bytes];
    }

    private static void CopyFolder(string from, string to)
    {
        foreach (var file in Directory.EnumerateFiles(from, "*", SearchOption.AllDirectories))
        {
            var target = Path.Combine(to, Path.GetRelativePath(from, file));
            Directory.CreateDirectory(Path.GetDirectoryName(target)!);
            File.Copy(file, target);
        }
    }

    private Task<byte[]> Bytes(string file) =>
        File.ReadAllBytesAsync(_folder.File(file), TestContext.Current.CancellationToken);

    /// <summary>Runs the program in a process of its own; no exit code means that it was killed.</summary>
    private static async Task<(int? Code, string Error)> Start(string[] args, TimeSpan patience)
    {
        using var process = Process.Start(
            new ProcessStartInfo(Maconnx.Program, args) { RedirectStandardOutput = true, RedirectStandardError = true }
        )!;
        var output = process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var error = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        var isKilled = !process.WaitForExit(patience);
        if (isKilled)
        {
            process.Kill();
        }

        await Task.WhenAll(output, error);
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        return (isKilled ? null : process.ExitCode, await error);
    }
}
