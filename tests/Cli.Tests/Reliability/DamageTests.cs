using System.Diagnostics;
using System.Globalization;
using MacOnnx.Cli.Tests.Support;

namespace MacOnnx.Cli.Tests.Reliability;

/// <summary>
/// Damages every kind of file and runs the command that reads it: success or one line, soon, in little memory, and
/// nothing written elsewhere. Most commands run in this process, some as programs under strace, which sees the files
/// that they write and the connections that they open.
/// </summary>
/// <remarks>
/// A failure names the kind of file and the seed, and keeps the damaged file. Copied into <c>Damaged/</c> under the
/// name of the kind, a dash and any text, it stays a test.
/// </remarks>
public sealed class DamageTests(DamageTests.Good good) : IClassFixture<DamageTests.Good>, IDisposable
{
    private const long MostMemory = 1L << 30;

    private static readonly TimeSpan MostTime = TimeSpan.FromSeconds(20);

    private readonly TempFolder _folder = new();

    public static TheoryData<string> Kept =>
        [
            .. Directory
                .EnumerateFiles(Path.Combine(Repository.Root, "tests/Cli.Tests/Reliability/Damaged"))
                .Select(f => Path.GetFileName(f))
                .Order(StringComparer.Ordinal),
        ];

    public static TheoryData<string> Formats => [.. Format.All.Select(f => f.Name)];

    public void Dispose() => _folder.Dispose();

    /// <summary>What is not damaged succeeds: the commands read what they should.</summary>
    [Theory]
    [MemberData(nameof(Formats))]
    public async Task GoodFilesAreRead(string name)
    {
        var format = Format.All.Single(f => f.Name == name);
        Assert.SkipWhen(format.Missing is not null, format.Missing ?? "");
        format.Place(good.Path, _folder.Path, File.ReadAllBytes(Path.Combine(good.Path, format.File)));
        await Maconnx.Succeed(format.Line(good.Path, _folder.Path));
    }

    [Theory]
    [MemberData(nameof(Kept))]
    public Task FilesThatOnceFailedAreOneLine(string name)
    {
        var format = Format
            .All.Where(f => name.StartsWith($"{f.Name}-", StringComparison.Ordinal))
            .MaxBy(f => f.Name.Length)!;
        Assert.SkipWhen(format.Missing is not null, format.Missing ?? "");
        var file = Path.Combine(Repository.Root, "tests/Cli.Tests/Reliability/Damaged", name);
        return Read(format, File.ReadAllBytes(file), name, isProgram: false);
    }

    [Fact]
    public Task DamagedFilesAreOneLine() => Damage(0, 3, 30);

    [Fact]
    [Trait("Category", "Nightly")]
    public Task ManyDamagedFilesAreOneLine()
    {
        Child.SkipUnlessNightly();
        var count = Environment.GetEnvironmentVariable("MACONNX_DAMAGED");
        return Damage(1000, count is null ? 200 : int.Parse(count, CultureInfo.InvariantCulture), 40);
    }

    /// <summary>Damages files of every kind.</summary>
    /// <param name="seed">The first seed.</param>
    /// <param name="each">Files of each kind, with seeds from the first on.</param>
    /// <param name="every">Of each kind, every so manieth file is read by a program of its own.</param>
    private async Task Damage(int seed, int each, int every)
    {
        var codes = new Dictionary<string, int>(StringComparer.Ordinal);
        var faults = new List<string>();
        var number = 0;
        for (var s = seed; s < seed + each; s++)
        {
            foreach (var (kind, format) in Format.All.Where(f => f.Missing is null).Index())
            {
                var what = $"{format.Name}-{s}";
                var damaged = format.Damaged(good.Path, s);
                number++;
                try
                {
                    var isProgram = (s + kind) % every == 0 && Child.NoStrace is null;
                    var code =
                        $"exit code {await Read(format, damaged, what, isProgram)}{(isProgram ? " of a program" : "")}";
                    codes[code] = codes.GetValueOrDefault(code) + 1;
                }
                catch (Xunit.Sdk.XunitException e)
                {
                    var kept = Path.Combine(Path.GetTempPath(), $"maconnx-damaged-{what}");
                    await File.WriteAllBytesAsync(kept, damaged);
                    faults.Add($"{kept}: {e.Message}");
                }
            }
        }

        var counts = string.Join(
            ", ",
            codes.OrderBy(c => c.Key, StringComparer.Ordinal).Select(c => $"{c.Value} {c.Key}")
        );
        TestContext.Current.SendDiagnosticMessage($"{number} damaged files: {counts}");
        Assert.True(faults.Count == 0, $"{faults.Count} of {number}:\n{string.Join('\n', faults)}");
    }

