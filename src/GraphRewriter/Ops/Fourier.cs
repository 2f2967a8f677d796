using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>The discrete Fourier transform: what flows back goes through its adjoint.</summary>
/// <remarks>
/// With the matrix F of the transform, y = F x receives conj(F)^T dy = n IDFT(dy), and y = IDFT(x) receives DFT(dy) /
/// n.
/// </remarks>
internal static class Fourier
{
    public static IEnumerable<OpRule> Rules { get; } = [new("DFT", g => [Dft(g)])];

    private static Term Dft(GradientContext g)
    {
        var (inverse, oneSided) = (g.Int("inverse", 0) != 0, g.Int("onesided", 0) != 0);
        if (inverse && oneSided)
        {
            throw g.Unsupported("a one-sided transform is inverted", "Use the whole spectrum.");
        }

        if (g.Has(2) && g.ConstantInts(2) is null)
        {
            throw g.Unsupported("the axis is computed at run time", "Export the model with a constant axis.");
        }

        var (x, shape) = (g.X(), g.ShapeX());
        var axis = shape.Axis(g.ConstantInts(2)?[0] ?? -2);
        var length = g.Has(1) ? g.X(1) : x.DimVector(axis).Squeeze(0);
        var back = g.Op("DFT", [g.DY(), length, g.B.Int64(axis)], Int("inverse", !inverse));
        var n = length.Cast(x.Type);
        back = inverse ? back / n : back * n;

        // The transform pads or cuts to its length, and takes real numbers for complex ones.
        if (g.Has(1))
        {
            var (own, used) = (shape[axis], g.ConstantInts(1)?[0]);
            if (!own.IsStatic || used is null)
            {
                throw g.Unsupported("dft_length or the signal's length is dynamic", "Leave dft_length out.");
            }

            back = Indexing.PadZeros(g, back, [0, own.Size - used.Value], [axis]);
        }

        return shape[-1].SameAs(1) ? new(g.B, g.B.Op("Slice", [back, g.Ints64(0), g.Ints64(1), g.Ints64(-1)])) : back;
    }
}
