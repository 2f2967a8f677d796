using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>Quantization and back.</summary>
internal static class QuantizationLowering
{
    public static IEnumerable<(string OpType, LoweringRule Rule)> Rules { get; } =
    [(Quantization.RoundTrip, (b, node) => [RoundTrip(b, node)])];

    private static Term RoundTrip(GraphBuilder b, Node node)
    {
        if (node.Inputs.Count == 1)
        {
            var rounded = b.Node("DynamicQuantizeLinear", "", [node.Inputs[0]], 3).Outputs;
            return new(b, b.Op("DequantizeLinear", [.. rounded]));
        }

        var domain = node.Attributes.Text("domain", "");
        Attr[] attributes = [.. node.Attributes.All.Where(a => a.Name != "domain")];
        var integers = b.OpIn(domain, "QuantizeLinear", [.. node.Inputs], attributes);
        return new(
            b,
            b.OpIn(
                domain,
                "DequantizeLinear",
                [integers, .. node.Inputs.Skip(1)],
                [.. attributes.Where(a => a.Name is "axis" or "block_size")]
            )
        );
    }
}