    /// <summary>Reads a damaged file; gives the exit code.</summary>
    private async Task<int> Read(Format format, byte[] damaged, string what, bool isProgram)
    {
        var at = Directory.CreateDirectory(_folder.File(what)).FullName;
        format.Place(good.Path, at, damaged);
        var before = Files(at);
        var line = format.Line(good.Path, at);
        var log = _folder.File("calls.txt");
        var (clock, busy, memory) = (Stopwatch.StartNew(), Child.Usage(isProgram).Busy, Memory.Reset());
        var (code, _, error) = isProgram
            ? await Child.Run(line, 6 * MostTime, "-e", "trace=%file,socket,connect", "-o", log)
            : await Maconnx.Run(TestContext.Current.CancellationToken, line);

        // A machine that does other work makes nothing slow that is not.
        var usage = Child.Usage(isProgram);
        var time = TimeSpan.FromTicks(Math.Min(clock.Elapsed.Ticks, (usage.Busy - busy).Ticks));
        memory = isProgram ? usage.Memory : Memory.Peak() - memory;
        var lines = error
            .Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Where(l => !l.StartsWith("note: ", StringComparison.Ordinal))
            .ToArray();
        Assert.True(code is 0 or 1 or 2, $"{what}: exit code {code}, {error}");
        Assert.True(
            lines.Length == (code == 0 ? 0 : 1) && lines.All(l => l.StartsWith("error: ", StringComparison.Ordinal)),
            $"{what}: exit code {code}, {error}"
        );
        Assert.True(time < MostTime, $"{what}: {time}, {error}");
        Assert.True(memory < MostMemory, $"{what}: {memory} bytes, {error}");
        var mayWrite = format.With == "run" ? "run" : "out";
        Assert.Equal(
            before,
            Files(at).Where(f => !f.StartsWith(mayWrite, StringComparison.Ordinal) || before.Contains(f))
        );
        if (isProgram)
        {
            var calls = await File.ReadAllLinesAsync(log, TestContext.Current.CancellationToken);
            Assert.DoesNotContain(calls, c => c.Contains("AF_INET", StringComparison.Ordinal));
            Assert.DoesNotContain(calls, c => Writes(c) && !c.Contains(at, StringComparison.Ordinal));
        }

        Directory.Delete(at, recursive: true);
        return code!.Value;
    }

    private static string[] Files(string folder) =>
        [
            .. Directory
                .EnumerateFileSystemEntries(folder, "*", SearchOption.AllDirectories)
                .Select(f => Path.GetRelativePath(folder, f))
                .Order(StringComparer.Ordinal),
        ];

    /// <summary>Whether a line of strace is a call that succeeded in making, changing or removing a file.</summary>
    private static bool Writes(string call) =>
        !call.Contains(" = -1 ", StringComparison.Ordinal)
        && !call.Contains("\"/dev/", StringComparison.Ordinal)
        && !call.Contains("\"/proc/self/", StringComparison.Ordinal)
        && (
            call.Contains("O_CREAT", StringComparison.Ordinal)
            || call.Contains("O_WRONLY", StringComparison.Ordinal)
            || call.Contains("O_RDWR", StringComparison.Ordinal)
            || new[]
            {
                " rename",
                " unlink",
                " mkdir",
                " rmdir",
                " symlink",
                " link",
                " truncate",
                " chmod",
                " mknod",
            }.Any(n => call.Contains(n, StringComparison.Ordinal))
        );

    /// <summary>A folder with a good file of each kind.</summary>
    public sealed class Good : IAsyncLifetime
    {
        private readonly TempFolder _folder = new();

        public string Path => _folder.Path;

        public async ValueTask InitializeAsync() => await Format.Make(_folder);

        public ValueTask DisposeAsync()
        {
            _folder.Dispose();
            return ValueTask.CompletedTask;
        }
    }

    /// <summary>The memory of this process, native memory too; nothing where there is no /proc.</summary>
    private static class Memory
    {
        /// <summary>Makes what is in use now the peak, and gives it.</summary>
        public static long Reset()
        {
            if (OperatingSystem.IsLinux())
            {
                File.WriteAllText("/proc/self/clear_refs", "5");
            }

            return Peak();
        }

        public static long Peak() =>
            OperatingSystem.IsLinux()
                ? File.ReadLines("/proc/self/status")
                    .Where(l => l.StartsWith("VmHWM:", StringComparison.Ordinal))
                    .Sum(l =>
                        long.Parse(l.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture)
                        << 10
                    )
                : 0;
    }
}
