using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Reductions over axes: what flows back is spread over the elements that were reduced.</summary>
internal static class Reductions
{
    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("ReduceSum", g => [Spread(g, g.DY())]),
        new("ReduceMean", g => [Spread(g, Axes(g) is { Length: > 0 } axes ? g.DY() / Count(g, axes) : g.DY())]),
        new("ReduceMax", g => [SharedByTies(g)]),
        new("ReduceMin", g => [SharedByTies(g)]),
        new("ReduceProd", g => [Product(g)]),
        new("ReduceL1", g => [g.X().Op("Sign") * Kept(g, g.DY())]),
        new(
            "ReduceL2",
            g => [g.X() * Kept(g, g.DY().Scalar(0).Where(g.Y().Op("Equal", g.Y().Scalar(0)), g.DY() / g.Y()))]
        ),
        new("ReduceSumSquare", g => [(g.X() + g.X()) * Kept(g, g.DY())]),
        new("ReduceLogSum", g => [Spread(g, g.DY() / g.Y().Exp())]),
        new("ReduceLogSumExp", g => [(g.X() - Kept(g, g.Y())).Exp() * Kept(g, g.DY())]),
    ];

    /// <summary>Gives the reduced axes, counted from the front.</summary>
    private static long[] Axes(GradientContext g)
    {
        if (g.Has(1) && g.ConstantInts(1) is null)
        {
            throw g.Unsupported("axes are computed at run time", "Export the model with constant axes.");
        }

        return g.ConstantInts(1) is { Length: > 0 } axes ? [.. axes.Select(a => (long)g.ShapeX().Axis(a))]
            : g.Int("noop_with_empty_axes", 0) != 0 ? []
            : [.. Enumerable.Range(0, g.ShapeX().Rank).Select(a => (long)a)];
    }

    /// <summary>Gives the number of elements that each output element stands for.</summary>
    private static Term Count(GradientContext g, long[] axes) =>
        axes.All(a => g.ShapeX()[(int)a].IsStatic)
            ? g.DY().Scalar(axes.Aggregate(1.0, (n, a) => n * g.ShapeX()[(int)a].Size))
            : g.Op("ReduceProd", [g.Join(axes.Select(a => g.X().DimVector((int)a)))], Attr.Int("keepdims", 0))
                .Cast(g.DY().Type);

    /// <summary>Gives a value of the output's shape back the reduced axes, with size 1.</summary>
    private static Term Kept(GradientContext g, Term term) =>
        g.Int("keepdims", 1) == 0 && Axes(g) is { Length: > 0 } axes ? term.Unsqueeze(axes) : term;

    /// <summary>Repeats a value of the output's shape along the reduced axes.</summary>
    private static Term Spread(GradientContext g, Term term) =>
        Axes(g).Length == 0 ? term : Kept(g, term).Op("Expand", g.X().ShapeVector());

    /// <summary>Elements that share the extreme share what flows back evenly.</summary>
    private static Term SharedByTies(GradientContext g)
    {
        var hits = g.X().Op("Equal", Kept(g, g.Y())).AsNumber(g.X().Type);
        return hits * (Kept(g, g.DY()) / hits.Sum(Axes(g)));
    }

    /// <summary>
    /// Each element receives the product of the others, exactly also where one of them or itself is 0.
    /// </summary>
    private static Term Product(GradientContext g)
    {
        var zero = g.X().Op("Equal", g.X().Scalar(0));
        var isZero = zero.AsNumber(g.X().Type);
        var nonZero = g.X().Scalar(1).Where(zero, g.X());
        var product = Axes(g) is { Length: > 0 } axes ? nonZero.Op("ReduceProd", g.Ints64(axes)) : nonZero;

        // The others hold no zero: there is none, or this is the only one.
        var othersNonZero = isZero.Sum(Axes(g)).Op("Equal", isZero).AsNumber(g.X().Type);
        return Kept(g, g.DY()) * product / nonZero * othersNonZero;
    }
}
