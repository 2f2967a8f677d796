using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Reductions over axes: what flows back is spread over the elements that were reduced.</summary>
internal static class Reductions
{
    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("ReduceSum", g => [Spread(g, g.DY())]),
    ];

    /// <summary>Gives the reduced axes, counted from the front.</summary>
    private static long[] Axes(GradientContext g)
    {
        if (g.Has(1) && g.ConstantInts(1) is null)
        {
            throw new MacOnnxException("MAC0107", g.Node.ToString(), "Its axes are computed at run time.", "Export the model with constant axes.");
        }

        return g.ConstantInts(1) is { Length: > 0 } axes
            ? [.. axes.Select(a => (long)g.ShapeX().Axis(a))]
            : g.Int("noop_with_empty_axes", 0) != 0 ? [] : [.. Enumerable.Range(0, g.ShapeX().Rank).Select(a => (long)a)];
    }

    /// <summary>Gives a value of the output's shape back the reduced axes, with size 1.</summary>
    private static Term Kept(GradientContext g, Term term) =>
        g.Int("keepdims", 1) == 0 && Axes(g) is { Length: > 0 } axes ? term.Unsqueeze(axes) : term;

    /// <summary>Repeats a value of the output's shape along the reduced axes.</summary>
    private static Term Spread(GradientContext g, Term term) =>
        Axes(g).Length == 0 ? term : Kept(g, term).Op("Expand", g.X().ShapeVector());
}
