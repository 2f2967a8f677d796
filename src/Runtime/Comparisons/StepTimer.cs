using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime.Comparisons;

/// <summary>Times the steps of several sessions, which take turns so that a slow moment hits all of them.</summary>
internal static class StepTimer
{
    private const int MostRounds = 5;

    /// <summary>The steps of a turn: few enough for turns to be close in time, enough for caches to be warm.</summary>
    private const int Turn = 10;

    /// <summary>Gives the median over rounds of a step's mean time, in milliseconds, for each session.</summary>
    /// <param name="sessions">The sessions. A round is as many steps as their preconditioners are kept.</param>
    /// <param name="data">The data.</param>
    /// <param name="training">What makes batches.</param>
    /// <param name="steps">The most steps of a session; a first one, in which ONNX Runtime plans its memory, is beside
    /// them.</param>
    /// <param name="time">The time after which no further round begins.</param>
    /// <param name="clock">What measures times.</param>
    /// <param name="cancellationToken">Ends the measurement after a step.</param>
    public static double[] Measure(
        IReadOnlyList<MacTrainingSession> sessions,
        Dataset data,
        TrainerOptions training,
        long steps,
        TimeSpan time,
        TimeProvider clock,
        CancellationToken cancellationToken
    )
    {
        using var loader = new BatchLoader(
            data,
            training.BatchSize,
            training.Shuffle,
            training.Seed,
            dropIncomplete: data.Samples >= training.BatchSize
        );
        using var batches = Batches(loader).GetEnumerator();
        var length = Math.Clamp(sessions.Max(s => s.Hyperparameters.RefreshEvery), 1, steps);
        var begin = clock.GetTimestamp();
        var rounds = sessions.Select(_ => new List<double>()).ToArray();
        foreach (var session in sessions)
        {
            Run(session, 1);
        }

        do
        {
            var times = new double[sessions.Count];
            for (var done = 0L; done < length; done += Turn)
            {
                for (var i = 0; i < sessions.Count; i++)
                {
                    times[i] += Run(sessions[i], Math.Min(Turn, length - done));
                }
            }

            for (var i = 0; i < sessions.Count; i++)
            {
                rounds[i].Add(times[i] / length);
            }
        } while (
            rounds[0].Count < MostRounds
            && (rounds[0].Count + 1) * length <= steps
            && clock.GetElapsedTime(begin) < time
        );

        return [.. rounds.Select(Median)];

        double Run(MacTrainingSession session, long count)
        {
            var start = clock.GetTimestamp();
            for (var step = 0; step < count; step++)
            {
                cancellationToken.ThrowIfCancellationRequested();
                for (var batch = 0; batch < training.AccumulationSteps; batch++)
                {
                    batches.MoveNext();
                    session.TrainStep(batches.Current.Values, batches.Current.Samples);
                }

                session.OptimizerStep();
            }

            return clock.GetElapsedTime(start).TotalMilliseconds;
        }
    }

    private static IEnumerable<Batch> Batches(BatchLoader loader)
    {
        for (var epoch = 0L; ; epoch++)
        {
            foreach (var batch in loader.Epoch(epoch))
            {
                yield return batch;
            }
        }
    }

    private static double Median(List<double> values)
    {
        values.Sort();
        return (values[(values.Count - 1) / 2] + values[values.Count / 2]) / 2;
    }
}
