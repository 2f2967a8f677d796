using Google.Protobuf;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>Parameters that an exporter merged because they were equal train separately.</summary>
public sealed class SharedInitializersTests : IDisposable
{
    private static readonly RewriteOptions Mse = new() { Loss = LossKind.Mse };

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void AFreshTransformerTrainsEveryScaleAndBias()
    {
        var path = Write(Block(scopes: true));
        foreach (var report in new[] { Rewriter.Inspect(path, Mse), Rewriter.Rewrite(path, Mse).Report })
        {
            Assert.Equal(
                [
                    "layers.0.linear.bias",
                    "layers.0.norm.bias",
                    "layers.0.norm.weight",
                    "layers.0.out.bias",
                    "layers.1.norm.bias",
                    "layers.1.norm.weight",
                    "w1",
                    "w2",
                ],
                report.Parameters.Where(p => p.IsTrained).Select(p => p.Name).Order(StringComparer.Ordinal)
            );
            Assert.Equal("bias", report.Parameters.Single(p => p.Name == "layers.0.linear.bias").Kind);
            Assert.Equal("normalization", report.Parameters.Single(p => p.Name == "layers.1.norm.weight").Kind);
            var note = Assert.Single(report.Notes, n => n.Contains("stored", StringComparison.Ordinal));
            Assert.Contains("'layers.0.norm.weight' for 2, 'layers.0.norm.bias' for 4", note, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void WithoutScopesNamesComeFromNodes()
    {
        var package = Rewriter.Rewrite(Write(Block(scopes: false)), Mse).Package;
        Assert.Equal(
            [
                "Add_a.bias",
                "Gemm_y.bias",
                "LayerNormalization_n2.bias",
                "LayerNormalization_n2.weight",
                "layers.0.norm.bias",
                "layers.0.norm.weight",
                "w1",
                "w2",
            ],
            package.Manifest.Trained.Order(StringComparer.Ordinal)
        );
    }

    [Fact]
    public void TheTrainedModelIsTheEvaluationGraph()
    {
        var package = Rewriter.Rewrite(Write(Block(scopes: true)), Mse).Package;
        var weights = package.Weights.ToDictionary(
            w => w.Key,
            w => new Tensor(w.Value.Type, w.Value.Dims, w.Value.Data)
        );
        foreach (var (i, name) in weights.Keys.Order(StringComparer.Ordinal).Index())
        {
            var dims = weights[name].Dims.AsSpan();
            weights[name] = Tensor.From<float>(
                dims,
                [.. Onnx.Floats(weights[name].ElementCount).Span<float>().ToArray().Select(v => v + (i * 0.1f))]
            );
        }

        package.ExportInferenceModel(_folder.File("trained.onnx"), weights);
        var x = Onnx.Floats(2, 8);
        var exported = Onnx.Run(
            File.ReadAllBytes(_folder.File("trained.onnx")),
            new Dictionary<string, Tensor> { ["x"] = x }
        );
        var inputs = new Dictionary<string, Tensor>(weights) { ["x"] = x, ["labels"] = Onnx.Floats(2, 8) };
        var evaluated = Onnx.Run(package.Model(PackageFiles.Evaluation).ToArray(), inputs);

        // The same operators on the same numbers; only the runtime's order of summation may differ.
        Onnx.Equal(
            exported,
            evaluated.Where(e => e.Key == "y").ToDictionary(e => e.Key, e => e.Value),
            tolerance: 1e-6
        );

        // Rewriting the package again finds nothing more to split.
        var (again, report) = Rewriter.Rewrite(package, Mse);
        Assert.Equal(package.Manifest.Trained, again.Manifest.Trained);
        Assert.DoesNotContain(report.Notes, n => n.Contains("stored", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("Gemm")]
    [InlineData("MatMul")]
    [InlineData("Conv")]
    [InlineData("ConvTranspose")]
    public void LayersWithWeightsOfTheirOwnGetBiasesOfTheirOwn(string op)
    {
        Assert.Equal([("b", 2)], Split(Layers(op, ["w1", "w2"], Ones(4))));
        Assert.Empty(Split(Layers(op, ["w1", "w1"], Ones(4)))); // One layer, used twice.
        Assert.Equal([("b", 2)], Split(Layers(op, ["w1", "w2", "w1"], Ones(4))));
        Assert.Empty(Split(Layers(op, ["w1", "w2"], Onnx.Floats(4)))); // Equal by chance they are not.
        Assert.Empty(Split(Layers(op, ["w1", "w2"], Tensor.From<long>([4], [1, 1, 1, 1]))));
    }

    [Theory]
    [InlineData("LayerNormalization")]
    [InlineData("InstanceNormalization")]
    [InlineData("RMSNormalization")]
    [InlineData("Mul")]
    public void NormalizationsGetScalesOfTheirOwn(string op)
    {
        Assert.Equal([("s", 2)], Split(Norms(op, ["", ""])));
        Assert.Equal([("s", 3)], Split(Norms(op, ["a", "b", "c"])));
        Assert.Empty(Split(Norms(op, ["a", "a"]))); // One module, used twice.
        Assert.Empty(Split(Norms(op, ["a"])));
    }

    [Fact]
    public void RunningStatisticsAndBiasesPart()
    {
        var graph = Onnx.Graph(
            [
                Onnx.Node("BatchNormalization", ["x", "one", "zero", "zero", "one"], ["h"]),
                Onnx.Node("BatchNormalization", ["h", "one", "zero", "zero", "one"], ["y"]),
            ],
            [Onnx.Info("x", ElementType.Float, 3, 4)],
            [Onnx.Info("y", ElementType.Float, 3, 4)],
            ("one", Ones(4)),
            ("zero", Tensor.From<float>([4], new float[4]))
        );
        var report = Rewriter.Inspect(Write(Onnx.Model(graph)), Mse with { BatchNorm = BatchNormMode.Train });
        Assert.Equal(4, report.Parameters.Count(p => p.Kind == "statistic"));
        Assert.Equal(4, report.Parameters.Count(p => p.Kind == "normalization"));
    }

    [Fact]
    public void OtherUsesKeepTheInitializer()
    {
        // GeM's exponent is one parameter however often it is read; a scale that something else reads is split off.
        var model = Norms("LayerNormalization", ["a", "b"]);
        var graph = model.Graph;
        graph.Node.Add(Onnx.Node("Mul", ["y", "s"], ["z"]));
        graph.Output.Add(Onnx.Info("z", ElementType.Float, 2, 4));
        graph.Node.Add(Onnx.Node("Pow", ["x", "p"], ["power"]));
        graph.Node.Add(Onnx.Node("Pow", ["power", "p"], ["again"]));
        graph.Initializer.Add(TensorFormat.ToProto(Ones(1), "p"));
        Assert.Equal([("s", 3)], Split(model));
        Assert.Equal("s", graph.Node.Single(n => n.OpType == "Mul").Input[1]);
        Assert.Equal(["a.weight", "b.weight"], graph.Node.Take(2).Select(n => n.Input[1]));
    }

    [Fact]
    public void CopiesKeepTheirDeclarationAndFreeNames()
    {
        var model = Norms("LayerNormalization", ["a", "b"]);
        var info = Onnx.Info("s", ElementType.Float, 4);
        info.MetadataProps.Add(
            new StringStringEntryProto { Key = "pkg.torch.export.graph_signature.InputSpec.kind", Value = "BUFFER" }
        );
        model.Graph.ValueInfo.Add(info);
        model.Graph.Input.Add(Onnx.Info("b.weight", ElementType.Float, 1));
        Split(model);
        Assert.Equal("b.weight_2", model.Graph.Node[1].Input[1]);
        Assert.Equal(DeclaredKind.Buffer, InitializerFacts.Of(model)["b.weight_2"]!.Kind);
    }

    private static Tensor Ones(int count) => Tensor.From<float>([count], [.. Enumerable.Repeat(1f, count)]);

    private static (string, int)[] Split(ModelProto model) =>
        [.. SharedInitializers.Split(model).Select(s => (s.Name, s.Parameters))];

    private static NodeProto In(string scope, NodeProto node)
    {
        if (scope.Length > 0)
        {
            node.MetadataProps.Add(
                new StringStringEntryProto
                {
                    Key = "pkg.torch.onnx.name_scopes",
                    Value = $"['', '{scope}', '{node.Output[0]}']",
                }
            );
        }

        return node;
    }

    /// <summary>Makes layers in a chain, each with the bias b.</summary>
    private static ModelProto Layers(string op, string[] weights, Tensor bias)
    {
        var isConv = op.StartsWith("Conv", StringComparison.Ordinal);
        var nodes = weights.SelectMany(
            (w, i) =>
                op == "MatMul"
                    ? new[]
                    {
                        Onnx.Node("Transpose", [w], [$"t{i}"]),
                        Onnx.Node("MatMul", [$"h{i}", $"t{i}"], [$"m{i}"]),
                        Onnx.Node("Add", i == 0 ? ["b", $"m{i}"] : [$"m{i}", "b"], [$"h{i + 1}"]),
                    }
                    : [Onnx.Node(op, [$"h{i}", w, "b"], [$"h{i + 1}"])]
        );
        long[] shape = isConv ? [4, 4, 1] : [4, 4];
        return Onnx.Model(
            Onnx.Graph(
                [.. nodes],
                [Onnx.Info("h0", ElementType.Float, isConv ? [2, 4, 3] : [2, 4])],
                [],
                [.. weights.Distinct().Select(w => (w, Onnx.Floats(shape))), ("b", bias)]
            )
        );
    }

    /// <summary>Makes normalizations in a chain, each with the scale s and of its scope.</summary>
    private static ModelProto Norms(string op, string[] scopes)
    {
        string Output(int i) => i == scopes.Length - 1 ? "y" : $"h{i}";
        var nodes = scopes.SelectMany(
            (scope, i) =>
            {
                var x = i == 0 ? "x" : $"h{i - 1}";
                return op == "Mul"
                    ?
                    [
                        Onnx.Node("Sqrt", [x], [$"r{i}"]),
                        Onnx.Node("Reciprocal", [$"r{i}"], [$"q{i}"]),
                        Onnx.Node("Mul", [x, $"q{i}"], [$"n{i}"]),
                        In(scope, Onnx.Node("Mul", ["s", $"n{i}"], [Output(i)])),
                    ]
                    : new[] { In(scope, Onnx.Node(op, [x, "s"], [Output(i)])) };
            }
        );
        return Onnx.Model(
            Onnx.Graph(
                [.. nodes],
                [Onnx.Info("x", ElementType.Float, 2, 4)],
                [Onnx.Info("y", ElementType.Float, 2, 4)],
                ("s", Ones(4))
            )
        );
    }

    /// <summary>Two normalizations and two layers whose scales and biases are stored once, as when untrained.</summary>
    private static ModelProto Block(bool scopes)
    {
        NodeProto Node(string scope, NodeProto node) => In(scopes ? scope : "", node);
        return Onnx.Model(
            Onnx.Graph(
                [
                    Node(
                        "layers.0.norm",
                        Onnx.Node(
                            "LayerNormalization",
                            ["x", "layers.0.norm.weight", "layers.0.norm.bias"],
                            ["n1"],
                            Float("epsilon", 1e-5f)
                        )
                    ),
                    Node("layers.0.linear", Onnx.Node("MatMul", ["n1", "w1"], ["m"])),
                    Node("layers.0.linear", Onnx.Node("Add", ["m", "layers.0.norm.bias"], ["a"])),
                    Onnx.Node("Tanh", ["a"], ["t"]),
                    Node(
                        "layers.1.norm",
                        Onnx.Node("LayerNormalization", ["t", "layers.0.norm.weight", "layers.0.norm.bias"], ["n2"])
                    ),
                    Node("layers.0.out", Onnx.Node("Gemm", ["n2", "w2", "layers.0.norm.bias"], ["y"])),
                ],
                [Onnx.Info("x", ElementType.Float, 2, 8)],
                [Onnx.Info("y", ElementType.Float, 2, 8)],
                ("layers.0.norm.weight", Ones(8)),
                ("layers.0.norm.bias", Tensor.From<float>([8], new float[8])),
                ("w1", Onnx.Floats(8, 8)),
                ("w2", Onnx.Floats(8, 8))
            )
        );
    }

    private string Write(ModelProto model) => _folder.File("m.onnx", model.ToByteArray());
}
