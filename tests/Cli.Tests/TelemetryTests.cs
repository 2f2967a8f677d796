using System.Diagnostics;
using MacOnnx.Cli.Tests.Support;

namespace MacOnnx.Cli.Tests;

/// <summary>Nothing leaves the machine, and nothing is written outside the folders that a command names.</summary>
public sealed class TelemetryTests : IDisposable
{
    private static readonly string[] Train =
    [
        "train",
        Repository.Models("digits-mlp.onnx"),
        "--data",
        Repository.Models("digits.csv"),
        "--max-steps",
        "3",
    ];

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task NoFileAppearsElsewhere()
    {
        await Run([], "inspect", Repository.Models("digits-mlp.onnx"));
        await Run([], [.. Train, "-o", _folder.File("run")]);
        Assert.Empty(Elsewhere());
    }

    /// <summary>Nothing is kept in a user's folders, so it is no matter whether there are any.</summary>
    [Fact]
    public Task FoldersThatCannotBeWrittenAreNoMatter()
    {
        Assert.SkipUnless(Directory.Exists("/proc"), "There is no folder that nobody can write to.");
        var folders = new[] { "HOME", "XDG_CACHE_HOME", "TMPDIR" };
        return Run(
            [.. folders.Select(f => KeyValuePair.Create(f, "/proc/none"))],
            [.. Train, "-o", _folder.File("run")]
        );
    }

    /// <summary>
    /// This shows that the test above looks where ONNX Runtime's telemetry writes, and that it can be left on.
    /// </summary>
    [Fact]
    public async Task TelemetryCanBeLeftOn()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Where telemetry writes is known for Linux.");
        await Run([new("MACONNX_TELEMETRY", "1")], "inspect", Repository.Models("digits-mlp.onnx"));
        Assert.NotEmpty(Elsewhere());
    }

    [Fact]
    public async Task NoConnectionIsOpened()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() && File.Exists("/usr/bin/strace"), "strace is not there.");
        var log = _folder.File("calls.txt");
        string[] trace = ["-f", "-qq", "-e", "trace=socket,connect", "-o", log, Maconnx.Program];
        await Run("/usr/bin/strace", [], [.. trace, .. Train, "-o", _folder.File("run")]);
        Assert.DoesNotContain(
            await File.ReadAllLinesAsync(log, TestContext.Current.CancellationToken),
            l => l.Contains("AF_INET", StringComparison.Ordinal)
        );
    }

    /// <summary>A process that has no network, where the system lets a user make one.</summary>
    [Fact]
    public async Task NothingNeedsANetwork()
    {
        Assert.SkipUnless(HasNamespaces(), "A process without a network cannot be made here.");
        await Run("unshare", [], ["--map-root-user", "--net", Maconnx.Program, .. Train, "-o", _folder.File("run")]);
    }

    private static bool HasNamespaces()
    {
        if (!OperatingSystem.IsLinux() || !File.Exists("/usr/bin/unshare"))
        {
            return false;
        }

        using var process = Process.Start(
            new ProcessStartInfo("unshare", ["--map-root-user", "--net", "true"]) { RedirectStandardError = true }
        )!;
        process.WaitForExit();
        return process.ExitCode == 0;
    }

    private IEnumerable<string> Elsewhere() =>
        new[] { "home", "cache", "tmp" }.SelectMany(f => Directory.EnumerateFileSystemEntries(_folder.File(f)));

    private Task Run(KeyValuePair<string, string>[] environment, params string[] args) =>
        Run(Maconnx.Program, environment, args);

    /// <summary>Runs a program that must succeed, with every folder for a user's files an empty one.</summary>
    private async Task Run(string program, KeyValuePair<string, string>[] environment, string[] args)
    {
        var start = new ProcessStartInfo(program, args) { RedirectStandardOutput = true, RedirectStandardError = true };

        // ONNX Runtime sends nothing where it sees a build server.
        start.Environment.Remove("CI");
        foreach (
            var (name, value) in new Dictionary<string, string>
            {
                ["HOME"] = "home",
                ["USERPROFILE"] = "home",
                ["XDG_CACHE_HOME"] = "cache",
                ["TMPDIR"] = "tmp",
                ["TEMP"] = "tmp",
                ["TMP"] = "tmp",
            }
        )
        {
            start.Environment[name] = Directory.CreateDirectory(_folder.File(value)).FullName;
        }

        start.Environment.Remove("ORT_DISABLE_TELEMETRY");
        foreach (var (name, value) in environment)
        {
            start.Environment[name] = value;
        }

        using var process = Process.Start(start)!;
        var output = process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var error = await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await output;
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal(("", 0), (error, process.ExitCode));
    }
}
