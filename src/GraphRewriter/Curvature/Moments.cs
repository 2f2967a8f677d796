using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// Statistics of a layer's input rows a and of the gradients dL/dy with respect to its output rows y, L the mean loss.
/// </summary>
internal static class Moments
{
    /// <summary>Gives the mean of a a^T, [row, row], where a has a final 1 if there is a bias.</summary>
    /// <param name="layer">A layer whose units all see the same input rows.</param>
    public static Statistic OfInput(Layer layer)
    {
        long[] dims = [layer.RowSize, layer.RowSize];
        return new(
            $"{layer.Weight.Name}.input_moment",
            layer.Node,
            dims,
            null,
            (b, _) => OfRows(layer, layer.Rows(new(b, layer.Input)))
        );
    }

    /// <summary>Gives |E x|^2 and E|x|^2 of the input rows x without their final 1, [2].</summary>
    /// <param name="layer">A layer whose units all see the same input rows.</param>
    public static Statistic Energy(Layer layer) =>
        new(
            $"{layer.Weight.Name}.input_energy",
            layer.Node,
            [2],
            null,
            (b, _) =>
            {
                var rows = layer.Rows(new(b, layer.Input)).Cast(ElementType.Float);
                var mean = rows.Mean([0], keepDims: false);
                return b.Concat([(mean * mean).Sum([0]), (rows * rows).Mean([0], keepDims: false).Sum([0])], 0);
            }
        );

    /// <summary>Emits the mean of a a^T over input rows without their final 1.</summary>
    public static Term OfRows(Layer layer, Term rows)
    {
        var (b, wide) = (rows.B, rows.Cast(ElementType.Float));
        return Mean(
            layer.Bias is null
                ? wide
                : new(b, b.Op("Pad", [wide.V, b.Int64s(0, 0, 0, 1), b.Scalar(1, ElementType.Float)]))
        );
    }

    /// <summary>Gives the mean of dL/dy (dL/dy)^T, [out, out].</summary>
    /// <param name="layer">A layer with one output.</param>
    public static Statistic OfGradient(Layer layer) =>
        new(
            $"{layer.Weight.Name}.gradient_moment",
            layer.Node,
            [layer.Out, layer.Out],
            null,
            (_, gradient) => Mean(layer.OutputRows(gradient(layer.Outputs[0].Value).Cast(ElementType.Float))),
            Degree: 2
        );

    /// <summary>Gives the mean of dL/dy, [1, out].</summary>
    public static Statistic MeanGradient(Layer layer) => OfUnits(layer, "gradient_mean", 1, g => g);

    /// <summary>Gives the mean of (dL/dy)^2 of each unit, [1, out].</summary>
    public static Statistic MeanSquaredGradient(Layer layer) => OfUnits(layer, "gradient_square", 2, g => g * g);

    /// <summary>Gives the mean over rows of a function of dL/dy, for each unit.</summary>
    private static Statistic OfUnits(Layer layer, string name, int degree, Func<Term, Term> function) =>
        new(
            $"{layer.Weight.Name}.{name}",
            layer.Node,
            [1, layer.Out],
            null,
            (b, gradient) =>
            {
                var outputs = layer.Outputs;
                Term[] means =
                [
                    .. outputs.Select(output =>
                    {
                        var axis = layer.UnitAxis(output.Value);
                        long[] others =
                        [
                            .. Enumerable.Range(0, output.Value.Rank).Where(a => a != axis).Select(a => (long)a),
                        ];
                        return function(gradient(output.Value).Cast(ElementType.Float))
                            .Mean(others, keepDims: false)
                            .Reshape(1, output.Units.Length);
                    }),
                ];
                if (means.Length == 1)
                {
                    return means[0];
                }

                // Where each unit is among those of all outputs; a unit of none has no gradient, whatever it takes.
                var places = new long[layer.Out];
                foreach (var (place, unit) in outputs.SelectMany(o => o.Units).Index())
                {
                    places[unit] = place;
                }

                return b.Concat(means, 1).Op("Gather", b.Int64s(places), Int("axis", 1));
            },
            degree
        );

    /// <summary>Emits the mean of r r^T over rows r.</summary>
    private static Term Mean(Term rows)
    {
        var count = rows.Op("Shape", Int("start", 0), Int("end", 1)).Cast(ElementType.Float);
        return new Term(rows.B, rows.B.Op("Gemm", [rows.V, rows.V], Int("transA", 1))) / count;
    }
}
