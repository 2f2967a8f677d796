using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Expands Attention, MultiHeadAttention and GroupQueryAttention of com.microsoft, which ONNX Runtime's transformer
/// optimizer makes.
/// </summary>
internal static class ContribAttention
{
    /// <summary>What is added to hidden scores where the operator does not say it.</summary>
    private const float MaskFilter = -10000;

    /// <summary>Expands Attention: input, weights [in, q + k + v], bias, mask, past, bias of the scores.</summary>
    public static void ExpandPacked(AttentionExpansion expansion)
    {
        var (b, node) = (expansion.B, expansion.Node);
        expansion.Refuse(node.Input(4) is not null || node.Input(6) is not null, "past keys and values are inputs");
        expansion.Refuse(node.Outputs.Skip(1).Any(expansion.Used.Contains), "present keys and values are outputs");
        expansion.Refuse(
            node.Attributes.Int("do_rotary", 0) != 0,
            "the operator rotates queries and keys itself (do_rotary)"
        );
        var third = node.Inputs[1]!.KnownShape[1].Size / 3;
        var sizes = node.Attributes.Ints("qkv_hidden_sizes") ?? [third, third, third];
        var projected = expansion.Input(0).Op("MatMul", node.Inputs[1]);
        var parts = Split(b, node.Input(2) is { } bias ? projected + new Term(b, bias) : projected, -1, sizes);
        var heads = node.Attributes.Int("num_heads", 1);
        var tokens = expansion.Input(0).DimVector(1);
        Finish(
            expansion,
            [.. parts.Select(p => AttentionExpansion.Heads(p, heads))],
            sizes[0] / heads,
            node.Input(3),
            node.Input(5),
            tokens,
            tokens
        );
    }

    /// <summary>
    /// Expands MultiHeadAttention: queries, keys and values, or packed ones, their bias, mask, bias of the scores.
    /// </summary>
    public static void ExpandMultiHead(AttentionExpansion expansion)
    {
        var (b, node) = (expansion.B, expansion.Node);
        expansion.Refuse(Enumerable.Range(6, 4).Any(i => node.Input(i) is not null), "past keys and values are inputs");
        expansion.Refuse(
            node.Outputs.Skip(1).Any(expansion.Used.Contains),
            "present keys and values, or the scores, are outputs"
        );
        var heads = node.Attributes.Int("num_heads", 1);
        var (query, key, value) = (expansion.Input(0), node.Input(1), node.Input(2));
        var queries = query.DimVector(1);
        var size = query.V.Rank == 5 ? query.V.KnownShape[4].Size : query.V.KnownShape[2].Size / heads;
        var keys = key is null ? queries : new Term(b, key).DimVector(key.Rank == 4 ? 2 : 1);
        var asMany = key is null || query.V.KnownShape[1].SameAs(key.KnownShape[key.Rank == 4 ? 2 : 1]);

        // ONNX Runtime's kernel then hides nothing from the last query.
        expansion.Refuse(
            !asMany && node.Attributes.Int("unidirectional", 0) != 0,
            "a causal operator has not as many keys as queries"
        );
        Term[] parts =
            key is null ? Unpacked(query, 3)
            : key.Rank == 5 ? [query, .. Unpacked(new(b, key), 2)]
            : [query, new(b, key), new(b, value!)];
        if (node.Input(3) is { } bias)
        {
            var valueSize = bias.KnownShape[0].Size - (2 * heads * size);
            var biases = Split(b, new(b, bias), 0, [heads * size, heads * size, valueSize]);

            // Keys and values that come with their heads apart are finished ones of another layer.
            parts = [.. parts.Select((p, i) => i > 0 && key is { Rank: 4 } ? p : p + biases[i])];
        }

        Finish(
            expansion,
            [.. parts.Select((p, i) => i > 0 && key is { Rank: 4 } ? p : AttentionExpansion.Heads(p, heads))],
            size,
            node.Input(4),
            node.Input(5),
            queries,
            keys
        );

        // [batch, tokens, heads, count, size] as count times [batch, tokens, heads * size].
        Term[] Unpacked(Term x, int count) =>
            x.V.Rank == 5
                ?
                [
                    .. Enumerable
                        .Range(0, count)
                        .Select(i => x.Op("Gather", b.Int64(i), Int("axis", 3)).Reshape(0, 0, -1)),
                ]
                : Split(b, x, -1, [.. Enumerable.Repeat(heads * size, count)]);
    }

