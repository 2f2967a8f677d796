using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// Normalizations: y = (x - mean) * inverse * scale + bias, where inverse = 1 / sqrt(variance + epsilon), over
/// different axes.
/// </summary>
/// <remarks>
/// The gradient operators take dY, X, the scale and what is known of the statistics, and give dX, dScale and dBias. A
/// mean that is left
/// out is zero and not subtracted.
/// </remarks>
internal static class Normalization
{
    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("BatchNormalization", BatchNorm),
        new("LayerNormalization", LayerNorm, Flow: Flow.Rows),
        new(
            "SimplifiedLayerNormalization",
            g => LayerGradient(g, g.DY(), g.X(), g.X(1), null, Forward(g, 1), g.Axis("axis", -1)),
            Flow: Flow.Rows
        ),
        new("RMSNormalization", RmsNorm, Flow: Flow.Rows),
        new("SkipLayerNormalization", g => SkipNorm(g, beta: 3, bias: 4), "com.microsoft"),
        new("SkipSimplifiedLayerNormalization", g => SkipNorm(g, beta: null, bias: 3), "com.microsoft"),
        new("InstanceNormalization", g => GroupNorm(g, g.ShapeX()[1].Size)),
        new("GroupNormalization", g => GroupNorm(g, g.Int("num_groups", 1))),
        new("LRN", LocalResponseNorm),
    ];

    /// <summary>
    /// Gives the gradient through (x - mean) * inverse where both are statistics over axes; without the mean's part
    /// where that is not subtracted.
    /// </summary>
    public static Term Through(Term gradient, Term normalized, Term inverse, ReadOnlySpan<long> axes, bool isCentered)
    {
        var along = normalized * (gradient * normalized).Mean(axes);
        return inverse * ((isCentered ? gradient - gradient.Mean(axes) : gradient) - along);
    }

    /// <summary>Gives 1 / sqrt(mean square + epsilon) over axes.</summary>
    public static Term InverseDeviation(Term centered, float epsilon, ReadOnlySpan<long> axes) =>
        1 / ((centered * centered).Mean(axes) + epsilon).Sqrt();

    /// <summary>
    /// In inference mode the statistics are inputs, which may be computed from weights; in training mode they do not
    /// matter, and those of the batch are outputs that import has added.
    /// </summary>
    private static Term?[] BatchNorm(GradientContext g)
    {
        var training = g.Int("training_mode", 0) == 1;
        if (training && g.B.Graph.Root != g.B.Graph)
        {
            throw g.Unsupported(
                "a batch normalization inside a branch or a loop uses the batch's statistics",
                "Freeze it with RewriteOptions.BatchNorm, or export the model with fixed sizes."
            );
        }

        if (training && g.Float("momentum", 0.9f) != 0)
        {
            throw new InvalidOperationException($"{g.Node} does not give its batch statistics.");
        }

        var (mean, variance) = training ? (g.Y(1), g.Y(2)) : (g.X(3), g.X(4));
        var outputs = Outputs(
            g,
            "BatchNormGrad",
            [g.DY(), g.X(), g.X(1), mean, variance],
            Epsilon(g),
            Int("training_mode", training ? 1 : 0)
        );
        if (!g.Needs(3) && !g.Needs(4))
        {
            return outputs;
        }

        // y = (x - mean) k + bias with k = scale / sqrt(variance + epsilon); dScale is the sum of dY (x - mean) k /
        // scale.
        var spread = variance + g.Float("epsilon", 1e-5f);
        return training
            ? [.. outputs, mean.Zeros(), variance.Zeros()]
            : [.. outputs, -(outputs[2]!.Value * g.X(1) / spread.Sqrt()), outputs[1]!.Value * g.X(1) / spread * -0.5];
    }

    /// <summary>The statistics are the forward operator's, which are float where it computes in double.</summary>
    private static Term?[] LayerNorm(GradientContext g)
    {
        var axis = g.Axis("axis", -1);
        if (g.X().Type != ElementType.Double)
        {
            return LayerGradient(g, g.DY(), g.X(), g.X(1), Forward(g, 1), Forward(g, 2), axis);
        }

        var axes = From(axis, g.ShapeX());
        var mean = g.X().Mean(axes);
        var inverse = InverseDeviation(g.X() - mean, g.Float("epsilon", 1e-5f), axes);
        return LayerGradient(g, g.DY(), g.X(), g.X(1), mean, inverse, axis);
    }

    private static Term?[] RmsNorm(GradientContext g)
    {
        var axis = g.Axis("axis", -1);
        return LayerGradient(
            g,
            g.DY(),
            g.X(),
            g.X(1),
            null,
            InverseDeviation(g.X(), g.Float("epsilon", 1e-5f), From(axis, g.ShapeX())),
            axis
        );
    }

    /// <summary>y = norm(input + skip + bias), and that sum as output 3.</summary>
    private static Term?[] SkipNorm(GradientContext g, int? beta, int bias)
    {
        var axis = g.ShapeX().Rank - 1;
        var sum = g.X(0) + g.X(1);
        sum = g.Has(bias) ? sum + g.X(bias) : sum;
        Term? mean = beta is null ? null : sum.Mean([axis]);
        var inverse = InverseDeviation(mean is { } m ? sum - m : sum, g.Float("epsilon", 1e-5f), [axis]);
        sum.V.Shape = g.ShapeX();
        var norm = LayerGradient(g, g.DY(), sum, g.X(2), mean, inverse, axis);
        var dSum = g.HasDY(3) ? norm[0]!.Value + g.DY(3) : norm[0]!.Value;
        var result = new Term?[g.InputCount];
        (result[0], result[1], result[2]) = (dSum, Broadcasting.Undo(dSum, g.ShapeX(), g.X(1)), norm[1]);
        if (beta is { } b && g.Has(b))
        {
            result[b] = norm[2];
        }

        if (g.Has(bias))
        {
            result[bias] = Broadcasting.Undo(dSum, g.ShapeX(), g.X(bias));
        }

        return result;
    }

    private static Term?[] GroupNorm(GradientContext g, long groups) =>
        Outputs(g, "GroupNormGrad", [g.DY(), g.X(), g.X(1)], Epsilon(g), Int("num_groups", groups));

    /// <summary>y = x / s^beta, s = bias + alpha * (mean of x^2 over a window of channels).</summary>
    private static Term?[] LocalResponseNorm(GradientContext g)
    {
        var (alpha, beta, size) = (g.Float("alpha", 1e-4f), g.Float("beta", 0.75f), g.Int("size", 1));
        var (x, y) = (g.X(), g.Y());
        var (before, after) = ((size - 1) / 2, size - 1 - ((size - 1) / 2));
        var s = ChannelMean(x * x, before, after) * alpha + g.Float("bias", 1);
        return
        [
            g.DY() / s.Op("Pow", x.Scalar(beta))
                - (x * ChannelMean(g.DY() * y / s, after, before) * (2 * alpha * beta)),
        ];

        // An average pool along the channels; padding counts.
        Term ChannelMean(Term term, long from, long to) =>
            term.Reshape(0, 1, x.V.KnownShape[1].Size, -1)
                .Op(
                    "AveragePool",
                    Ints("kernel_shape", size, 1),
                    Ints("pads", from, 0, to, 0),
                    Int("count_include_pad", 1)
                )
                .ReshapeTo(x);
    }

    private static Term?[] LayerGradient(
        GradientContext g,
        Term dY,
        Term x,
        Term scale,
        Term? mean,
        Term inverse,
        int axis
    ) => Outputs(g, "LayerNormGrad", [dY, x, scale, mean?.V, inverse], Int("axis", axis));

    /// <summary>Gives a statistic that the forward operator computes.</summary>
    private static Term Forward(GradientContext g, int output)
    {
        var type = g.Int("stash_type", 1) == 1 ? ElementType.Float : g.X().Type;
        return g.ForwardOutput(output, type).Cast(g.X().Type);
    }

    private static Term?[] Outputs(
        GradientContext g,
        string op,
        ReadOnlySpan<Value?> inputs,
        params ReadOnlySpan<Attr> attributes
    ) => [.. g.Internal(op, inputs, 3, attributes).Outputs.Select(o => (Term?)g.Of(o))];

    private static Attr Epsilon(GradientContext g) => Float("epsilon", g.Float("epsilon", 1e-5f));

    private static long[] From(int axis, Shape shape) =>
        [.. Enumerable.Range(axis, shape.Rank - axis).Select(a => (long)a)];
}
