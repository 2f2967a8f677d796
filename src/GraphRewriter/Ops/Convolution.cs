using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Convolutions in one to three dimensions.</summary>
/// <remarks>
/// Conv gathers windows of a big tensor into a small one with the weights W [small channels, big channels / group,
/// kernel], and
/// ConvTranspose is its adjoint. So both need the same two gradient operators: <c>ConvDataGrad(small, W, big)</c>
/// spreads the small
/// tensor over the windows (to the shape of the big one), and <c>ConvWeightGrad(small, big)</c> correlates the two.
/// </remarks>
internal static class Convolution
{
    public static IEnumerable<OpRule> Rules { get; } = [new("Conv", Conv), new("ConvTranspose", ConvTranspose)];

    private static Term?[] Conv(GradientContext g)
    {
        var windows = WindowsOf(g, channels: g.ShapeX(1)[1].Size * g.Int("group", 1));
        return
        [
            g.Needs(0)
                ? g.Of(g.Internal("ConvDataGrad", [g.DY(), g.X(1), g.X(0)], 1, windows.Attributes(Group(g))).Outputs[0])
                : null,
            g.Needs(1) ? WeightGradient(g, windows, small: g.DY(), big: g.X()) : null,
            BiasGradient(g),
        ];
    }

    private static Term?[] ConvTranspose(GradientContext g)
    {
        var windows = WindowsOf(g, channels: g.ShapeX(1)[0].Size);
        return
        [
            g.Op("Conv", [g.DY(), g.X(1)], windows.Attributes(Group(g))),
            g.Needs(1) ? WeightGradient(g, windows, small: g.X(), big: g.DY()) : null,
            BiasGradient(g),
        ];
    }

    private static Term WeightGradient(GradientContext g, Windows windows, Term small, Term big) =>
        g.Of(g.Internal("ConvWeightGrad", [small, big], 1, windows.Attributes(Group(g))).Outputs[0]);

    private static Term? BiasGradient(GradientContext g) =>
        g.Needs(2)
            ? g.DY().Sum([0, .. Enumerable.Range(2, g.ShapeY().Rank - 2).Select(a => (long)a)], keepDims: false)
            : null;

    /// <summary>Gives the windows. ONNX Runtime checks the number of channels only when it runs.</summary>
    private static Windows WindowsOf(GradientContext g, long channels) =>
        g.ShapeX(0)[1] is { IsStatic: true } found && found.Size != channels
            ? throw g.Unsupported(
                $"its input has {found.Size} channels and its weights take {channels}",
                "Correct the shape that the model declares."
            )
            : Windows.Of(g.Node, [.. g.ShapeX(1).Dims.Skip(2).Select(d => d.Size)]);

    private static Attr Group(GradientContext g) => Int("group", g.Int("group", 1));
}
