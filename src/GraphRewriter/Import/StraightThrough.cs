using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Makes one operator of a quantization and the dequantization behind it, so that gradients pass: see
/// <see cref="Quantization"/>.
/// </summary>
internal static class StraightThrough
{
    /// <summary>Fuses every pair; leaves quantizations that nothing undoes.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="refused">Receives those that are left, each with the reason.</param>
    public static void Apply(Graph graph, Dictionary<Node, UnsupportedUseException> refused)
    {
        foreach (var back in graph.Nodes.Where(n => n.OpType == "DequantizeLinear").ToArray())
        {
            var there = back.Inputs[0]!.Producer;
            if (there is { OpType: "DynamicQuantizeLinear", Domain: "" } && back.Inputs[1] == there.Outputs[1])
            {
                Fuse(back, [there.Inputs[0]], []);
            }
            else if (
                there is { OpType: "QuantizeLinear" }
                && there.Domain == back.Domain
                && Same(there.Inputs[1], back.Inputs[1])
                && Same(there.Input(2), back.Input(2))
            )
            {
                Fuse(back, [.. there.Inputs], [.. there.Attributes.All, Text("domain", there.Domain)]);
            }
            else if (there is { OpType: "QuantizeLinear" or "DynamicQuantizeLinear" })
            {
                refused[back] = new(
                    "MAC0102",
                    $"{back}",
                    "numbers are dequantized by another scale than they were quantized by",
                    "Train the model as it was before quantization."
                );
            }
        }

        graph.Prune();

        void Fuse(Node back, Value?[] inputs, Attr[] attributes) =>
            graph.Replace(
                back,
                new Node(Quantization.RoundTrip, OpTable.GradientDomain, back.Name, inputs, attributes, back.Outputs)
                {
                    Origin = $"fusion {back}",
                }
            );
    }

    private static bool Same(Value? a, Value? b) =>
        a == b
        || (a?.Constant is { } x && b?.Constant is { } y && x.Type == y.Type && x.Data.Span.SequenceEqual(y.Data.Span));
}
