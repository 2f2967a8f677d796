namespace MacOnnx.Runtime.Data;

/// <summary>The splitmix64 generator: a counter that grows by a constant, its bits mixed. Orders of samples depend on
/// it, so it never changes:
/// a resumed run must see the batches that the interrupted one would have seen.</summary>
internal struct SplitMix64(ulong state)
{
    /// <summary>Gives 64 random bits.</summary>
    public ulong Next()
    {
        state += 0x9E3779B97F4A7C15;
        var z = state;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return z ^ (z >> 31);
    }

    /// <summary>Gives a number from 0 to a bound less one.</summary>
    /// <remarks>
    /// The high half of a 128-bit product; its bias, under 2^-32 for bounds of 32 bits, is far below what any run could
    /// notice.
    /// </remarks>
    public long Below(long bound) => (long)Math.BigMul(Next(), (ulong)bound, out _);

    /// <summary>Gives a number from 0, exclusive, to 1.</summary>
    public double Uniform() => ((Next() >> 11) + 1) / (double)(1L << 53);

    /// <summary>Gives a number of the standard normal distribution, by Box and Muller's formula.</summary>
    public double Normal() => Math.Sqrt(-2 * Math.Log(Uniform())) * Math.Cos(2 * Math.PI * Uniform());

    /// <summary>Gives the generator that belongs to a seed and a stream of it.</summary>
    /// <remarks>
    /// The seed is mixed first, so that (seed, stream + 1) and (seed + 1, stream) have nothing in common.
    /// </remarks>
    public static SplitMix64 Stream(ulong seed, long stream) => new(new SplitMix64(seed).Next() + (ulong)stream);

    /// <summary>
    /// Fills with 0, 1, 2, ... in the order that belongs to a seed and a stream of it (an epoch), by Fisher-Yates.
    /// </summary>
    public static void Shuffle(Span<int> order, ulong seed, long stream)
    {
        var random = Stream(seed, stream);
        for (var i = 0; i < order.Length; i++)
        {
            var j = (int)random.Below(i + 1);
            order[i] = order[j];
            order[j] = i;
        }
    }
}
