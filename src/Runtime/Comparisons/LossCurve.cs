using System.Collections.Immutable;

namespace MacOnnx.Runtime.Comparisons;

/// <summary>
/// The training loss of a method by step. The loss at a step is the mean of the losses of a tenth of the run up to it,
/// or of the steps so far where there are fewer.
/// </summary>
/// <param name="Mean">The mean over the seeds, for each step.</param>
/// <param name="Least">The least of the seeds, for each step.</param>
/// <param name="Most">The most of the seeds, for each step.</param>
public sealed record LossCurve(ImmutableArray<double> Mean, ImmutableArray<double> Least, ImmutableArray<double> Most)
{
    /// <summary>Gives the first step, from 1, at which the mean is a loss or less; null where none is.</summary>
    /// <param name="loss">The loss.</param>
    public long? FirstAt(double loss)
    {
        for (var i = 0; i < Mean.Length; i++)
        {
            if (Mean[i] <= loss)
            {
                return i + 1;
            }
        }

        return null;
    }

    /// <summary>Makes the curve of runs of equal length.</summary>
    internal static LossCurve Of(IReadOnlyList<float[]> runs)
    {
        var smooth = runs.Select(Smooth).ToArray();
        return new(Columns(c => c.Average()), Columns(c => c.Min()), Columns(c => c.Max()));

        ImmutableArray<double> Columns(Func<IEnumerable<double>, double> of) =>
            [.. Enumerable.Range(0, smooth[0].Length).Select(i => of(smooth.Select(s => s[i])))];
    }

    /// <summary>
    /// Gives the loss at each step of one run; steps that were skipped for numbers that are not finite do not count.
    /// </summary>
    internal static double[] Smooth(float[] losses)
    {
        var window = Math.Max(1, losses.Length / 10);
        var (sum, count) = (0.0, 0);
        var result = new double[losses.Length];
        for (var i = 0; i < losses.Length; i++)
        {
            Count(losses[i], 1);
            if (i >= window)
            {
                Count(losses[i - window], -1);
            }

            result[i] = count > 0 ? sum / count : double.PositiveInfinity;
        }

        return result;

        void Count(float loss, int sign) =>
            (sum, count) = float.IsFinite(loss) ? (sum + (sign * (double)loss), count + sign) : (sum, count);
    }
}
