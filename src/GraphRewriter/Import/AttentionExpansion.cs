using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Replaces the fused Attention operator by the products and the softmax that it stands for, whose gradients are known.</summary>
/// <remarks>Only the training graph is expanded. Needs shapes; what it emits has none until they are inferred again.</remarks>
internal static class AttentionExpansion
{
    /// <summary>Expands every Attention node.</summary>
    /// <returns>Whether there was one.</returns>
    public static bool Apply(Graph graph)
    {
        if (!graph.Nodes.Any(n => n.Is("Attention")))
        {
            return false;
        }

        var nodes = graph.Nodes.ToArray();
        graph.Nodes.Clear();
        var builder = new GraphBuilder(graph);
        var used = nodes.SelectMany(n => n.Reads).Concat(graph.Outputs).ToHashSet();
        foreach (var node in nodes)
        {
            if (node.Is("Attention"))
            {
                (builder.Origin, builder.Prefix) = ($"expansion {node}", $"{node.Outputs[0].Name}/");
                Expand(builder, node, used);
            }
            else
            {
                graph.Nodes.Add(node);
            }
        }

        return true;
    }

    private static void Expand(GraphBuilder b, Node node, HashSet<Value> used)
    {
        Refuse(node, node.Input(4) is not null || node.Input(5) is not null, "past keys and values are inputs");
        Refuse(node, node.Input(6) is not null, "the valid lengths of keys are an input");
        Refuse(node, node.Outputs.Skip(1).Take(2).Any(used.Contains), "present keys and values are outputs");
        var isFlat = node.Inputs[0]!.Rank == 3;
        var (q, queryHeads, size) = Heads(0, "q_num_heads");
        var (k, v) = (Repeated(Heads(1, "kv_num_heads")), Repeated(Heads(2, "kv_num_heads")));
        var scores = q.MatMul(k, transposeOther: true, alpha: node.Attributes.Find("scale")?.F ?? (1 / Math.Sqrt(size)));
        var cap = node.Attributes.Float("softcap", 0);
        var capped = cap > 0 ? (scores / cap).Tanh() * cap : scores;
        var masked = Causal(Masked(capped));
        var probabilities = masked.Op("Softmax", Int("axis", -1));
        var result = probabilities.Op("MatMul", v);
        b.Assign(node.Outputs[0], isFlat ? result.Transpose(0, 2, 1, 3).Reshape(0, 0, -1) : result);
        if (node.Outputs.Count > 3 && used.Contains(node.Outputs[3]))
        {
            b.Assign(node.Outputs[3], node.Attributes.Int("qk_matmul_output_mode", 0) switch { 0 => scores, 1 => capped, 2 => masked, _ => probabilities });
        }

        // [batch, heads, tokens, size], from [batch, tokens, heads * size] where the operator is given that.
        (Term Value, long Heads, long Size) Heads(int input, string attribute)
        {
            var (x, shape) = (new Term(b, node.Inputs[input]!), node.Inputs[input]!.KnownShape);
            var heads = isFlat ? node.Attributes.Int(attribute, 1) : shape[1].Size;
            return isFlat ? (x.Reshape(0, 0, heads, -1).Transpose(0, 2, 1, 3), heads, shape[2].Size / heads) : (x, heads, shape[3].Size);
        }

        // Each head of keys and values serves as many query heads in a row.
        Term Repeated((Term Value, long Heads, long Size) x) => x.Heads == queryHeads
            ? x.Value
            : x.Value.Unsqueeze(2).Op("Expand", b.Int64s(1, 1, queryHeads / x.Heads, 1, 1)).Reshape(0, queryHeads, -1, x.Size);

        Term Masked(Term x)
        {
            if (node.Input(3) is not { } mask)
            {
                return x;
            }

            Refuse(node, !mask.KnownShape[-1].SameAs(node.Inputs[1]!.KnownShape[-2]) && !mask.KnownShape[-1].SameAs(1), "the mask is shorter than the keys");
            return mask.Type == ElementType.Bool ? x.Where(mask, x.Scalar(double.NegativeInfinity)) : x + new Term(b, mask);
        }

        Term Causal(Term x)
        {
            if (node.Attributes.Int("is_causal", 0) == 0)
            {
                return x;
            }

            Term Positions(int input) => new(b, b.Op("Range", [b.Int64(0), new Term(b, node.Inputs[input]!).DimVector(-2).Squeeze(0).V, b.Int64(1)]));
            return x.Where(Positions(0).Unsqueeze(1).Op("GreaterOrEqual", Positions(1)), x.Scalar(double.NegativeInfinity));
        }
    }

    private static void Refuse(Node node, bool condition, string what)
    {
        if (condition)
        {
            throw new MacOnnxException("MAC0102", node.ToString(), $"No gradient is known where {what}.", "Export the model for training: one call that sees the whole sequence.");
        }
    }
}
