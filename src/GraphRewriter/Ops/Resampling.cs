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
        "antialias",
    ];

    public static IEnumerable<OpRule> Rules { get; } = [new("Resize", g => [Resize(g)], NoGradient: [1, 2])];

    private static Term Resize(GradientContext g)
    {
        if (g.Text("keep_aspect_ratio_policy", "stretch") != "stretch")
        {
            throw g.Unsupported("Resize keeps the aspect ratio", "Give every axis its scale or size.");
        }

        var axes = Axes(g);
        if (Repetitions(g, axes) is { } repeats)
        {
            return g.DY().Op("AveragePool", Ints("kernel_shape", repeats), Ints("strides", repeats))
                * repeats.Aggregate(1.0, (n, r) => n * r);
        }

        var result = g.DY();
        foreach (var axis in axes.Where(a => a.IsResized).OrderByDescending(a => a.Axis))
        {
            var matrix = Matrix(g, axis);
            var rank = g.ShapeX().Rank;
            if (axis.Axis == rank - 1)
            {
                result = result.MatMul(matrix, transposeOther: true);
                continue;
            }

            // [before, out, after], where later axes have the input's sizes already.
            var after = Enumerable.Range(axis.Axis + 1, rank - axis.Axis - 1).Select(a => g.X().DimVector(a)).ToArray();
            var rows = g.Join([g.Ints64(-1), g.Y().DimVector(axis.Axis), Product(g, after)]);
            result = matrix.MatMul(result.Op("Reshape", rows));

            // Earlier axes still have the output's sizes.
            var shape = Enumerable.Range(0, rank).Select(a => a < axis.Axis ? g.Y().DimVector(a) : g.X().DimVector(a));
            result = result.Op("Reshape", g.Join(shape));
        }

        return result.ReshapeTo(g.X());
    }

    /// <summary>Gives the product of sizes in 1-D tensors of one element: a constant where all of them are.</summary>
    private static Term Product(GradientContext g, Term[] sizes) =>
        sizes.All(s => s.V.Constant is not null)
            ? g.Ints64(sizes.Aggregate(1L, (n, s) => n * s.V.Constant!.ToInt64()[0]))
            : sizes.Aggregate((a, b) => a * b);

    /// <summary>Gives every axis of the input, in order, with what resizes it.</summary>
    private static Resized[] Axes(GradientContext g)
    {
        var rank = g.ShapeX().Rank;
        var named = g.Ints("axes")?.Select(g.ShapeX().Axis).ToArray() ?? [.. Enumerable.Range(0, rank)];
        var crops = g.Text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize";
        var hasScales = !g.Has(3);
        var scales = hasScales ? g.X(2).V.Constant?.ToDouble() : null;
        return
        [
            .. Enumerable
                .Range(0, rank)
                .Select(axis =>
                {
                    var place = Array.IndexOf(named, axis);
                    var known = place >= 0 ? scales?[place] : null;
                    var isSame = known is { } s ? s == 1 : g.ShapeX()[axis].SameAs(g.ShapeY()[axis]);
                    return new Resized(
                        axis,
                        place >= 0 && (crops || !isSame),
                        hasScales && place >= 0 ? Part(g, 2, place) : null,
                        known,
                        crops && place >= 0 ? g.Join(Part(g, 1, place), Part(g, 1, named.Length + place)) : null
                    );
                }),
        ];
    }

    private static Term Part(GradientContext g, int input, int place) =>
        g.X(input).Op("Slice", g.Ints64(place), g.Ints64(place + 1));

    /// <summary>
    /// Gives how often each spatial position is repeated, where enlarging is plain repetition of blocks; else null.
    /// </summary>
    private static long[]? Repetitions(GradientContext g, Resized[] axes)
    {
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
        if (g.Text("mode", "nearest") != "nearest" || !plain || axes.Length is < 3 or > 5)
        {
            return null;
        }

        long?[] repeats = [.. axes.Select(a => a.IsResized ? Times(a) : 1)];
        return repeats.All(r => r is not null) && repeats[..2].All(r => r == 1)
            ? [.. repeats.Skip(2).Select(r => r!.Value)]
            : null;

        long? Times(Resized a)
        {
            var (from, to) = (g.ShapeX()[a.Axis], g.ShapeY()[a.Axis]);
            return a.KnownScale is { } scale
                ? scale >= 1 && scale == Math.Floor(scale)
                    ? (long)scale
                    : null
                : a.Scale is null && from.IsStatic && to.IsStatic && to.Size % from.Size == 0
                    ? to.Size / from.Size
                    : null;
        }
    }

    /// <summary>Gives [in, out]: row i is what Resize makes of the i-th unit vector along an axis.</summary>
    /// <remarks>What lies outside of the image is constant, so that no gradient flows to it: 0 here.</remarks>
    private static Term Matrix(GradientContext g, Resized axis)
    {
        var (from, to) = (g.X().DimVector(axis.Axis), g.Y().DimVector(axis.Axis));
        var one = g.Ints64(1, 1);
        var identity = g.Op("ConstantOfShape", [g.Join(from, from)]).Op("EyeLike").Unsqueeze(1, 2);
        Value?[] inputs =
        [
            identity,
            axis.Crop is { } crop ? Crop(g, crop) : null,
            axis.Scale is { } scale ? g.Op("Concat", [Floats(g, 1, 1, 1), scale], Int("axis", 0)) : (Value?)null,
            axis.Scale is null ? g.Join(from, one, to).V : null,
        ];
        Attr[] attributes =
        [
            .. OneAxis.Select(g.Node.Attributes.Find).OfType<Attr>(),
            .. axis.Crop is null ? Array.Empty<Attr>() : [Float("extrapolation_value", 0)],
        ];
        return g.Op("Resize", inputs, attributes).Squeeze(1, 2).Cast(g.DY().Type);
    }

    /// <summary>Gives the part of the unit vectors that is kept: of the last axis from start to end.</summary>
    private static Term Crop(GradientContext g, Term bounds)
    {
        var type = bounds.Type;
        var (start, end) = (bounds.Op("Slice", g.Ints64(0), g.Ints64(1)), bounds.Op("Slice", g.Ints64(1), g.Ints64(2)));
        return g.Op(
            "Concat",
            [Floats(g, 0, 0, 0).Cast(type), start, Floats(g, 1, 1, 1).Cast(type), end],
            Int("axis", 0)
        );
    }

    private static Term Floats(GradientContext g, params float[] values) =>
        g.Of(g.B.Constant(Ir.Tensor.From<float>([values.Length], values)));

    /// <summary>One axis of the input.</summary>
    /// <param name="Axis">Which.</param>
    /// <param name="IsResized">Whether its size, or what is seen of it, may change.</param>
    /// <param name="Scale">The scale where the model says that, in a 1-D tensor; null for a size.</param>
    /// <param name="KnownScale">The scale where it is constant.</param>
    /// <param name="Crop">Start and end of the part that is kept, as shares of the axis; null for all.</param>
    private sealed record Resized(int Axis, bool IsResized, Term? Scale, double? KnownScale, Term? Crop);
}
