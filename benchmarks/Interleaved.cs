using System.Diagnostics;
using System.Runtime.InteropServices;

namespace MacOnnx.Benchmarks;

/// <summary>Times several contenders in turns, so that a slow moment of the machine hits all of them.</summary>
internal static partial class Interleaved
{
    /// <summary>
    /// Runs <paramref name="rounds"/> rounds; in each, every contender runs once untimed, then for a while timed.
    /// </summary>
    /// <param name="contenders">The steps to time.</param>
    /// <param name="rounds">Number of rounds, at least 1.</param>
    /// <param name="budget">Time that a contender's timed steps take in one round, at least one step.</param>
    /// <param name="cpuTime">Whether to take the calling thread's processor time instead of wall time: fair to
    /// one-thread steps on a busy machine.</param>
    /// <returns>The times of each contender's steps, in milliseconds, ascending.</returns>
    public static double[][] Run(IReadOnlyList<Action> contenders, int rounds, TimeSpan budget, bool cpuTime = false)
    {
        Func<double> clock = cpuTime ? ThreadMilliseconds : () => Stopwatch.GetTimestamp() * 1e3 / Stopwatch.Frequency;
        List<double>[] times = [.. contenders.Select(_ => new List<double>())];
        for (int round = 0; round < rounds; round++)
        {
            for (int i = 0; i < contenders.Count; i++)
            {
                contenders[i]();
                long start = Stopwatch.GetTimestamp();
                do
                {
                    double before = clock();
                    contenders[i]();
                    times[i].Add(clock() - before);
                } while (Stopwatch.GetElapsedTime(start) < budget);
            }
        }

        return [.. times.Select(list => list.Order().ToArray())];
    }

    /// <summary>
    /// Takes the same number of steps of every contender in turns, by the process's processor time: threads of its own
    /// count, and other processes do not.
    /// </summary>
    /// <param name="contenders">The steps to time.</param>
    /// <param name="rounds">The rounds; before them a contender takes a round's steps untimed.</param>
    /// <param name="steps">The steps of a contender in each round.</param>
    /// <returns>The times of each contender's steps, in milliseconds, ascending.</returns>
    public static double[][] RunSteps(IReadOnlyList<Action> contenders, int rounds, int steps)
    {
        List<double>[] times = [.. contenders.Select(_ => new List<double>())];
        for (int step = -steps; step < rounds * steps; step += steps)
        {
            for (int i = 0; i < contenders.Count; i++)
            {
                for (int n = 0; n < steps; n++)
                {
                    double before = Milliseconds(2);
                    contenders[i]();
                    if (step >= 0)
                    {
                        times[i].Add(Milliseconds(2) - before);
                    }
                }
            }
        }

        return [.. times.Select(list => list.Order().ToArray())];
    }

    /// <summary>Processor time of this thread (CLOCK_THREAD_CPUTIME_ID of Linux).</summary>
    private static double ThreadMilliseconds() => Milliseconds(3);

    private static double Milliseconds(int clock)
    {
        ClockGetTime(clock, out TimeSpec time);
        return (time.Seconds * 1e3) + (time.Nanoseconds / 1e6);
    }

    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static partial int ClockGetTime(int clock, out TimeSpec time);

    [StructLayout(LayoutKind.Sequential)]
    private struct TimeSpec
    {
        public long Seconds;
        public long Nanoseconds;
    }
}
