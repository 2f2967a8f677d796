using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>The gradients of normalizations: dX, dScale, dBias.</summary>
internal static class NormalizationLowering
{
    public static IEnumerable<(string OpType, LoweringRule Rule)> Rules { get; } =
    [
        ("BatchNormGrad", (b, node) => BatchNorm(b, node, In(b, node, 0))),
        ("LayerNormGrad", LayerNorm),
        ("GroupNormGrad", GroupNorm),
    ];

    /// <summary>
    /// BatchNormalization in inference mode is the fastest way to scale and shift each channel: it gives the normalized
    /// X, and from dY
    /// the part scale * inverse * (dY - mean(dY)); what is left is a multiple of the normalized X for each channel.
    /// </summary>
    public static Term?[] BatchNorm(GraphBuilder b, Node node, Term dY)
    {
        var (x, scale, mean, variance) = (In(b, node, 1), In(b, node, 2), In(b, node, 3), In(b, node, 4));
        var rank = x.V.Rank;
        var others = Enumerable.Range(0, rank).Where(a => a != 1).Select(a => (long)a).ToArray();
        var channels = x.V.KnownShape[1].Size;
        var (zeros, ones) = (Vector(0), Vector(1));
        var normalized = ScaleAndShift(x, ones, zeros, mean);
        var dBias = dY.Sum(others, keepDims: false);
        var dScale = (dY * normalized).Sum(others, keepDims: false);
        if (node.Attributes.Int("training_mode", 0) == 0)
        {
            return [ScaleAndShift(dY, scale, zeros, zeros), dScale, dBias];
        }

        var factor =
            scale / ((variance + node.Attributes.Float("epsilon", 1e-5f)).Sqrt() * Ops.Pooling.Count(x, others));
        var along = -(factor * dScale);
        var dX =
            ScaleAndShift(dY, scale, -(factor * dBias), zeros)
            + (normalized * (rank > 2 ? along.Reshape([-1, .. Enumerable.Repeat(1L, rank - 2)]) : along));
        return [dX, dScale, dBias];

        Term Vector(double value) => new(b, b.Constant(GraphBuilder.Filled(value, x.Type, channels)));

        Term ScaleAndShift(Term term, Term by, Term shift, Term from) =>
            new(
                b,
                b.Op(
                    "BatchNormalization",
                    [term, by, shift, from, variance],
                    Float("epsilon", node.Attributes.Float("epsilon", 1e-5f))
                )
            );
    }

    private static Term?[] LayerNorm(GraphBuilder b, Node node)
    {
        var (dY, x, scale, inverse) = (In(b, node, 0), In(b, node, 1), In(b, node, 2), In(b, node, 4));
        var axis = (int)node.Attributes.Int("axis", -1);
        var axes = Enumerable.Range(axis, x.V.Rank - axis).Select(a => (long)a).ToArray();
        var leading = Enumerable.Range(0, axis).Select(a => (long)a).ToArray();
        var isCentered = node.Inputs[3] is not null;
        var normalized = (isCentered ? x - In(b, node, 3) : x) * inverse;
        return
        [
            Ops.Normalization.Through(dY * scale, normalized, inverse, axes, isCentered),
            (dY * normalized).Sum(leading, keepDims: false).ReshapeTo(scale),
            dY.Sum(leading, keepDims: false).ReshapeTo(scale),
        ];
    }

    /// <summary>[N, groups, everything else] has one mean and variance a row.</summary>
    private static Term?[] GroupNorm(GraphBuilder b, Node node)
    {
        var (dY, x, scale) = (In(b, node, 0), In(b, node, 1), In(b, node, 2));
        var groups = node.Attributes.Int("num_groups", 1);
        var rows = x.Reshape(0, groups, -1);
        var centered = rows - rows.Mean([2]);
        var inverse = Ops.Normalization.InverseDeviation(centered, node.Attributes.Float("epsilon", 1e-5f), [2]);
        var normalized = centered * inverse;
        var channels = x.V.KnownShape[1].Size;
        var dX = Ops.Normalization.Through(
            (dY.Reshape(0, channels, -1) * scale.Reshape(-1, 1)).Reshape(0, groups, -1),
            normalized,
            inverse,
            [2],
            isCentered: true
        );
        return
        [
            dX.ReshapeTo(x),
            (dY.Reshape(0, channels, -1) * normalized.Reshape(0, channels, -1)).Sum([0, 2], keepDims: false),
            dY.Reshape(0, channels, -1).Sum([0, 2], keepDims: false),
        ];
    }

    private static Term In(GraphBuilder b, Node node, int index) => new(b, node.Inputs[index]!);
}
