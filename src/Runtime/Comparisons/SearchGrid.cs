using System.Globalization;

namespace MacOnnx.Runtime.Comparisons;

/// <summary>The values that a search tries: at equal ratios, to two digits.</summary>
internal static class SearchGrid
{
    /// <summary>Gives how many of a search's trials go to damping: a third, where the method has it.</summary>
    public static int DampingTrials(int trials, bool hasDamping) => hasDamping ? trials / 3 : 0;

    /// <summary>
    /// Gives learning rates, ascending: the middle and as many below as above it; one more above where the number is
    /// even.
    /// </summary>
    /// <param name="middle">The middle, more than 0.</param>
    /// <param name="range">The ratio of the last to the middle, and of the middle to the first.</param>
    /// <param name="count">The number of rates, 1 or more.</param>
    public static float[] Rates(float middle, double range, int count) =>
        [.. Below(middle, range, (count - 1) / 2), middle, .. Above(middle, range, count / 2)];

    /// <summary>
    /// Gives dampings beside the middle, ascending: as many below as above it; one more below where the number is odd.
    /// </summary>
    public static float[] Dampings(float middle, double range, int count) =>
        [.. Below(middle, range, (count + 1) / 2), .. Above(middle, range, count / 2)];

    private static IEnumerable<float> Below(float middle, double range, int count) =>
        Above(middle, 1 / range, count).Reverse();

    private static IEnumerable<float> Above(float middle, double range, int count) =>
        Enumerable.Range(1, count).Select(i => Rounded(middle * Math.Pow(range, (double)i / count)));

    private static float Rounded(double value) =>
        float.Parse(value.ToString("E1", CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
}
