using System.ComponentModel;
using System.Diagnostics;
using System.Runtime.InteropServices;
using MacOnnx.Cli.Tests.Support;

namespace MacOnnx.Cli.Tests.Reliability;

/// <summary>The program as a process of its own, perhaps under strace, which stops or fails its system calls.</summary>
internal static partial class Child
{
    private const string Strace = "/usr/bin/strace";

    /// <summary>The exit code that shells and .NET give for SIGKILL.</summary>
    private const int KilledCode = 137;

    private const int PollMilliseconds = 5;

    /// <summary>What writes files: of the calls of one kind, any may be the last, or the first to fail.</summary>
    public static string[] FileCalls { get; } = ["pwrite64", "fsync", "rename", "mkdir"];

    /// <summary>Gets why strace cannot be used; null where it can.</summary>
    public static string? NoStrace { get; } =
        !OperatingSystem.IsLinux() || !File.Exists(Strace) ? "strace is not there."
        : File.ReadLines("/proc/self/status").Contains("TracerPid:\t0") ? null
        : "strace looks at this process already.";

    /// <summary>Gets whether the long runs are wanted.</summary>
    public static bool IsNightly => Environment.GetEnvironmentVariable("MACONNX_NIGHTLY") == "1";

    public static void SkipUnlessNightly() => Assert.SkipUnless(IsNightly, "Takes long: set MACONNX_NIGHTLY=1.");

    /// <summary>Runs the program.</summary>
    /// <param name="args">The arguments.</param>
    /// <param name="patience">Kills it after this time.</param>
    /// <param name="strace">Options of strace; none runs it alone.</param>
    /// <returns>The exit code, null where it was killed, and what it wrote.</returns>
    public static async Task<(int? Code, string Output, string Error)> Run(
        string[] args,
        TimeSpan? patience = null,
        params string[] strace
    )
    {
        var (code, output, error, _, _) = await Run(args, strace, (clock, _) => clock >= patience);
        return (code, output, error);
    }

    /// <summary>Kills the program at a moment of its own processor time, which other work on the machine does not
    /// make much longer.</summary>
    /// <param name="args">The arguments.</param>
    /// <param name="most">The processor time; more than it takes lets it end.</param>
    /// <returns>The exit code, null where it was killed, what it wrote to standard error, and its processor
    /// time.</returns>
    public static async Task<(int? Code, string Error, TimeSpan Busy)> RunFor(string[] args, TimeSpan most)
    {
        var (code, _, error, busy, _) = await Run(args, [], (_, busy) => busy >= most);
        return (code, error, busy);
    }

    /// <summary>Runs a program that must succeed.</summary>
    /// <param name="args">The arguments.</param>
    /// <returns>The most memory that it had at a time, in bytes.</returns>
    public static async Task<long> Memory(params string[] args)
    {
        var (code, _, error, _, memory) = await Run(args, [], (_, _) => false);
        Assert.Equal((0, ""), (code, error));
        return memory;
    }

    /// <summary>Counts the calls of each kind that a run makes which must succeed.</summary>
    /// <param name="args">The arguments.</param>
    /// <param name="log">A file for the calls.</param>
    public static async Task<Dictionary<string, int>> Count(string[] args, string log)
    {
        var (code, _, error) = await Run(args, null, "-e", $"trace={string.Join(',', FileCalls)}", "-o", log);
        Assert.Equal((0, ""), (code, error));
        var lines = await File.ReadAllLinesAsync(log, TestContext.Current.CancellationToken);
        return FileCalls.ToDictionary(c => c, c => lines.Count(l => l.Contains($" {c}(", StringComparison.Ordinal)));
    }

    /// <summary>Gives the options with which a call ends in a way of its own.</summary>
    /// <param name="call">The kind of call.</param>
    /// <param name="way"><c>signal=KILL</c> or <c>error=ENOSPC</c>.</param>
    /// <param name="when">The number of the call, from 1; "5+" for it and all that follow.</param>
    public static string[] Inject(string call, string way, string when) =>
        ["-e", $"trace={call}", "-e", $"inject={call}:{way}:when={when}", "-o", "/dev/null"];

    /// <summary>
    /// Gives the processor time of this process or of the programs that have ended, and their most memory.
    /// </summary>
    /// <param name="programs">Whether of the programs.</param>
    public static (TimeSpan Busy, long Memory) Usage(bool programs)
    {
        if (!OperatingSystem.IsLinux())
        {
            return (Environment.CpuUsage.TotalTime, 0);
        }

        // Seconds and microseconds of the user and of the system, then the memory in kB.
        var usage = new long[18];
        Assert.Equal(0, GetUsage(programs ? -1 : 0, usage));
        return (
            TimeSpan.FromSeconds(usage[0] + usage[2]) + TimeSpan.FromMicroseconds(usage[1] + usage[3]),
            usage[4] << 10
        );
    }

    private static async Task<(int? Code, string Output, string Error, TimeSpan Busy, long Memory)> Run(
        string[] args,
        string[] strace,
        Func<TimeSpan, TimeSpan, bool> isOver
    )
    {
        string[] line =
            strace.Length == 0
                ? [Maconnx.Program, .. args]
                : [Strace, "-f", "--seccomp-bpf", "-qq", .. strace, Maconnx.Program, .. args];
        var start = new ProcessStartInfo(line[0], line[1..])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };

        // .NET would make pipes for debuggers among the temporary files.
        start.Environment["DOTNET_EnableDiagnostics"] = "0";
        var clock = Stopwatch.StartNew();
        using var process = Process.Start(start)!;
        var output = process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var error = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        var (busy, memory) = (TimeSpan.Zero, 0L);
        while (!process.WaitForExit(PollMilliseconds))
        {
            TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
            var use = UseOf(process);
            (busy, memory) = (Max(busy, use.Busy), Math.Max(memory, use.Memory));
            if (isOver(clock.Elapsed, busy))
            {
                process.Kill();
                break;
            }
        }

        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        return (process.ExitCode == KilledCode ? null : process.ExitCode, await output, await error, busy, memory);
    }

    /// <summary>Gives the processor time of a process and its most memory; nothing where it has just ended.</summary>
    private static (TimeSpan Busy, long Memory) UseOf(Process process)
    {
        try
        {
            process.Refresh();
            return (process.TotalProcessorTime, process.PeakWorkingSet64);
        }
        catch (Exception e) when (e is InvalidOperationException or Win32Exception)
        {
            return default;
        }
    }

    private static TimeSpan Max(TimeSpan a, TimeSpan b) => a > b ? a : b;

    [LibraryImport("libc", EntryPoint = "getrusage")]
    private static partial int GetUsage(int who, [Out] long[] usage);
}
