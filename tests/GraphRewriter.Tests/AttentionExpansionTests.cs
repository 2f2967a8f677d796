using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests;

public class AttentionExpansionTests
{
    private const int Batch = 2;
    private const int Queries = 5;
    private const int Keys = 7;
    private const int Size = 4;

    public static TheoryData<string, int, int, string, string> Cases =>
        [
            .. from form in new[] { "4-D", "3-D" }
            from heads in new[] { (3, 3), (6, 2), (4, 1) }
            from mask in new[] { "", "causal", "bool", "float", "float heads", "float causal" }
            from option in new[] { "", "scale", "softcap" }
            where option.Length == 0 || heads == (6, 2)
            select (form, heads.Item1, heads.Item2, mask, option),
            .. from mode in Enumerable.Range(0, 4) select ("4-D", 6, 2, "float", $"softcap {mode}"),
        ];

    /// <summary>The expanded graph computes what ONNX Runtime's fused kernel does, up to rounding.</summary>
    [Theory]
    [MemberData(nameof(Cases))]
    public void Expansion_equals_the_fused_operator(string form, int heads, int keyHeads, string mask, string option)
    {
        var graph = GraphOf(form == "3-D", heads, keyHeads, mask, option);
        var expected = Run(graph);
        ShapeInference.Apply(graph, "case");
        Assert.True(AttentionExpansion.Apply(graph, []));
        ShapeInference.Apply(graph, "case");
        Assert.DoesNotContain(graph.Nodes, n => n.OpType == "Attention");
        var found = Run(graph);
        Assert.Equal(expected.Length, found.Length);
        Assert.All(expected.Zip(found), p => Assert.Equal(p.First, p.Second, 2e-6));
    }

    [Fact]
    public void Past_keys_are_refused_by_name()
    {
        var graph = new Graph { Name = "past", Opsets = { [""] = 23 } };
        var b = new GraphBuilder(graph);
        Value Input(string name, long tokens) => b.Input(name, ElementType.Float, Shape.Of(Batch, 3, tokens, Size));
        var node = b.Node(
            "Attention",
            "",
            [Input("q", Queries), Input("k", Keys), Input("v", Keys), null, Input("pk", 2), Input("pv", 2)],
            3
        );
        graph.Outputs.Add(node.Outputs[0]);
        ShapeInference.Apply(graph, "case");
        var refused = new Dictionary<Node, UnsupportedUseException>();
        Assert.False(AttentionExpansion.Apply(graph, refused));
        Assert.Equal("past keys and values are inputs", refused[node].What);
    }

    private static Graph GraphOf(bool isFlat, int heads, int keyHeads, string mask, string option)
    {
        var graph = new Graph { Name = "attention", Opsets = { [""] = 23 } };
        var b = new GraphBuilder(graph);
        Value Input(string name, int count, int tokens) =>
            b.Input(
                name,
                ElementType.Float,
                isFlat ? Shape.Of(Batch, tokens, count * Size) : Shape.Of(Batch, count, tokens, Size)
            );
        var attributes = new List<Attr>();
        if (isFlat)
        {
            attributes.AddRange([Int("q_num_heads", heads), Int("kv_num_heads", keyHeads)]);
        }

        if (mask.Contains("causal", StringComparison.Ordinal))
        {
            attributes.Add(Int("is_causal", 1));
        }

        if (option.Length > 0)
        {
            attributes.Add(option == "scale" ? Float("scale", 0.3f) : Float("softcap", 1.5f));
        }

        if (option.Contains(' ', StringComparison.Ordinal))
        {
            attributes.Add(Int("qk_matmul_output_mode", option[^1] - '0'));
        }

        var given = mask.Split(' ')[0] switch
        {
            "bool" => b.Constant(
                Ir.Tensor.From<bool>([Queries, Keys], [.. Enumerable.Range(0, Queries * Keys).Select(i => i % 3 != 1)])
            ),
            "float" => mask.EndsWith("heads", StringComparison.Ordinal)
                ? b.Constant(Numbers(Batch, heads, Queries, Keys))
                : b.Constant(Numbers(Queries, Keys)),
            _ => null,
        };
        var node = b.Node(
            "Attention",
            "",
            [Input("q", heads, Queries), Input("k", keyHeads, Keys), Input("v", keyHeads, Keys), given],
            4,
            [.. attributes]
        );
        graph.Outputs.Add(node.Outputs[0]);
        if (option.Contains(' ', StringComparison.Ordinal))
        {
            graph.Outputs.Add(node.Outputs[3]);
        }

        return graph;
    }

    private static Ir.Tensor Numbers(params long[] dims) =>
        Ir.Tensor.From<float>(
            dims,
            [.. Enumerable.Range(0, (int)Ir.Tensor.CountOf(dims)).Select(i => MathF.Sin(1.7f * i) * 2)]
        );

    private static float[] Run(Graph graph)
    {
        using var options = new SessionOptions
        {
            IntraOpNumThreads = 1,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
        };
        using var session = new InferenceSession(ModelWriter.ToBytes(graph), options);
        var names = graph.Inputs.Select(i => i.Name).ToArray();
        var values = graph
            .Inputs.Select(i => Numbers([.. i.KnownShape.Dims.Select(d => d.Size)]))
            .Select(
                (t, i) =>
                    OrtValue.CreateTensorValueFromMemory(
                        t.Span<float>().ToArray().Select(x => x + i).ToArray(),
                        [.. t.Dims]
                    )
            )
            .ToArray();
        using var run = new RunOptions();
        using var results = session.Run(run, names, values, [.. graph.Outputs.Select(o => o.Name)]);
        var found = results.SelectMany(r => r.GetTensorDataAsSpan<float>().ToArray()).ToArray();
        Array.ForEach(values, v => v.Dispose());
        return found;
    }
}
