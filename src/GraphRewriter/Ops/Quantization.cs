namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// Quantization and back: a staircase, flat almost everywhere. The straight-through rule (Bengio, Leonard and
/// Courville, 2013) takes it for the line that it follows, and for flat where it saturates.
/// </summary>
internal static class Quantization
{
    /// <summary>
    /// The operator of domain <see cref="OpTable.GradientDomain"/>: number, scale, zero point, as in QuantizeLinear;
    /// or the number alone, as in DynamicQuantizeLinear.
    /// </summary>
    public const string RoundTrip = "QuantizeDequantize";

    /// <summary>
    /// Half a step, and room for rounding: what is farther from its quantized number than that was cut off.
    /// </summary>
    private const double Half = 0.501;

    public static IEnumerable<OpRule> Rules { get; } =
    [new(RoundTrip, g => [Through(g)], OpTable.GradientDomain, NoGradient: [1, 2])];

    private static Term Through(GradientContext g)
    {
        if (!g.Has(1))
        {
            // A range that is taken from the numbers themselves cuts nothing off.
            return g.DY();
        }

        if (g.Int("block_size", 0) != 0)
        {
            throw g.Unsupported("numbers are quantized in blocks", "Quantize weights alone in blocks.");
        }

        var step = g.X(1);
        if (step.V.KnownShape is { Rank: 1 } scales && !scales[0].SameAs(1))
        {
            var rank = g.ShapeX().Rank;
            var dims = Enumerable.Repeat(1L, rank).ToArray();
            dims[g.Axis("axis", 1)] = -1;
            step = step.Reshape(dims);
        }
        else
        {
            step = step.Reshape([]);
        }

        return g.DY() * (g.X() - g.Y()).Abs().Op("LessOrEqual", step * Half).AsNumber(g.DY().Type);
    }
}
