using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Expands Attention of ai.onnx.</summary>
internal static class StandardAttention
{
    public static void Expand(AttentionExpansion expansion)
    {
        var (b, node) = (expansion.B, expansion.Node);
        expansion.Refuse(node.Input(4) is not null || node.Input(5) is not null, "past keys and values are inputs");
        expansion.Refuse(node.Input(6) is not null, "the valid lengths of keys are an input");
        expansion.Refuse(
            node.Outputs.Skip(1).Take(2).Any(expansion.Used.Contains),
            "present keys and values are outputs"
        );
        var isFlat = node.Inputs[0]!.Rank == 3;
        var (q, queryHeads, size) = Heads(0, "q_num_heads");
        var (k, v) = (Repeated(Heads(1, "kv_num_heads")), Repeated(Heads(2, "kv_num_heads")));
        var scores = q.MatMul(
            k,
            transposeOther: true,
            alpha: node.Attributes.Float("scale", (float)(1 / Math.Sqrt(size)))
        );
        var cap = node.Attributes.Float("softcap", 0);
        var capped = cap > 0 ? (scores / cap).Tanh() * cap : scores;
        var masked = Masked(capped);
        masked =
            node.Attributes.Int("is_causal", 0) == 0
                ? masked
                : expansion.Causal(masked, expansion.Input(0).DimVector(-2), expansion.Input(1).DimVector(-2));
        var probabilities = masked.Op("Softmax", Int("axis", -1));
        var result = probabilities.Op("MatMul", v);
        b.Assign(node.Outputs[0], isFlat ? AttentionExpansion.Flat(result) : result);
        if (node.Outputs.Count > 3 && expansion.Used.Contains(node.Outputs[3]))
        {
            b.Assign(
                node.Outputs[3],
                node.Attributes.Int("qk_matmul_output_mode", 0) switch
                {
                    0 => scores,
                    1 => capped,
                    2 => masked,
                    _ => probabilities,
                }
            );
        }

        // [batch, heads, tokens, size], from [batch, tokens, heads * size] where the operator is given that.
        (Term Value, long Heads, long Size) Heads(int input, string attribute)
        {
            var (x, shape) = (expansion.Input(input), node.Inputs[input]!.KnownShape);
            var heads = isFlat ? node.Attributes.Int(attribute, 1) : shape[1].Size;
            return isFlat
                ? (AttentionExpansion.Heads(x, heads), heads, shape[2].Size / heads)
                : (x, heads, shape[3].Size);
        }

        Term Repeated((Term Value, long Heads, long Size) x) =>
            expansion.Repeated(x.Value, x.Heads, queryHeads, x.Size);

        Term Masked(Term x)
        {
            if (node.Input(3) is not { } mask)
            {
                return x;
            }

            expansion.Refuse(
                !mask.KnownShape[-1].SameAs(node.Inputs[1]!.KnownShape[-2]) && !mask.KnownShape[-1].SameAs(1),
                "the mask is shorter than the keys"
            );
            return mask.Type == ElementType.Bool
                ? x.Where(mask, x.Scalar(double.NegativeInfinity))
                : x + new Term(b, mask);
        }
    }
}
