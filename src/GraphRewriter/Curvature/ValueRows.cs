using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// The output units of a dense layer that are attention's values; their mean input is weighted with the attention that
/// each token receives.
/// </summary>
/// <param name="Units">Whether each unit is one of them.</param>
/// <param name="Tokens">How probabilities and the layer's input belong together.</param>
/// <param name="Statistic"><c>Product</c> or <c>Joint</c>.</param>
/// <param name="IsWhole">Whether they are all units of the layer.</param>
internal sealed record ValueRows(ImmutableArray<bool> Units, TokenLayout Tokens, ValueStatistic Statistic, bool IsWhole)
{
    /// <summary>
    /// Gets the number of tokens where weights and inputs are averaged apart (so that micro-batches are averaged
    /// right); null where their product is.
    /// </summary>
    public long? SeparateTokens =>
        Statistic == ValueStatistic.Product && TokenCount is { IsStatic: true } tokens ? tokens.Size : null;

    private Dim TokenCount => Tokens.Probabilities.KnownShape[Tokens.KeyAxis];

    /// <summary>Marks the layers that give attention its values.</summary>
    public static void Assign(
        IReadOnlyList<Attention> attentions,
        IReadOnlyList<Layer> layers,
        ValueStatistic statistic
    )
    {
        if (statistic == ValueStatistic.None)
        {
            return;
        }

        foreach (var layer in layers.SelectMany(l => l.Slices.Count > 0 ? l.Slices : [l]))
        {
            var uses = attentions.Where(a => ReferenceEquals(a.Value.Node, layer.Node)).ToArray();
            if (uses.Length == 0)
            {
                continue;
            }

            var reason =
                uses.Length > 1 ? "several attention layers read them"
                : uses[0].Tokens is null ? uses[0].NoTokens
                : layer.Node.Attributes.Int("transA", 0) != 0 ? "its input is transposed"
                : statistic == ValueStatistic.Joint && uses[0].Tokens is { SampleAxes: null }
                    ? "the samples of the probabilities could not be told from the heads"
                : "";
            if (reason.Length > 0)
            {
                Say(layer, $"Attention's values take the plain mean input: {reason}.");
                continue;
            }

            layer.Values = new(
                uses[0].Value.Units,
                uses[0].Tokens!,
                statistic,
                layer.Units.IsDefault ? uses[0].Value.IsWhole : layer.Units.SequenceEqual(uses[0].Value.Units)
            );
            Say(
                layer,
                $"{(uses[0].Value.IsWhole ? "Its units" : $"Its units {uses[0].Value.Report().Show()}")} are attention's values: their mean input is weighted with the attention of each token"
                    + (
                        statistic == ValueStatistic.Product && layer.Values.SeparateTokens is null
                            ? " (with a dynamic number of tokens, accumulated batches average the products)."
                            : "."
                    )
            );
        }

        static void Say(Layer layer, string what) =>
            layer.Weight.Reason = layer.Units.IsDefault ? what : $"{layer.Weight.Reason} {what}";
    }

    /// <summary>Emits the mean attention that each token receives, [1, tokens].</summary>
    public Term MeanAttention(GraphBuilder b)
    {
        var p = new Term(b, Tokens.Probabilities);
        return p.Mean(AxesBut(p.V.Rank, [Tokens.KeyAxis]), keepDims: false).Cast(ElementType.Float).Unsqueeze(0);
    }

    /// <summary>Emits the mean input of each token, [tokens, in].</summary>
    public Term MeanTokens(GraphBuilder b, Layer layer) =>
        new Term(b, layer.Input)
            .Op("Reshape", Dims(b, Tokens.Inner is null ? 1 : -1, null, Tokens.Inner ?? -1, layer.In))
            .Mean([0, 2], keepDims: false)
            .Cast(ElementType.Float);

    /// <summary>Emits the mean over samples of the inputs weighted with the sample's attention, [1, in].</summary>
    public Term Joint(GraphBuilder b, Layer layer)
    {
        var p = new Term(b, Tokens.Probabilities);
        var kept = Tokens.SampleAxes!.Append(Tokens.KeyAxis).ToArray();
        var mean = p.Mean(AxesBut(p.V.Rank, kept), keepDims: false);
        var order = kept.Select(a => (long)Array.IndexOf([.. kept.Order()], a)).ToArray();
        mean = order.SequenceEqual(order.Order()) ? mean : mean.Transpose(order);
        if (Tokens.Repeats > 1)
        {
            mean = Tokens.HeadsFirst
                ? mean.Op("Reshape", Dims(b, Tokens.Repeats, -1, null)).Mean([0], keepDims: false)
                : mean.Op("Reshape", Dims(b, -1, Tokens.Repeats, null)).Mean([1], keepDims: false);
        }

        // One weight for each row of the layer's input, [1, rows].
        var weights = mean.Op("Reshape", Dims(b, Tokens.Inner is null ? 1 : -1, Tokens.Inner ?? -1, null))
            .Transpose(0, 2, 1)
            .Reshape(1, -1)
            .Cast(ElementType.Float);
        var samples = (weights.Op("Size") / p.DimVector(Tokens.KeyAxis)).Cast(ElementType.Float);
        return weights.Op("MatMul", new Term(b, layer.Input).Reshape(-1, layer.In).Cast(ElementType.Float)) / samples;
    }

    /// <summary>Gives dimensions as a 1-D tensor; null stands for the number of tokens.</summary>
    private Value Dims(GraphBuilder b, params ReadOnlySpan<long?> dims)
    {
        var tokens = new Term(b, Tokens.Probabilities).DimVector(Tokens.KeyAxis).V;
        if (tokens.Constant is { } constant)
        {
            return b.Int64s([.. dims.ToArray().Select(d => d ?? constant.ToInt64()[0])]);
        }

        return b.Op("Concat", [.. dims.ToArray().Select(d => d is { } size ? b.Int64s(size) : tokens)], Int("axis", 0));
    }

    private static long[] AxesBut(int rank, int[] kept) =>
        [.. Enumerable.Range(0, rank).Except(kept).Select(a => (long)a)];
}
