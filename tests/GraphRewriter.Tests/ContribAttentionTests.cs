using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Lowering;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>Attention and MultiHeadAttention of com.microsoft.</summary>
public sealed class ContribAttentionTests
{
    private const int Batch = 2;
    private const int Queries = 5;
    private const int Heads = 2;
    private const int Size = 4;
    private const int Width = Heads * Size;
    private const int In = 6;

    /// <summary>Form, mask, and what else is given.</summary>
    public static TheoryData<string, string, string> Cases =>
        [
            .. from form in new[] { "Attention", "separate", "cross", "heads apart" }
            from mask in new[] { "", "lengths", "padding", "3-D" }
            from option in new[] { "", "bias", "scores", "causal", "all" }
            where option is "" or "all" || mask.Length == 0
            where option != "causal" || form is "Attention" or "separate"
            select (form, mask, option),
            ("Attention", "dummy", ""),
            ("Attention", "padding", "sizes"),
            ("Attention", "", "scores of one sample"),
            ("cross", "padding", "scores of one sample"),
            ("cross", "", "wide values"),
        ];

    public static TheoryData<string, string> PackedCases =>
        [.. from form in new[] { "packed kv", "packed qkv" } from mask in new[] { "", "padding" } select (form, mask)];

    /// <summary>The expanded graph computes what ONNX Runtime's fused kernel does.</summary>
    [Theory]
    [MemberData(nameof(Cases))]
    public void ExpansionEqualsTheFusedOperator(string form, string mask, string option)
    {
        var (graph, inputs) = GraphOf(form, mask, option);
        var expected = Run(graph, inputs);
        Expand(graph);

        // Float32 rounding of sums of about ten products of size 1.
        Onnx.Equal(expected, Run(graph, inputs), 1e-5);
    }

    /// <summary>
    /// ONNX Runtime's CPU kernel takes no packed keys and values: they are compared with the same ones apart.
    /// </summary>
    [Theory]
    [MemberData(nameof(PackedCases))]
    public void PackedEqualsSeparate(string form, string mask)
    {
        var (graph, inputs) = GraphOf(form, mask, "");
        var (separate, others) = GraphOf(form == "packed kv" ? "cross" : "separate", mask, "");
        var names = form == "packed kv" ? new[] { "k", "v" } : ["q", "k", "v"];
        var packed = inputs[names[0]].Span<float>();
        foreach (var (name, part) in names.Select((n, i) => (n, i)))
        {
            var values = new float[packed.Length / names.Length];
            for (var i = 0; i < values.Length; i++)
            {
                values[i] = packed[(((i / Size) * names.Length) + part) * Size + (i % Size)];
            }

            others[name] = Tensor.From<float>(others[name].Dims.AsSpan(), values);
        }

        if (form == "packed kv")
        {
            others["q"] = inputs["q"];
        }

        Expand(graph);
        Onnx.Equal(Run(separate, others), Run(graph, inputs), 1e-5);
    }

    /// <summary>Gradients of the expanded graph are slopes of the fused operator.</summary>
    [Theory]
    [InlineData("Attention", "padding", "all")]
    [InlineData("Attention", "3-D", "sizes")]
    [InlineData("separate", "lengths", "all")]
    [InlineData("cross", "padding", "bias")]
    [InlineData("heads apart", "", "scores")]
    public void GradientsAreSlopesOfTheFusedOperator(string form, string mask, string option)
    {
        var (fused, inputs) = GraphOf(form, mask, option);
        var (graph, _) = GraphOf(form, mask, option);
        Expand(graph);
        var b = new GraphBuilder(graph);
        var y = new Term(b, graph.Outputs[0]);
        var factors = Onnx.Floats([.. y.V.KnownShape.Dims.Select(d => d.Size)]);
        var loss = (y * new Term(b, b.Constant(factors))).Sum([0, 1, 2], keepDims: false);
        graph.Outputs.Add(loss);
        ShapeInference.Apply(graph, "case");
        var variables = graph.Inputs.Where(i => i.Type == ElementType.Float).ToArray();
        var gradients = Backward.Differentiate(graph, loss, b.Scalar(1, ElementType.Float), variables);
        graph.Outputs.Clear();
        graph.Outputs.AddRange(variables.Select(v => b.Named(gradients[v], $"{v.Name}_slope")));
        Lower.Apply(graph);
        var found = Run(graph, inputs);
        foreach (var variable in variables.Select(v => v.Name))
        {
            var g = found[$"{variable}_slope"].ToDouble();
            var direction = Onnx.Floats([.. inputs[variable].Dims]).ToDouble();
            const float Step = 0.01f;
            double At(float sign)
            {
                var moved = new Dictionary<string, Tensor>(inputs, StringComparer.Ordinal)
                {
                    [variable] = Tensor.From<float>(
                        inputs[variable].Dims.AsSpan(),
                        [.. inputs[variable].ToDouble().Zip(direction, (x, d) => (float)(x + (sign * Step * d)))]
                    ),
                };
                return Run(fused, moved)[fused.Outputs[0].Name]
                    .ToDouble()
                    .Zip(factors.ToDouble(), (r, f) => r * f)
                    .Sum();
            }

            var expected = (At(1) - At(-1)) / (2 * Step);
            var terms = g.Zip(direction, (p, q) => p * q).ToArray();

            // Central differences: float32 rounding gives about 1e-6 / Step, the third derivative Step squared.
            Assert.True(
                Math.Abs(expected - terms.Sum()) <= 2e-3 * Math.Max(1, terms.Sum(Math.Abs)),
                $"{variable}: slope {expected}, gradient {terms.Sum()}"
            );
        }
    }

