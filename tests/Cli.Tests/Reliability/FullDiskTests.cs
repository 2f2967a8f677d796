using System.Diagnostics;
using System.Globalization;

namespace MacOnnx.Cli.Tests.Reliability;

/// <summary>A disk that is full from any write of a run on: one line, and the resumed run has the same bits.</summary>
public sealed class FullDiskTests : IDisposable
{
    private static readonly string[] Train =
    [
        "train",
        Repository.Models("digits-mlp.onnx"),
        "--data",
        Repository.Models("digits.csv"),
        "--threads",
        "1",
        "--max-steps",
        "60",
        "--save-every",
        "10",
        "-o",
    ];

    private static readonly string[] Files =
    [
        "step-000060.safetensors",
        "metrics.jsonl",
        "epochs.jsonl",
        "trained.onnx",
        "loss.svg",
        "model.mac/manifest.json",
    ];

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public Task NothingIsLost() => FailWrites(3);

    [Fact]
    [Trait("Category", "Nightly")]
    public Task NothingIsLostAtAnyWrite()
    {
        Child.SkipUnlessNightly();
        return FailWrites(int.MaxValue);
    }

    /// <summary>The file system itself is full, at sizes between nothing and what a run needs.</summary>
    [Theory]
    [InlineData(3)]
    [InlineData(40)]
    public async Task NothingIsLostOnASmallFileSystem(int sizes)
    {
        Assert.SkipUnless(sizes < 10 || Child.IsNightly, "Takes long: set MACONNX_NIGHTLY=1.");
        await Whole();
        var need = Directory
            .EnumerateFiles(_folder.File("whole"), "*", SearchOption.AllDirectories)
            .Sum(f => new FileInfo(f).Length);
        var mount = Directory.CreateDirectory(_folder.File("mount")).FullName;
        for (var i = 1; i <= sizes; i++)
        {
            // At least 4 kB: a size of 0 is no limit.
            var size = Math.Max(4, need * i / (sizes + 1) / 1024);
            Assert.SkipUnless(Mount("mount", "-t", "tmpfs", "-o", $"size={size}k", "none", mount), "mount is refused.");
            try
            {
                var run = Path.Combine(mount, "run");
                await Fails([.. Train, run], [], $"{size} kB");
                Assert.True(Mount("mount", "-o", "remount,size=64m", mount));
                await Ends(run, $"{size} kB");
            }
            finally
            {
                Assert.True(Mount("umount", mount));
            }
        }
    }

    /// <summary>Fails writes and all that would follow them, the first of each kind and others evenly spaced.</summary>
    private async Task FailWrites(int most)
    {
        Assert.SkipWhen(Child.NoStrace is not null, Child.NoStrace ?? "");
        var calls = await Whole();
        foreach (var call in Child.FileCalls)
        {
            var step = Math.Max(1, (double)calls[call] / most);
            for (var at = 0.0; at < calls[call]; at += step)
            {
                var number = 1 + (int)at;
                var (what, run) = ($"{call} {number} of {calls[call]}", _folder.File($"{call}{number}"));
                var when = string.Create(CultureInfo.InvariantCulture, $"{number}+");
                await Fails([.. Train, run], Child.Inject(call, "error=ENOSPC", when), what);
                await Ends(run, what);
            }
        }
    }

    private Task<Dictionary<string, int>> Whole() =>
        Child.Count([.. Train, _folder.File("whole")], _folder.File("calls.txt"));

    private static async Task Fails(string[] args, string[] strace, string what)
    {
        var (code, _, error) = await Child.Run(args, null, strace);
        Assert.True(
            code == 2
                && error.Count(c => c == '\n') == 1
                && error.StartsWith("error: ", StringComparison.Ordinal)
                && error.Contains("[MAC0401]", StringComparison.Ordinal),
            $"{what}: exit code {code}, {error}"
        );
    }

    /// <summary>Resumes a run, which must then have the files of one that had room enough.</summary>
    private async Task Ends(string run, string what)
    {
        var (code, _, error) = await Child.Run([.. Train, run, "--resume"]);
        Assert.True(code == 0, $"{what}, resumed: exit code {code}, {error}");
        foreach (var file in Files)
        {
            var isSame = File.ReadAllBytes(_folder.File($"whole/{file}"))
                .AsSpan()
                .SequenceEqual(File.ReadAllBytes(Path.Combine(run, file)));
            Assert.True(isSame, $"{what}: {file} differs.");
        }

        Directory.Delete(run, recursive: true);
    }

    private static bool Mount(string program, params string[] args)
    {
        if (!OperatingSystem.IsLinux())
        {
            return false;
        }

        using var process = Process.Start(new ProcessStartInfo(program, args) { RedirectStandardError = true });
        process!.WaitForExit();
        return process.ExitCode == 0;
    }
}
