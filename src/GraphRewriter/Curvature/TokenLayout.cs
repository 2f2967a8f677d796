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
        Tensor first = null!;
        foreach (var second in values.Product.Outputs[0].KnownShape.IsStatic ? new[] { false } : [false, true])
        {
            if (values.Numbers(second) is not { } numbers)
            {
                return (null, "the tokens of the values could not be followed");
            }

            var width = values.Layer.Units.Length;
            var rows = Tensor.From<int>(
                numbers.Dims.AsSpan(),
                Array.ConvertAll(numbers.Span<int>().ToArray(), n => n < 0 ? -1 : n / width)
            );
            if (Stride(rows, product.SummedAxis(input)) is not { } stride)
            {
                return (null, "the values' tokens are not evenly spaced rows of their layer's input");
            }

            first = second ? first : rows;
            var tokens = rows.Dims[product.SummedAxis(input)];
            var count =
                values.Product.Outputs[0].KnownShape.Dims.Aggregate(1L, (n, d) => n * (second ? d.Second : d.First))
                / width;
            var bases = Bases(rows, product.SummedAxis(input)).Distinct().Order().ToArray();
            if (
                count % (tokens * stride) != 0
                || !bases.SequenceEqual(Enumerable.Range(0, (int)(count / tokens)).Select(n => Base(n, tokens, stride)))
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

    /// <summary>Gives the first token's row for every other position of the values, row major.</summary>
    private static IEnumerable<long> Bases(Tensor rows, int axis)
    {
        var (inner, tokens) = (Tensor.CountOf(rows.Dims.AsSpan()[(axis + 1)..]), rows.Dims[axis]);
        var numbers = rows.Span<int>().ToArray();
        return Enumerable
            .Range(0, (int)(numbers.Length / tokens))
            .Select(n => (long)numbers[(n / inner * tokens * inner) + (n % inner)]);
    }

    private static long? Stride(Tensor rows, int axis)
    {
        var (inner, tokens) = (Tensor.CountOf(rows.Dims.AsSpan()[(axis + 1)..]), rows.Dims[axis]);
        var numbers = rows.Span<int>();
        long stride = tokens > 1 ? numbers[(int)inner] - numbers[0] : 1;
        for (var block = 0; block < numbers.Length; block += (int)(tokens * inner))
        {
            for (var i = block; i < block + (int)(tokens * inner); i++)
            {
                if (numbers[i] < 0 || (i >= block + inner && numbers[i] - numbers[i - (int)inner] != stride))
                {
                    return null;
                }
            }
        }

        return stride > 0 ? stride : null;
    }

    /// <summary>
    /// Finds which axes of the probabilities number the samples: those along which the values' rows change.
    /// </summary>
    private TokenLayout WithSamples(Tensor rows, Contraction product, int input, long stride, long count)
    {
        var (values, probabilities) = (product.Operand(input), product.Operand(1 - input));
        var numbers = rows.Span<int>().ToArray();
        var strides = new long[values.Length];
        for (var axis = values.Length - 1; axis >= 0; axis--)
        {
            strides[axis] = axis == values.Length - 1 ? 1 : strides[axis + 1] * rows.Dims[axis + 1];
        }

        var samples = new List<(int Axis, int Of)>();
        for (var axis = 0; axis < values.Length; axis++)
        {
            var changes = Enumerable.Range(0, (int)rows.Dims[axis]).Any(i => numbers[i * strides[axis]] != numbers[0]);
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
        var sequence = new List<long> { 0 };
        foreach (var (_, axis) in samples)
        {
            sequence =
            [
                .. sequence.SelectMany(at =>
                    Enumerable.Range(0, (int)rows.Dims[axis]).Select(i => at + (i * strides[axis]))
                ),
            ];
        }

        var found = sequence.Select(at => (long)numbers[at]).ToArray();
        var tokens = rows.Dims[product.SummedAxis(input)];
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
