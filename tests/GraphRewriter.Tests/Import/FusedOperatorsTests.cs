using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>The operators that stand for several compute what those do on ONNX Runtime.</summary>
public sealed class FusedOperatorsTests
{
    public static TheoryData<string> Cases =>
        [
            "embedding",
            "embedding without segments",
            "mean and variance",
            "mean and variance of each sample",
            "frames",
            "frames without window, whole spectrum",
            "grouped queries",
            "grouped queries, packed",
            "grouped queries, rotated",
            "grouped queries, rotated, interleaved, packed",
            "grouped queries, window, cap, scale",
        ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void PartsGiveWhatTheOperatorGives(string name)
    {
        var (graph, inputs) = GraphOf(name);
        var expected = Onnx.Run(ModelWriter.ToBytes(graph), inputs);
        var fused = graph.Nodes.Single().OpType;
        FusedOperators.Apply(graph, []);
        if (fused == "GroupQueryAttention")
        {
            ShapeInference.Apply(graph, "case");
            AttentionExpansion.Apply(graph, []);
        }

        Assert.DoesNotContain(graph.Nodes, n => n.OpType == fused);

        // Sums of at most 16 products of size 1 in float32, in another order.
        Onnx.Equal(expected, Onnx.Run(ModelWriter.ToBytes(graph), inputs), 2e-6);
    }

    private static (Graph Graph, Dictionary<string, Tensor> Inputs) GraphOf(string name)
    {
        var graph = new Graph { Name = name, Opsets = { [""] = OpsetUpgrade.Target, ["com.microsoft"] = 1 } };
        var b = new GraphBuilder(graph);
        var inputs = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        Value Given(Tensor tensor)
        {
            var value = b.Input($"input{inputs.Count}", tensor.Type, Shape.Of(tensor.Dims.AsSpan()));
            inputs[value.Name] = tensor;
            return value;
        }

        Value Floats(params long[] dims) => Given(Onnx.Floats(dims));
        Value Ids(params int[] values) => Given(Ir.Tensor.From<int>([2, 4], values));
        bool Has(string word) => name.Contains(word, StringComparison.Ordinal);
        var hasSegments = !Has("without segments");
        var node =
            Has("embedding")
                ? b.Node(
                    "EmbedLayerNormalization",
                    "com.microsoft",
                    [
                        Ids(1, 0, 4, 2, 3, 3, 1, 0),
                        hasSegments ? Ids(0, 0, 1, 1, 1, 0, 0, 1) : null,
                        Floats(5, 6),
                        Floats(7, 6),
                        hasSegments ? Floats(2, 6) : null,
                        Floats(6),
                        Floats(6),
                        hasSegments ? Ids(1, 1, 1, 0, 1, 1, 0, 0) : null,
                    ],
                    2,
                    Float("epsilon", 1e-3)
                )
            : Has("variance")
                ? b.Node(
                    "MeanVarianceNormalization",
                    "",
                    [Floats(2, 3, 4, 5)],
                    1,
                    Has("sample") ? [Ints("axes", 1, 2, 3)] : []
                )
            : Has("frames")
                ? b.Node(
                    "STFT",
                    "",
                    Has("without")
                        ? [Floats(2, 19, 1), b.Int64(3), null, b.Int64(8)]
                        : [Floats(2, 19, 1), b.Int64(3), Floats(8)],
                    1,
                    Int("onesided", Has("whole") ? 0 : 1)
                )
            : GroupQuery();
        foreach (var output in node.Outputs)
        {
            var isCount = Has("embedding") && output != node.Outputs[0];
            output.Type = isCount ? ElementType.Int32 : ElementType.Float;
            graph.Outputs.Add(output);
        }

        return (graph, inputs);

        Node GroupQuery()
        {
            Value?[] packed = Has("packed")
                ? [Floats(2, 4, 128), null, null]
                : [Floats(2, 4, 64), Floats(2, 4, 32), Floats(2, 4, 32)];
            Value?[] lengths =
            [
                null,
                null,
                Given(Ir.Tensor.From<int>([2], [3, 3])),
                Given(Ir.Tensor.From<int>([], [4])),
            ];
            Value?[] angles = Has("rotated") ? [Floats(9, 8), Floats(9, 8)] : [];
            Attr[] attributes =
            [
                Int("num_heads", 4),
                Int("kv_num_heads", 2),
                Int("do_rotary", Has("rotated") ? 1 : 0),
                Int("rotary_interleaved", Has("interleaved") ? 1 : 0),
                .. Has("window")
                    ? [Int("local_window_size", 2), Float("softcap", 0.7), Float("scale", 0.9)]
                    : Array.Empty<Attr>(),
            ];
            return b.Node("GroupQueryAttention", "com.microsoft", [.. packed, .. lengths, .. angles], 3, attributes);
        }
    }
}
