using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Resize, undone axis by axis.</summary>
/// <remarks>
/// Along one axis every mode is a product with a matrix, which is what Resize makes of the identity matrix; what flows
/// back is the
/// product with its transpose. Enlarging by repetition is undone by an average.
/// </remarks>
internal static class Resampling
{
    private static readonly string[] OneAxis =
    [
        "mode",
        "coordinate_transformation_mode",
        "nearest_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "extrapolation_value",
        "antialias",
    ];

    public static IEnumerable<OpRule> Rules { get; } = [new("Resize", g => [Resize(g)], NoGradient: [1, 2])];

    private static Term Resize(GradientContext g)
    {
        if (
            g.Text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
            || g.Text("keep_aspect_ratio_policy", "stretch") != "stretch"
        )
        {
            throw g.Unsupported("Resize crops or keeps an aspect ratio", "Give every axis its scale or size.");
        }

        var resized = Axes(g);
        if (resized.Any(a => !g.ShapeX()[a.Axis].IsStatic || !g.ShapeY()[a.Axis].IsStatic))
        {
            throw g.Unsupported(
                "a resized axis has a dynamic size",
                "Fix the model's dynamic dimensions with RewriteOptions.Dimensions (NAME=SIZE)."
            );
        }

        if (Repetitions(g, resized) is { } repeats)
        {
            return g.DY().Op("AveragePool", Ints("kernel_shape", repeats), Ints("strides", repeats))
                * repeats.Aggregate(1.0, (n, r) => n * r);
        }

        var result = g.DY();
        foreach (var (axis, scale) in resized.OrderByDescending(a => a.Axis))
        {
            var matrix = Matrix(g, axis, scale);
            var after = g.ShapeX().Dims[(axis + 1)..];
            result = after.IsEmpty
                ? result.MatMul(matrix, transposeOther: true)
                : matrix.MatMul(result.Reshape(-1, g.ShapeY()[axis].Size, new Shape(after).Count));
        }

        return result.ReshapeTo(g.X());
    }

    /// <summary>Gives the axes whose size or scale changes, with the scale where that is what the model says.</summary>
    private static List<(int Axis, float? Scale)> Axes(GradientContext g)
    {
        var axes = g.Ints("axes") is { } some
            ? some.Select(a => g.ShapeX().Axis(a)).ToArray()
            : [.. Enumerable.Range(0, g.ShapeX().Rank)];
        if (g.Has(3) || (g.Has(2) && g.X(2).V.Constant is null))
        {
            return [.. axes.Where(a => !g.ShapeX()[a].SameAs(g.ShapeY()[a])).Select(a => (a, (float?)null))];
        }

        var scales = g.X(2).V.Constant!.ToDouble();
        return [.. axes.Zip(scales, (a, s) => (a, (float?)s)).Where(p => p.Item2 != 1)];
    }

    /// <summary>
    /// Gives how often each spatial position is repeated, where enlarging is plain repetition of blocks; else null.
    /// </summary>
    private static long[]? Repetitions(GradientContext g, List<(int Axis, float? Scale)> resized)
    {
        var rank = g.ShapeX().Rank;
        var plain =
            (g.Text("coordinate_transformation_mode", "half_pixel"), g.Text("nearest_mode", "round_prefer_floor"))
            is
                ("asymmetric", "floor")
                or
                (
                    "half_pixel"
                        or "half_pixel_symmetric"
                        or "pytorch_half_pixel",
                    "round_prefer_floor"
                        or "round_prefer_ceil"
                );
        if (
            g.Text("mode", "nearest") != "nearest"
            || !plain
            || rank is < 3 or > 5
            || resized.Any(a =>
                a.Axis < 2
                || g.ShapeY()[a.Axis].Size % g.ShapeX()[a.Axis].Size != 0
                || (a.Scale is { } s && s != g.ShapeY()[a.Axis].Size / g.ShapeX()[a.Axis].Size)
            )
        )
        {
            return null;
        }

        return
        [
            .. Enumerable
                .Range(2, rank - 2)
                .Select(a => resized.Any(r => r.Axis == a) ? g.ShapeY()[a].Size / g.ShapeX()[a].Size : 1),
        ];
    }

    /// <summary>Gives [in, out]: row i is what Resize makes of the i-th unit vector.</summary>
    private static Term Matrix(GradientContext g, int axis, float? scale)
    {
        var (from, to) = (g.ShapeX()[axis].Size, g.ShapeY()[axis].Size);
        var identity = g.Op("ConstantOfShape", [g.Ints64(from, from)]).Op("EyeLike").Reshape(1, 1, from, from);
        var attributes = OneAxis.Select(g.Node.Attributes.Find).OfType<Attr>().ToArray();
        var scales = scale is { } s ? g.Of(g.B.Constant(Ir.Tensor.From([4], [1, 1, 1, s]))) : (Term?)null;
        var sizes = scale is null ? g.Ints64(1, 1, from, to) : (Term?)null;
        return g.Op("Resize", [identity, null, scales?.V, sizes?.V], attributes).Reshape(from, to).Cast(g.DY().Type);
    }
}
