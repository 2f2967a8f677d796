using System.Diagnostics;

namespace MacOnnx.Benchmarks;

/// <summary>Times several contenders in turns, so that a slow moment of the machine hits all of them.</summary>
internal static class Interleaved
{
    /// <summary>Runs <paramref name="rounds"/> rounds; in each, every contender runs once untimed, then for a while timed.</summary>
    /// <param name="contenders">The steps to time.</param>
    /// <param name="rounds">Number of rounds, at least 1.</param>
    /// <param name="budget">Time that a contender's timed steps take in one round, at least one step.</param>
    /// <returns>The wall times of each contender's steps, in milliseconds, ascending.</returns>
    public static double[][] Run(IReadOnlyList<Action> contenders, int rounds, TimeSpan budget)
    {
        List<double>[] times = [.. contenders.Select(_ => new List<double>())];
        for (int round = 0; round < rounds; round++)
        {
            for (int i = 0; i < contenders.Count; i++)
            {
                contenders[i]();
                long start = Stopwatch.GetTimestamp();
                do
                {
                    long before = Stopwatch.GetTimestamp();
                    contenders[i]();
                    times[i].Add(Stopwatch.GetElapsedTime(before).TotalMilliseconds);
                }
                while (Stopwatch.GetElapsedTime(start) < budget);
            }
        }

        return [.. times.Select(list => list.Order().ToArray())];
    }
}
