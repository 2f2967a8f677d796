using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// The output units of a layer that are attention's values; their activation mean is weighted with the attention that
/// each token receives.
/// </summary>
/// <param name="Units">Whether each unit is one of them.</param>
/// <param name="Tokens">How probabilities and the layer's input belong together.</param>
/// <param name="Kind"><c>Product</c> or <c>Joint</c>.</param>
/// <param name="IsWhole">Whether they are all units of the layer.</param>
internal sealed record ValueRows(ImmutableArray<bool> Units, TokenLayout Tokens, ValueStatistic Kind, bool IsWhole)
{
    /// <summary>
    /// Gets the number of tokens where weights and inputs are averaged separately (so that micro-batches are averaged
    /// right); null where their product is.
    /// </summary>
    public long? SeparateTokens =>
        Kind == ValueStatistic.Product && TokenCount is { IsStatic: true } tokens ? tokens.Size : null;

    private Dim TokenCount => Tokens.Probabilities.KnownShape[Tokens.KeyAxis];

    /// <summary>
    /// Gives the units of a layer, or of a slice, that are attention's values; and what to say of them.
    /// </summary>
    /// <param name="layer">The layer.</param>
    /// <param name="slice">Whether each unit belongs to the slice; default for a whole layer.</param>
    /// <param name="attention">The attention layers.</param>
    /// <param name="statistic">The statistic that is asked for.</param>
    public static (ValueRows? Values, string Remark) Of(
        Layer layer,
        ImmutableArray<bool> slice,
        IReadOnlyList<Attention> attention,
        ValueStatistic statistic
    )
    {
        var uses = attention.Where(a => ReferenceEquals(a.Value.Node, layer.Node)).ToArray();
        if (statistic == ValueStatistic.None || uses.Length == 0)
        {
            return (null, "");
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
            return (null, $"Attention's values take the plain activation mean: {reason}.");
        }

        var projection = uses[0].Value;
        var isWhole = slice.IsDefault ? projection.IsWhole : slice.SequenceEqual(projection.Units);
        var values = new ValueRows(projection.Units, uses[0].Tokens!, statistic, isWhole);
        var units = projection.IsWhole ? "Its units" : $"Its units {projection.Report().Show()}";
        var products =
            statistic == ValueStatistic.Product && values.SeparateTokens is null
                ? " (with a dynamic number of tokens, accumulated batches average the products)."
                : ".";
        return (
            values,
            $"{units} are attention's values: their activation mean is weighted with the attention of each token"
                + products
        );
    }

    /// <summary>Gives the weighted mean of a layer's input.</summary>
    public ActivationMean Mean(Layer layer)
    {
        Statistic Wanted(string name, long[] dims, Func<GraphBuilder, Term> emit) =>
            new($"{layer.Name}.{name}", layer.Node, dims, null, (b, _) => emit(b));
        return SeparateTokens is { } tokens
                ? new(
                    1,
                    [
                        Wanted("mac_token_weights", [1, tokens], MeanAttention),
                        Wanted("mac_token_means", [tokens, layer.In], b => MeanTokens(b, layer)),
                    ],
                    s => s[0].Op("MatMul", s[1])
                )
            : Kind == ValueStatistic.Joint
                ? ActivationMean.Of(Wanted("mac_value_mean", [1, layer.In], b => Joint(b, layer)))
            : ActivationMean.Of(
                Wanted("mac_value_mean", [1, layer.In], b => MeanAttention(b).Op("MatMul", MeanTokens(b, layer)))
            );
    }

    /// <summary>Emits the mean attention that each token receives, [1, tokens].</summary>
    private Term MeanAttention(GraphBuilder b)
    {
        var p = new Term(b, Tokens.Probabilities);
        return p.Mean(AxesBut(p.V.Rank, [Tokens.KeyAxis]), keepDims: false).Cast(ElementType.Float).Unsqueeze(0);
    }

    /// <summary>Emits the activation mean of each token, [tokens, in].</summary>
    private Term MeanTokens(GraphBuilder b, Layer layer) =>
        layer
            .Rows(new(b, layer.Input))
            .Op("Reshape", Dims(b, Tokens.Inner is null ? 1 : -1, null, Tokens.Inner ?? -1, layer.In))
            .Mean([0, 2], keepDims: false)
            .Cast(ElementType.Float);

    /// <summary>Emits the mean over samples of the inputs weighted with the sample's attention, [1, in].</summary>
    private Term Joint(GraphBuilder b, Layer layer)
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
        return weights.Op("MatMul", layer.Rows(new(b, layer.Input)).Cast(ElementType.Float)) / samples;
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
