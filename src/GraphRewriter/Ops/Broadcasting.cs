using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Undoes broadcasting: sums a gradient over the axes along which an input was repeated.</summary>
internal static class Broadcasting
{
    /// <summary>Sums a gradient of shape <paramref name="from"/> to the shape of <paramref name="target"/>.</summary>
    public static Term Undo(Term gradient, Shape from, Value target)
    {
        var to = target.KnownShape;
        var leading = from.Rank - to.Rank;
        var repeated = Enumerable
            .Range(0, from.Rank)
            .Where(a => a < leading || !to[a - leading].SameAs(from[a]))
            .ToArray();
        if (repeated.Length == 0)
        {
            return gradient;
        }

        // Summing needs the axis to be 1 in the target; a dimension that is dynamic in both cannot be told from it.
        if (
            repeated.FirstOrDefault(a => a >= leading && to[a - leading] is not { IsStatic: true, Size: 1 }, -1)
            is var axis
                and >= 0
        )
        {
            throw new Diagnostics.MacOnnxException(
                "MAC0106",
                target.Name,
                $"Axis {axis - leading} is {to[axis - leading]} and is broadcast to {from[axis]}: whether "
                    + $"it is repeated depends on the data.",
                "Fix the model's dynamic dimensions with RewriteOptions.Dimensions (NAME=SIZE)."
            );
        }

        if (gradient.Type == ElementType.Float && repeated.Length == leading && leading < from.Rank)
        {
            return SumLeading(gradient, repeated);
        }

        var summed = gradient.Sum([.. repeated.Select(a => (long)a)], keepDims: leading == 0);
        return leading == 0 || to.Rank == from.Rank - repeated.Length ? summed : summed.ReshapeTo(target);
    }

    /// <summary>Sums over the first axes, as the gradient of a bias does.</summary>
    private static Term SumLeading(Term gradient, int[] axes) =>
        new(
            gradient.B,
            FunctionCall.Append(
                gradient.B,
                "SumLeading",
                [gradient],
                [Attr.Int("axes", axes.Length)],
                b => [new Term(b, gradient).Sum([.. axes.Select(a => (long)a)], keepDims: false)]
            )[0]
        );
}