    [Theory]
    [InlineData("Attention", 4, 1, "past keys and values are inputs")]
    [InlineData("MultiHeadAttention", 6, 1, "past keys and values are inputs")]
    [InlineData("Attention", 3, 2, "present keys and values")]
    [InlineData("MultiHeadAttention", 3, 3, "present keys and values")]
    public void CachesAreRefusedByName(string op, int inputs, int outputs, string what)
    {
        var graph = new Graph { Name = "past", Opsets = { [""] = 21, ["com.microsoft"] = 1 } };
        var b = new GraphBuilder(graph);
        Value?[] given =
            op == "Attention"
                ?
                [
                    b.Input("x", ElementType.Float, Shape.Of(Batch, Queries, In)),
                    b.Input("w", ElementType.Float, Shape.Of(In, 3 * Width)),
                    b.Input("b", ElementType.Float, Shape.Of(3 * Width)),
                    null,
                    b.Input("past", ElementType.Float, Shape.Of(2, Batch, Heads, 3, Size)),
                ]
                :
                [
                    .. "qkv".Select(n => b.Input($"{n}", ElementType.Float, Shape.Of(Batch, Queries, Width))),
                    null,
                    null,
                    null,
                    b.Input("pk", ElementType.Float, Shape.Of(Batch, Heads, 3, Size)),
                    b.Input("pv", ElementType.Float, Shape.Of(Batch, Heads, 3, Size)),
                ];
        var node = b.Node(op, "com.microsoft", inputs > 3 ? given : given[..3], outputs, Int("num_heads", Heads));
        graph.Outputs.AddRange(node.Outputs);
        var refused = new Dictionary<Node, UnsupportedUseException>();
        Assert.False(AttentionExpansion.Apply(graph, refused));
        Assert.Contains(what, refused[node].What, StringComparison.Ordinal);
    }

    /// <summary>
    /// ONNX Runtime's kernel lets the last query see every key where there are more keys than queries.
    /// </summary>
    [Theory]
    [InlineData("cross")]
    [InlineData("heads apart")]
    public void CausalCrossAttentionIsRefused(string form)
    {
        var (graph, _) = GraphOf(form, "", "causal");
        ShapeInference.Apply(graph, "case");
        var refused = new Dictionary<Node, UnsupportedUseException>();
        Assert.False(AttentionExpansion.Apply(graph, refused));
        Assert.Contains("not as many keys as queries", refused.Values.Single().What, StringComparison.Ordinal);
    }

