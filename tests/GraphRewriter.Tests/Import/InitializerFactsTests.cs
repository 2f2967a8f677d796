using System.Globalization;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>What the file says of a constant decides whether it trains.</summary>
public sealed class InitializerFactsTests : IDisposable
{
    private const string KindKey = "pkg.torch.export.graph_signature.InputSpec.kind";

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("p", "PARAMETER", new long[0], "plain")]
    [InlineData("p", "PARAMETER", new long[] { 1 }, "plain")]
    [InlineData("p", "PARAMETER", new long[] { 6 }, "plain")]
    [InlineData("p", "BUFFER", new long[] { 6 }, "constant")]
    [InlineData("0.p", "BUFFER", new long[] { 6 }, "constant")]
    [InlineData("0.p", "BUFFER", new long[0], "constant")]
    [InlineData("p", "CONSTANT_TENSOR", new long[] { 6 }, "constant")]
    [InlineData("p", "USER_INPUT", new long[0], "constant")]
    [InlineData("p", null, new long[0], "constant")]
    [InlineData("p", null, new long[] { 6 }, "plain")]
    [InlineData("1.gain", null, new long[0], "plain")]
    [InlineData("layers.0.gamma", null, new long[0], "plain")]
    [InlineData("onnx::Mul_12", null, new long[0], "constant")]
    [InlineData("/0/p.q", null, new long[0], "constant")]
    public void ADeclaredKindDecidesAndElseAModulePath(string name, string? kind, long[] dims, string treatment)
    {
        foreach (var isInput in new[] { false, true })
        {
            var path = Model(name, kind, Onnx.Floats(dims), isInput: isInput);
            var report = Rewriter.Inspect(path, new() { Loss = LossKind.Mse });
            Assert.Equal(treatment, report.Parameters.Single(p => p.Name == name).Treatment);
        }
    }

    [Theory]
    [InlineData("BUFFER", "declares it a buffer")]
    [InlineData("CONSTANT_TENSOR", "declares it a constant")]
    public void TrainableOverridesWhatIsDeclared(string kind, string reason)
    {
        var path = Model("p", kind, Onnx.Floats(6));
        var (package, report) = Rewriter.Rewrite(path, new() { Loss = LossKind.Mse });
        Assert.Contains(reason, report.Parameters.Single(p => p.Name == "p").Reason, StringComparison.Ordinal);
        Assert.DoesNotContain("p", package.Manifest.Trained);
        (package, _) = Rewriter.Rewrite(path, new() { Loss = LossKind.Mse, Trainable = "^p$" });
        Assert.Equal(["p"], package.Manifest.Trained);
    }

    [Fact]
    public void ADeclaredParameterTrainsWhateverItHolds()
    {
        // Zeros and one negative number look like a mask.
        var mask = Tensor.From<float>([6], [0, 0, -5, 0, 0, 0]);
        Assert.Equal("constant", Treatment(null));
        Assert.Equal("plain", Treatment("PARAMETER"));

        string Treatment(string? kind) =>
            Rewriter
                .Inspect(Model("p", kind, mask), new() { Loss = LossKind.Mse })
                .Parameters.Single(p => p.Name == "p")
                .Treatment;
    }

    [Theory]
    [InlineData("p", null, new long[] { 1 }, null)]
    [InlineData("p", "PARAMETER", new long[0], null)]
    [InlineData("1.gain", null, new long[0], null)]
    [InlineData("p", null, new long[0], "^p$")]
    public void AParameterTimesANumberFromShapesIsNotFolded(string name, string? kind, long[] dims, string? trainable)
    {
        var path = Model(name, kind, Tensor.From<float>(dims, [0.5f]), timesWidth: true);
        var (package, _) = Rewriter.Rewrite(path, Options(trainable));
        Assert.Contains(name, package.Manifest.Trained);
        Assert.Equal(0.5f, package.Weights[name].Span<float>()[0]);

        // y = x W s + 6 p, so dL/dp is the same at p = 0.5 as the slope of the loss there.
        var inputs = package.Weights.ToDictionary(w => w.Key, w => w.Value);
        inputs["x"] = Onnx.Floats(3, 4);
        inputs["labels"] = Onnx.Floats(3, 6);
        var gradient = Training(package, inputs)[$"{name}_grad"].ToDouble().Single();
        const float Step = 1e-2f; // The loss is quadratic in p: a central difference has no error but rounding.
        var (above, below) = (Loss(0.5f + Step), Loss(0.5f - Step));
        Assert.Equal((above - below) / (2 * Step), gradient, 1e-3 * Math.Abs(gradient));

        double Loss(float p) =>
            Training(package, new(inputs) { [name] = Tensor.From<float>(dims, [p]) })["loss"].ToDouble().Single();
    }

    [Theory]
    [InlineData("p", "BUFFER", new long[] { 1 })]
    [InlineData("p", null, new long[0])]
    public void AConstantTimesANumberFromShapesIsFolded(string name, string? kind, long[] dims)
    {
        var path = Model(name, kind, Tensor.From<float>(dims, [0.5f]), timesWidth: true);
        var report = Rewriter.Inspect(path, new() { Loss = LossKind.Mse });
        Assert.Contains(report.Parameters, p => p is { Name: "term", Treatment: "constant" });
    }

    [Fact]
    public void SizesComputedWithWhatMayTrainAreStillKnown()
    {
        // Reshape to [-1, floor(4 f)], f a one-element initializer, as old exporters compute the sizes of a Resize.
        var graph = Onnx.Graph(
            [
                Onnx.Node("Shape", ["x"], ["shape"], Int("start", 1)),
                Onnx.Node("Cast", ["shape"], ["float"], Int("to", (int)ElementType.Float)),
                Onnx.Node("Mul", ["float", "f"], ["scaled"]),
                Onnx.Node("Cast", ["scaled"], ["size"], Int("to", (int)ElementType.Int64)),
                Onnx.Node("Concat", ["minus", "size"], ["target"], Int("axis", 0)),
                Onnx.Node("Reshape", ["x", "target"], ["halves"]),
                Onnx.Node("MatMul", ["halves", "w"], ["y"]),
            ],
            [Onnx.Info("x", ElementType.Float, 3, 4)],
            [Onnx.Info("y", ElementType.Float, 6, 5)],
            ("f", Tensor.From<float>([1], [0.5f])),
            ("minus", Onnx.Ints(-1)),
            ("w", Onnx.Floats(2, 5))
        );
        var path = _folder.File("m.onnx", Onnx.Model(graph).ToByteArray());
        var (package, _) = Rewriter.Rewrite(path, new() { Loss = LossKind.Mse });
        Assert.Equal(["w"], package.Manifest.Trained);
    }

    [Theory]
    [InlineData("chargpt.onnx")]
    [InlineData("digits-cnn.onnx")]
    [InlineData("digits-mlp.onnx")]
    [InlineData("fashion-cnn.onnx")]
    [InlineData("vit-fashion.onnx")]
    public void EveryWeightOfTheShippedModelsTrainsAndNothingElse(string file)
    {
        var model = ModelProto.Parser.ParseFrom(File.ReadAllBytes(Repository.Models(file)));
        var weights = model
            .Graph.Initializer.Where(t => ((ElementType)t.DataType).IsFloatingPoint() && t.Dims.Count > 0)
            .Select(t => t.Name)
            .Where(n => !n.Contains("running_", StringComparison.Ordinal))
            .Order(StringComparer.Ordinal);
        var trained = Rewriter.Inspect(Repository.Models(file)).Parameters.Where(p => p.IsTrained).Select(p => p.Name);
        Assert.Equal(weights, trained.Order(StringComparer.Ordinal));
    }

    private static RewriteOptions Options(string? trainable) =>
        new()
        {
            Loss = LossKind.Mse,
            Optimizer = OptimizerKind.Sgd,
            Trainable = trainable,
        };

    private static Dictionary<string, Tensor> Training(TrainingPackage package, Dictionary<string, Tensor> inputs) =>
        Onnx.Run(package.Model(PackageFiles.Training).ToArray(), inputs);

    /// <summary>Makes y = x W + term, where term is p, or p times the width of y as a number from a Shape.</summary>
    private string Model(string name, string? kind, Tensor p, bool isInput = false, bool timesWidth = false)
    {
        NodeProto[] term = timesWidth
            ?
            [
                Onnx.Node("Shape", ["product"], ["shape"], Int("start", 1)),
                Onnx.Node("Cast", ["shape"], ["width"], Int("to", (int)ElementType.Float)),
                Onnx.Node("Mul", [name, "width"], ["term"]),
            ]
            : [Onnx.Node("Identity", [name], ["term"])];
        var graph = Onnx.Graph(
            [Onnx.Node("MatMul", ["x", "w"], ["product"]), .. term, Onnx.Node("Sub", ["product", "term"], ["y"])],
            [Onnx.Info("x", ElementType.Float, 3, 4)],
            [Onnx.Info("y", ElementType.Float, 3, 6)],
            ("w", Onnx.Floats(4, 6)),
            (name, p)
        );
        if (kind is not null)
        {
            var info = Onnx.Info(name, ElementType.Float, [.. p.Dims]);
            info.MetadataProps.Add(new StringStringEntryProto { Key = KindKey, Value = kind });
            (isInput ? graph.Input : graph.ValueInfo).Add(info);
        }

        var file = string.Create(CultureInfo.InvariantCulture, $"{Guid.NewGuid():n}.onnx");
        return _folder.File(file, Onnx.Model(graph).ToByteArray());
    }
}