    /// <summary>
    /// Expands GroupQueryAttention of a whole sequence: queries, keys and values, or packed ones, each head of keys and
    /// values for as many heads of queries, always causal.
    /// </summary>
    /// <remarks>Samples that are shorter than the sequence are padded behind, where no query looks.</remarks>
    public static void ExpandGroupQuery(AttentionExpansion expansion)
    {
        var (b, node) = (expansion.B, expansion.Node);
        expansion.Refuse(node.Input(3) is not null || node.Input(4) is not null, "past keys and values are inputs");
        expansion.Refuse(
            node.Input(11) is not null || node.Attributes.Int("smooth_softmax", 0) == 1,
            "the softmax has a sink"
        );
        var (heads, keyHeads) = (node.Attributes.Int("num_heads", 1), node.Attributes.Int("kv_num_heads", 1));
        var x = expansion.Input(0);
        var size = x.V.KnownShape[2].Size / (node.Input(1) is null ? heads + (2 * keyHeads) : heads);
        var (q, k, v) =
            node.Input(1) is { } key ? (x, new Term(b, key), expansion.Input(2))
            : Split(b, x, -1, [heads * size, keyHeads * size, keyHeads * size]) is [var first, var second, var third]
                ? (first, second, third)
            : default;
        (q, k) = node.Attributes.Int("do_rotary", 0) == 0 ? (q, k) : (Rotated(q, heads), Rotated(k, keyHeads));
        (q, k, v) = (
            AttentionExpansion.Heads(q, heads),
            AttentionExpansion.Heads(k, keyHeads),
            AttentionExpansion.Heads(v, keyHeads)
        );
        var scale = node.Attributes.Float("scale", 0);
        var scores = q.MatMul(
            expansion.Repeated(k, keyHeads, heads, size),
            transposeOther: true,
            alpha: scale != 0 ? scale : 1 / Math.Sqrt(size)
        );
        var cap = node.Attributes.Float("softcap", 0);
        scores = cap > 0 ? (scores / cap).Tanh() * cap : scores;
        scores = node.Input(10) is { } bias ? scores + new Term(b, bias) : scores;
        var tokens = x.DimVector(1);
        scores = expansion.Causal(scores, tokens, tokens);
        if (node.Attributes.Int("local_window_size", -1) is > 0 and var window)
        {
            var age = expansion.Positions(tokens).Unsqueeze(1) - expansion.Positions(tokens);
            scores = scores.Where(age.Op("Less", b.Int64(window)), scores.Scalar(double.NegativeInfinity));
        }

        var result = scores.Op("Softmax", Int("axis", -1)).Op("MatMul", expansion.Repeated(v, keyHeads, heads, size));
        b.Assign(node.Outputs[0], AttentionExpansion.Flat(result));
        foreach (var (output, present) in node.Outputs.Skip(1).Zip([k, v]).Where(o => expansion.Used.Contains(o.First)))
        {
            b.Assign(output, present);
        }

        Term Rotated(Term part, long count)
        {
            var angles = 2 * node.Inputs[7]!.KnownShape[1].Size;
            return new(
                b,
                b.OpIn(
                    "com.microsoft",
                    "RotaryEmbedding",
                    [part, node.Input(9) ?? b.Int64s(0), node.Inputs[7], node.Inputs[8]],
                    Int("interleaved", node.Attributes.Int("rotary_interleaved", 0)),
                    Int("num_heads", count),
                    Int("rotary_embedding_dim", angles < size ? angles : 0)
                )
            );
        }
    }

    private static Term[] Split(GraphBuilder b, Term x, int axis, long[] sizes) =>
        [
            .. b.Node("Split", "", [x.V, b.Int64s(sizes)], sizes.Length, Int("axis", axis))
                .Outputs.Select(o => new Term(b, o)),
        ];

    /// <summary>Emits the products and the softmax between them.</summary>
    /// <param name="expansion">The operator.</param>
    /// <param name="parts">Queries, keys and values, [batch, heads, tokens, size].</param>
    /// <param name="size">The size of a head of queries.</param>
    /// <param name="mask">The mask, or null.</param>
    /// <param name="bias">What is added to the scores, or null.</param>
    /// <param name="queries">The number of queries.</param>
    /// <param name="keys">The number of keys.</param>
    private static void Finish(
        AttentionExpansion expansion,
        Term[] parts,
        long size,
        Value? mask,
        Value? bias,
        Term queries,
        Term keys
    )
    {
        var (b, attributes) = (expansion.B, expansion.Node.Attributes);
        var scale = attributes.Float("scale", 0);
        var scores = parts[0].MatMul(parts[1], transposeOther: true, alpha: scale != 0 ? scale : 1 / Math.Sqrt(size));
        scores = bias is null ? scores : scores + new Term(b, bias);
        if (mask is not null && Kept(expansion, mask, keys) is { } kept)
        {
            scores += scores.Scalar(0).Where(kept, scores.Scalar(attributes.Float("mask_filter_value", MaskFilter)));
        }

        scores = attributes.Int("unidirectional", 0) == 0 ? scores : expansion.Causal(scores, queries, keys);
        b.Assign(
            expansion.Node.Outputs[0],
            AttentionExpansion.Flat(scores.Op("Softmax", Int("axis", -1)).Op("MatMul", parts[2]))
        );
    }

    /// <summary>
    /// Gives where a mask keeps scores, in a shape that broadcasts to [batch, heads, queries, keys]; null where it
    /// hides nothing.
    /// </summary>
    private static Term? Kept(AttentionExpansion expansion, Value mask, Term keys)
    {
        var (b, x) = (expansion.B, new Term(expansion.B, mask));
        switch (mask.Rank)
        {
            case 1:
                expansion.Refuse(
                    !mask.KnownShape[0].SameAs(expansion.Node.Inputs[0]!.KnownShape[0]),
                    "the mask is a list of start positions"
                );
                return expansion.Positions(keys).Op("Less", x.Cast(ElementType.Int64).Unsqueeze(1, 2, 3));
            case 2 when mask.KnownShape[1].SameAs(1):
                return null;
            case 2 or 3:
                return x.Op("Greater", b.Scalar(0, mask.Type)).Unsqueeze(mask.Rank == 2 ? [1, 2] : [1]);
            default:
                expansion.Refuse(true, $"the mask has {mask.Rank} dimensions");
                return null;
        }
    }
}
