using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Replaces fused attention operators by the products and the softmax that they stand for, whose gradients are known.
/// </summary>
/// <remarks>
/// Only the training graph is expanded. Needs shapes; what it emits has none until they are inferred again.
/// </remarks>
internal sealed class AttentionExpansion
{
    private AttentionExpansion(GraphBuilder builder, Node node, HashSet<Value> used) =>
        (B, Node, Used) = (builder, node, used);

    /// <summary>Gets where nodes are emitted.</summary>
    public GraphBuilder B { get; }

    /// <summary>Gets the fused operator.</summary>
    public Node Node { get; }

    /// <summary>Gets the values that the graph reads.</summary>
    public HashSet<Value> Used { get; }

    /// <summary>Expands every fused attention; leaves those that cannot be.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="refused">Receives those that are left, each with the reason.</param>
    /// <returns>Whether one was expanded.</returns>
    public static bool Apply(Graph graph, Dictionary<Node, UnsupportedUseException> refused)
    {
        var used = graph.Nodes.SelectMany(n => n.Reads).Concat(graph.Outputs).ToHashSet();
        return GraphBuilder.Expand(
            graph,
            node => Rule(node) is { } expand ? b => expand(new(b, node, used)) : null,
            refused
        );
    }

    private static Action<AttentionExpansion>? Rule(Node node) =>
        (node.Domain, node.OpType) switch
        {
            ("", "Attention") => StandardAttention.Expand,
            ("com.microsoft", "Attention") => ContribAttention.ExpandPacked,
            ("com.microsoft", "MultiHeadAttention") => ContribAttention.ExpandMultiHead,
            ("com.microsoft", "GroupQueryAttention") => ContribAttention.ExpandGroupQuery,
            _ => null,
        };

    /// <summary>Gives an input that must be there.</summary>
    public Term Input(int index) => new(B, Node.Inputs[index]!);

    /// <summary>Gives [batch, heads, tokens, size] of [batch, tokens, heads * size].</summary>
    public static Term Heads(Term x, long heads) => x.Reshape(0, 0, heads, -1).Transpose(0, 2, 1, 3);

    /// <summary>Gives [batch, tokens, heads * size] of [batch, heads, tokens, size].</summary>
    public static Term Flat(Term x) => x.Transpose(0, 2, 1, 3).Reshape(0, 0, -1);

    /// <summary>
    /// Gives keys or values, [batch, keyHeads, tokens, size], to as many query heads in a row as there are for each.
    /// </summary>
    public Term Repeated(Term x, long keyHeads, long heads, long size) =>
        keyHeads == heads
            ? x
            : x.Unsqueeze(2).Op("Expand", B.Int64s(1, 1, heads / keyHeads, 1, 1)).Reshape(0, heads, -1, size);

    /// <summary>Hides from each query the keys that come after it.</summary>
    /// <param name="scores">The scores.</param>
    /// <param name="queries">The number of queries, from <see cref="Term.DimVector"/>.</param>
    /// <param name="keys">The number of keys.</param>
    public Term Causal(Term scores, Term queries, Term keys) =>
        scores.Where(
            Positions(queries).Unsqueeze(1).Op("GreaterOrEqual", Positions(keys)),
            scores.Scalar(double.NegativeInfinity)
        );

    /// <summary>Gives 0, 1, ... for a number in a 1-D tensor.</summary>
    public Term Positions(Term count) => new(B, B.Op("Range", [B.Int64(0), count.Squeeze(0).V, B.Int64(1)]));

    /// <summary>Leaves the operator as it is where a condition holds.</summary>
    /// <exception cref="UnsupportedUseException">The condition holds.</exception>
    public void Refuse(bool condition, string what)
    {
        if (condition)
        {
            throw new UnsupportedUseException(
                "MAC0102",
                $"{Node}",
                what,
                "Export the model for training: one call that sees the whole sequence."
            );
        }
    }
}
