using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// How the rows of the values' layer are numbered: row = (outer * T + token) * inner + i, with T tokens, and a sample
/// for each (outer, i).
/// </summary>
/// <param name="Probabilities">What the values are weighted with, before dropout.</param>
/// <param name="KeyAxis">Its axis of the tokens.</param>
/// <param name="Inner">The number of samples inside a token's row; null where that is dynamic, and then the outer
/// number is 1.</param>
/// <param name="SampleAxes">The axes of the probabilities that number the samples, in their order; null where they are
/// not known, which only joint statistics need.</param>
/// <param name="Repeats">How many heads the one sample axis also numbers; 1 for none.</param>
/// <param name="HeadsFirst">Whether those heads are the outer part of that axis.</param>
internal sealed record TokenLayout(
    Value Probabilities,
    int KeyAxis,
    long? Inner,
    int[]? SampleAxes,
    int Repeats,
    bool HeadsFirst
)
{
    /// <summary>Finds the layout by the row that each element of the values is from.</summary>
    /// <param name="values">The trace of the values.</param>
    /// <param name="product">The product of probabilities and values.</param>
    /// <param name="input">Which input of the product is the values.</param>
    /// <param name="probabilities">The probabilities before dropout.</param>
    /// <param name="keyAxis">Their axis of the tokens.</param>
    /// <param name="hasItsAxes">Whether the product's operand has the axes of the probabilities.</param>
    public static (TokenLayout? Layout, string Reason) Find(
        OperandTrace values,
        Contraction product,
        int input,
        Value probabilities,
        int keyAxis,
        bool hasItsAxes
    )
    {
        var strides = new List<(long Stride, long Outer)>();
        ElementMap first = null!;
        foreach (var second in values.Product.Outputs[0].KnownShape.IsStatic ? new[] { false } : [false, true])
        {
            if (values.Map(second) is not { } map)
            {
                return (null, "the tokens of the values could not be followed");
            }

            var axis = product.SummedAxis(input);
            if (!map.IsWhole || Stride(map.Along(axis)) is not { } stride)
            {
                return (null, "the values' tokens are not evenly spaced rows of their layer's input");
            }

            first = second ? first : map;
            var tokens = map.Dims[axis];
            var count =
                values.Product.Outputs[0].KnownShape.Dims.Aggregate(1L, (n, d) => n * (second ? d.Second : d.First))
                / values.Layer.Units.Length;
            var bases = map.Distinct(p => p.Row, axis).Order();
            if (
                count % (tokens * stride) != 0
                || !bases.SequenceEqual(
                    Enumerable.Range(0, (int)(count / tokens)).Select(n => (int)Base(n, tokens, stride))
                )
            )
            {
                return (null, "the values are only some of the rows of their layer's input");
            }

            strides.Add((stride, count / (tokens * stride)));
        }

        long? inner = strides[0].Stride == strides[^1].Stride ? strides[0].Stride : null;
        if (inner is null && strides.Any(s => s.Outer != 1))
        {
            return (null, "the distance of the values' tokens depends on two dynamic dimensions");
        }

        var layout = new TokenLayout(probabilities, keyAxis, inner, null, 1, false);
        return (
            hasItsAxes
                ? layout.WithSamples(first, product, input, strides[0].Stride, strides[0].Stride * strides[0].Outer)
                : layout,
            ""
        );
    }

    private static long Base(long sample, long tokens, long stride) =>
        (sample / stride * tokens * stride) + (sample % stride);

    /// <summary>Gives the distance of evenly spaced rows; null where they are not.</summary>
    private static long? Stride(Place?[]? places)
    {
        if (places is null)
        {
            return null;
        }

        int[] rows = [.. places.OfType<Place>().Select(p => p.Row)];
        var stride = rows.Length > 1 ? rows[1] - rows[0] : 1;
        return stride > 0 && rows.Zip(rows.Skip(1)).All(r => r.Second - r.First == stride) ? stride : null;
    }

    /// <summary>
    /// Finds which axes of the probabilities number the samples: those along which the values' rows change.
    /// </summary>
    private TokenLayout WithSamples(ElementMap map, Contraction product, int input, long stride, long count)
    {
        var (values, probabilities) = (product.Operand(input), product.Operand(1 - input));
        var samples = new List<(int Axis, int Of)>();
        for (var axis = 0; axis < values.Length; axis++)
        {
            var changes = map.Along(axis)!.Select(p => p?.Row).Distinct().Count() > 1;
            if (changes && values[axis] != product.Summed)
            {
                samples.Add((probabilities.IndexOf(values[axis], StringComparison.Ordinal), axis));
            }
        }

        if (samples.Any(s => s.Axis < 0))
        {
            return this;
        }

        samples.Sort();
        if (map.Along(samples.Select(s => s.Of)) is not { } places)
        {
            return this;
        }

        long[] found = [.. places.OfType<Place>().Select(p => (long)p.Row)];
        var tokens = map.Dims[product.SummedAxis(input)];
        if (found.Distinct().Count() != count)
        {
            return this;
        }

        var repeats = (int)(found.Length / count);
        foreach (var headsFirst in new[] { false, true })
        {
            if (
                (repeats == 1 || samples.Count == 1)
                && found
                    .Index()
                    .All(f => f.Item == Base(headsFirst ? f.Index % count : f.Index / repeats, tokens, stride))
            )
            {
                return this with
                {
                    SampleAxes = [.. samples.Select(s => s.Axis)],
                    Repeats = repeats,
                    HeadsFirst = headsFirst,
                };
            }
        }

        return this;
    }
}