    /// <summary>
    /// The columns of the packed weight are named, the values' take the weighted mean, and the exported model keeps the
    /// operator.
    /// </summary>
    [Fact]
    public void PackedWeightIsReportedAndTheOperatorIsKept()
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "model.onnx");
        NodeProto[] nodes =
        [
            Onnx.Node("com.microsoft", "Attention", ["x", "w", "b", "mask"], ["h"], Int("num_heads", Heads)),
            Onnx.Node("ReduceMean", ["h", "axes"], ["m"], Int("keepdims", 0)),
            Onnx.Node("MatMul", ["m", "head"], ["y"]),
        ];
        var graph = Onnx.Graph(
            nodes,
            [Onnx.Info("x", ElementType.Float, -1, Queries, In), Onnx.Info("mask", ElementType.Int32, -1, Queries)],
            [Onnx.Info("y", ElementType.Float, -1, 3)],
            ("w", Onnx.Floats(In, 3 * Width)),
            ("b", Onnx.Floats(3 * Width)),
            ("axes", Onnx.Ints(1)),
            ("head", Onnx.Floats(Width, 3))
        );
        System.IO.File.WriteAllBytes(path, Google.Protobuf.MessageExtensions.ToByteArray(Onnx.Model(graph)));
        var attention = Assert.Single(Rewriter.Inspect(path).Attention);
        Assert.Equal((Heads, "padding"), (attention.Heads, attention.Mask));
        Assert.Equal(("w", "[0:8]"), (attention.Q.Parameter, attention.Q.Show()));
        Assert.Equal(("w", "[8:16]"), (attention.K.Parameter, attention.K.Show()));
        Assert.Equal(("w", "[16:24]"), (attention.V.Parameter, attention.V.Show()));
        var (package, report) = Rewriter.Rewrite(path);
        var weight = report.Parameters.Single(p => p.Name == "w");
        Assert.Equal("MAC dense", weight.Treatment);
        Assert.Contains("are attention's values", weight.Reason, StringComparison.Ordinal);
        Assert.Equal("MAC dense", report.Parameters.Single(p => p.Name == "b").Treatment);
        var exported = Path.Combine(folder.Path, "exported.onnx");
        InferenceModel.Write(exported, package.ForwardModel.Span, package.Weights);
        Assert.Contains(
            ModelReader.Read(exported).Graph.Node,
            n => n is { OpType: "Attention", Domain: "com.microsoft" }
        );
    }

    private static void Expand(Graph graph)
    {
        ShapeInference.Apply(graph, "case");
        Assert.True(AttentionExpansion.Apply(graph, []));
        ShapeInference.Apply(graph, "case");
        Assert.DoesNotContain(graph.Nodes, n => n.OpType.EndsWith("Attention", StringComparison.Ordinal));
    }

    private static Dictionary<string, Tensor> Run(Graph graph, IReadOnlyDictionary<string, Tensor> inputs) =>
        Onnx.Run(ModelWriter.ToBytes(graph), inputs);

    private static (Graph Graph, Dictionary<string, Tensor> Inputs) GraphOf(string form, string mask, string option)
    {
        var graph = new Graph { Name = "attention", Opsets = { [""] = 21, ["com.microsoft"] = 1 } };
        var b = new GraphBuilder(graph);
        var inputs = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        Value Given(string name, Tensor tensor)
        {
            inputs[name] = tensor;
            return b.Input(name, tensor.Type, Shape.Of(tensor.Dims.AsSpan()));
        }

        var all = option == "all";
        var keys = form is "cross" or "heads apart" or "packed kv" ? Queries + 2 : Queries;
        var valueWidth = option switch
        {
            "sizes" => Width / 2,
            "wide values" => Width * 2,
            _ => Width,
        };
        var attributes = new List<Attr> { Int("num_heads", Heads) };
        if (option == "causal" || (all && keys == Queries))
        {
            attributes.Add(Int("unidirectional", 1));
        }

        if (all)
        {
            attributes.AddRange([Float("scale", 0.3), Float("mask_filter_value", -3)]);
        }

        if (option == "sizes")
        {
            attributes.Add(Ints("qkv_hidden_sizes", Width, Width, valueWidth));
        }

        Value? Mask(string name) =>
            mask switch
            {
                "lengths" => Given(name, Tensor.From<int>([Batch], [3, keys])),
                "padding" => Given(name, Numbers(Batch, keys)),
                "3-D" => Given(name, Numbers(Batch, Queries, keys)),
                "dummy" => Given(name, Tensor.From<int>([Batch, 1], [1, 0])),
                _ => null,
            };
        Value? Scores() =>
            all || option.StartsWith("scores", StringComparison.Ordinal)
                ? Given(
                    "scores",
                    Onnx.Floats(option.EndsWith("sample", StringComparison.Ordinal) ? 1 : Batch, Heads, Queries, keys)
                )
                : null;
        var packedBias = 2 * Width + valueWidth;
        if (form == "Attention")
        {
            Value?[] operands =
            [
                Given("x", Onnx.Floats(Batch, Queries, In)),
                Given("w", Onnx.Floats(In, packedBias)),
                Given("b", Onnx.Floats(packedBias)),
                Mask("mask"),
                null,
                Scores(),
            ];
            graph.Outputs.Add(b.OpIn("com.microsoft", "Attention", operands, [.. attributes]));
            return (graph, inputs);
        }

        Tensor Tokens(int seed, int tokens, int width) =>
            Tensor.From<float>(
                [Batch, tokens, width],
                [.. Onnx.Floats(Batch * tokens * width + seed).Span<float>()[seed..]]
            );
        Value?[] sources = form switch
        {
            "heads apart" =>
            [
                Given("q", Tokens(0, Queries, Width)),
                Given("k", Onnx.Floats(Batch, Heads, keys, Size)),
                Given("v", Onnx.Floats(Batch, Heads, keys, Size)),
            ],
            "packed kv" =>
            [
                Given("q", Tokens(0, Queries, Width)),
                Given("k", Onnx.Floats(Batch, keys, Heads, 2, Size)),
                null,
            ],
            "packed qkv" => [Given("q", Onnx.Floats(Batch, Queries, Heads, 3, Size)), null, null],
            _ =>
            [
                Given("q", Tokens(0, Queries, Width)),
                Given("k", Tokens(5, keys, Width)),
                Given("v", Tokens(9, keys, valueWidth)),
            ],
        };
        var bias = (all || option == "bias") ? Given("b", Onnx.Floats(packedBias)) : null;
        graph.Outputs.Add(
            b.OpIn("com.microsoft", "MultiHeadAttention", [.. sources, bias, Mask("mask"), Scores()], [.. attributes])
        );
        return (graph, inputs);
    }

    /// <summary>Two of three kept.</summary>
    private static Tensor Numbers(params long[] dims) =>
        Tensor.From<int>(dims, [.. Enumerable.Range(0, (int)Tensor.CountOf(dims)).Select(i => i % 3 == 1 ? 0 : 1)]);
}
