using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Classification losses: scores [N,C,d...] against class numbers [N,d...].</summary>
internal static class LossOperators
{
    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("NegativeLogLikelihoodLoss", g => [-(OneHot(g) * Weight(g))], NoGradient: [2]),
        new("SoftmaxCrossEntropyLoss", CrossEntropy, NoGradient: [2]),
    ];

    private static Term?[] CrossEntropy(GradientContext g)
    {
        var logProbability = g.ForwardOutput(1, g.X().Type);
        logProbability.V.Shape ??= g.ShapeX();
        Term? loss = g.HasDY(0) ? (logProbability.Exp() - OneHot(g)) * Weight(g) : null;
        Term? direct = g.HasDY(1) ? Activations.LogSoftmax(g.DY(1), logProbability, 1) : null;
        return [loss is { } a && direct is { } b ? a + b : loss ?? direct];
    }

    /// <summary>Gives [N,C,d...]: 1 at the sample's class, else 0.</summary>
    private static Term OneHot(GradientContext g)
    {
        var labels = g.X(1);
        var shape = g.ShapeX();
        var classes = Range(g, g.X().DimVector(1).Squeeze(0), labels.Type)
            .Reshape([-1, .. Enumerable.Repeat(1L, shape.Rank - 2)]);
        return labels.Unsqueeze(1).Op("Equal", classes).AsNumber(g.X().Type);
    }

    private static Term Range(GradientContext g, Term count, ElementType type) =>
        g.Op("Range", [g.Of(g.B.Int64(0)), count, g.Of(g.B.Int64(1))]).Cast(type);

    /// <summary>
    /// Gives what each sample's term is multiplied with, [N,1,d...] or a scalar: its weight, its share of the mean, and
    /// the gradient of the loss.
    /// </summary>
    private static Term Weight(GradientContext g)
    {
        var weight = SampleWeight(g);
        return g.Text("reduction", "mean") switch
        {
            "none" => weight is { } w ? w * g.DY().Unsqueeze(1) : g.DY().Unsqueeze(1),
            "sum" => weight is { } w ? w * g.DY() : g.DY(),
            _ => weight is { } w
                ? w * (g.DY() / w.Op("ReduceSum", Attr.Int("keepdims", 0)))
                : g.DY() / g.X(1).Op("Size").Cast(g.DY().Type),
        };
    }

    /// <summary>Gives the weights of the samples' classes, 0 for ignored samples; null where all are 1.</summary>
    private static Term? SampleWeight(GradientContext g)
    {
        if (!g.Node.Attributes.Has("ignore_index"))
        {
            return g.Has(2) ? g.X(2).Op("Gather", g.X(1)).Unsqueeze(1) : null;
        }

        var ignored = g.X(1).Op("Equal", g.X(1).Scalar(g.Int("ignore_index", 0)));
        if (!g.Has(2))
        {
            return ignored.Op("Not").AsNumber(g.X().Type).Unsqueeze(1);
        }

        // An ignored label may lie outside the classes: class 0 stands for it.
        var weights = g.X(2).Op("Gather", g.X(1).Scalar(0).Where(ignored, g.X(1)));
        return weights.Scalar(0).Where(ignored, weights).Unsqueeze(1);
    }
}
