using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Pools over windows of the spatial axes, and over all of them.</summary>
internal static class Pooling
{
    public static IEnumerable<OpRule> Rules { get; } =
    [
        // The first maximum of a window takes its gradient. Positions have none.
        new(
            "MaxPool",
            g =>
                [
                    g.HasDY(0)
                        ? g.Of(
                            g.Internal(
                                "MaxPoolGrad",
                                [g.DY(), g.X(), g.Y()],
                                1,
                                Windows.Of(g.Node).Attributes(Int("ceil_mode", g.Int("ceil_mode", 0)))
                            ).Outputs[0]
                        )
                        : null,
                ]
        ),
        new("AveragePool", g => [Spread(g, g.DY() * Weight(g))]),
        new("LpPool", LpPool),
        new("GlobalAveragePool", g => [g.Op("Expand", [g.DY() / Count(g.X(), Spatial(g)), g.X().ShapeVector()])]),
        new("GlobalMaxPool", GlobalMaxPool),
        new("GlobalLpPool", g => [PowerSlope(g) * PerPower(g)]),
        new("MaxUnpool", MaxUnpool),
    ];

    /// <summary>Gives the number of elements along some axes as a scalar of the term's type.</summary>
    public static Term Count(Term x, params ReadOnlySpan<long> axes)
    {
        var shape = x.V.KnownShape;
        var (known, dynamic) = (1L, new List<long>());
        foreach (var axis in axes)
        {
            if (shape[(int)axis] is { IsStatic: true } dim)
            {
                known = checked(known * dim.Size);
            }
            else
            {
                dynamic.Add(axis);
            }
        }

        return dynamic
            .Select(a => x.DimVector((int)a).Squeeze(0).Cast(x.Type))
            .Aggregate(x.Scalar(known), (n, d) => n * d);
    }

    private static long[] Spatial(GradientContext g) =>
        [.. Enumerable.Range(2, g.ShapeX().Rank - 2).Select(a => (long)a)];

    /// <summary>Adds each element of a term of the output's shape to every position of its window.</summary>
    private static Term Spread(GradientContext g, Term small)
    {
        small.V.Shape = g.ShapeY();
        return g.Of(g.Internal("WindowSpread", [small, g.X()], 1, Windows.Of(g.Node).Attributes()).Outputs[0]);
    }

    /// <summary>
    /// Gives what an element of a window counts: 1 / size, or, where windows reach over the edge, what the pool itself
    /// makes of ones.
    /// </summary>
    private static Term Weight(GradientContext g)
    {
        var windows = Windows.Of(g.Node);
        if (!windows.IsPadded && g.Int("ceil_mode", 0) == 0)
        {
            return g.DY().Scalar(1.0 / windows.Taps);
        }

        // The pool of ones is (elements inside) / divisor; the sum over the window, a convolution of ones, is the
        // elements inside.
        var sizes = g.ShapeX().Dims.Skip(2).ToArray();
        var shape = sizes.All(s => s.IsStatic)
            ? g.Ints64([1, 1, .. sizes.Select(s => s.Size)])
            : g.Op("Concat", [g.Ints64(1, 1), g.X().Op("Shape", Int("start", 2))], Int("axis", 0));
        var ones = g.Op("ConstantOfShape", [shape], Tensor("value", GraphBuilder.ScalarTensor(1, g.X().Type, [1])));
        var pooled = g.Op("AveragePool", [ones], [.. g.Node.Attributes.All]);
        var end = windows.End.Select(
            (p, a) =>
                p
                - Math.Min(
                    0,
                    windows.Rest(a, g.ShapeX(), g.ShapeY()) ?? (g.Int("ceil_mode", 0) == 0 ? 0 : throw Dynamic(g))
                )
        );
        var kernel = g.B.Constant(
            Ir.Tensor.From<float>([1, 1, .. windows.Kernel], [.. Enumerable.Repeat(1f, (int)windows.Taps)])
        );
        var inside = g.Op("Conv", [ones, kernel], (windows with { End = [.. end] }).Attributes());
        return pooled / inside;
    }

    private static Diagnostics.MacOnnxException Dynamic(GradientContext g) =>
        new(
            "MAC0110",
            g.Node.ToString(),
            "With ceil_mode its padding depends on a size that is known only at run time.",
            "Fix the model's dynamic dimensions with RewriteOptions.Dimensions (NAME=SIZE)."
        );

    /// <summary>
    /// y = (sum |x|^p)^(1/p): dx = sign(x) |x|^(p-1) * the sum of dy y^(1-p) over the windows that see x.
    /// </summary>
    private static Term?[] LpPool(GradientContext g) => [PowerSlope(g) * Spread(g, PerPower(g))];

    /// <summary>sign(x) |x|^(p-1).</summary>
    private static Term PowerSlope(GradientContext g)
    {
        var x = g.X();
        return g.Int("p", 2) switch
        {
            1 => x.Op("Sign"),
            2 => x,
            var p => x.Op("Sign") * x.Abs().Op("Pow", x.Scalar(p - 1)),
        };
    }

    /// <summary>dy y^(1-p). A window of zeros has y = 0 and no slope.</summary>
    private static Term PerPower(GradientContext g)
    {
        var (p, y) = (g.Int("p", 2), g.Y());
        return p == 1 ? g.DY() : g.DY() / y.Op("Pow", y.Scalar(p - 1)).Where(y.Op("Greater", y.Scalar(0)), y.Scalar(1));
    }

    /// <summary>Each element takes what its place receives; places are counted over the whole output.</summary>
    private static Term?[] MaxUnpool(GradientContext g) =>
        g.Has(2)
            ? throw g.Unsupported("the output's shape is an input", "Leave output_shape out.")
            : [g.DY().Reshape(-1).Op("Gather", g.X(1))];

    private static Term?[] GlobalMaxPool(GradientContext g)
    {
        var flat = g.X().Reshape(0, 0, -1);
        var first = flat.Op("ArgMax", Int("axis", 2), Int("keepdims", 1));
        return
        [
            g.Op("ScatterElements", [flat.Zeros(), first, g.DY().Reshape(0, 0, 1)], Int("axis", 2)).ReshapeTo(g.X()),
        ];
    }
}
