using Google.Protobuf;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Tests.Artifacts;

/// <summary>What the import table makes of ONNX Runtime's gradient operators, against central differences.</summary>
public sealed class GradientOperatorTests
{
    /// <summary>Balances rounding (float32 losses near 1, so 1e-5) with the third derivative (1e-4 of it).</summary>
    private const float Step = 1 / 64f;

    private const double Tolerance = 3e-3;

    public static TheoryData<string> Names => [.. GradientOperatorCases.All.Select(c => c.Name)];

    [Fact]
    public void EveryRowHasACase() =>
        Assert.Equal(
            GradientOperators.All.Select(r => r.OpType).Order(StringComparer.Ordinal),
            GradientOperatorCases.All.Select(c => c.Operator).Distinct().Order(StringComparer.Ordinal)
        );

    [Theory]
    [MemberData(nameof(Names))]
    public void AgreesWithCentralDifferences(string name)
    {
        var c = GradientOperatorCases.All.Single(c => c.Name == name);
        var (package, _) = Rewriter.Rewrite(
            TrainingArtifacts.Read(Model(c).ToByteArray()),
            new() { Optimizer = OptimizerKind.Sgd }
        );
        Assert.Equal(c.Parameters.Length, package.Manifest.Trained.Length);
        var model = package.Model(PackageFiles.Training).ToArray();
        var inputs = package.Weights.ToDictionary();
        if (package.Manifest.Buffers.Any(b => b.Role == BufferRole.DropoutSeed))
        {
            inputs["dropout_seed"] = Tensor.From<long>([], [7]);
        }

        string Output(string buffer) =>
            package
                .Manifest.Bindings.Single(b =>
                    b is { Graph: PackageFiles.Training, Direction: BindingDirection.Out } && b.Buffer == buffer
                )
                .Value;
        using var options = Onnx.Options();
        using var session = new InferenceSession(model, options);
        var gradients = Onnx.Run(session, inputs);
        foreach (var (parameter, dims) in c.Parameters)
        {
            var (value, found) = (inputs[parameter], gradients[Output($"{parameter}_grad")].ToDouble());
            var scale = found.Max(Math.Abs);
            for (var i = 0; i < found.Length; i++)
            {
                var difference = (Loss(i, Step) - Loss(i, -Step)) / (2 * Step);
                Assert.True(
                    Math.Abs(difference - found[i]) < Tolerance * Math.Max(scale, 1),
                    $"{parameter}[{i}]: {found[i]} by the graph, {difference} by differences."
                );
            }

            double Loss(int element, float change)
            {
                var moved = value.Span<float>().ToArray();
                moved[element] += change;
                var all = new Dictionary<string, Tensor>(inputs) { [parameter] = Tensor.From<float>(dims, moved) };
                return Onnx.Run(session, all)[Output("loss")].ToDouble()[0];
            }
        }
    }

    /// <summary>Training graphs with other operators, attributes, types, shapes, names and edges are refused with a
    /// diagnostic, or train.</summary>
    [Fact]
    public void ChangedFieldsEndInADiagnosticOrInSuccess()
    {
        var random = new Random(1);
        string[] names = ["ConvGrad", "LayerNormalizationGrad", "MaxPoolGrad", "GatherGrad"];
        ModelProto[] originals = [.. GradientOperatorCases.All.Where(c => names.Contains(c.Name)).Select(Model)];
        originals = [.. originals, .. originals.Select(o => Updated(o.Clone()))];
        var ids = new HashSet<string>(StringComparer.Ordinal);
        for (var i = 0; i < 300; i++)
        {
            var model = originals[i % originals.Length].Clone();
            for (var n = random.Next(1, 3); n > 0; n--)
            {
                Import.DamagedModelTests.Mutate(model, random);
            }

            try
            {
                Rewriter.Rewrite(TrainingArtifacts.Read(model.ToByteArray()));
                ids.Add("success");
            }
            catch (MacOnnxException e)
            {
                Assert.DoesNotContain('\n', e.Message);
                Assert.NotEqual("MAC0504", e.Diagnostic.Id);
                ids.Add(e.Diagnostic.Id);
            }
        }

        Assert.True(ids.Count > 4, string.Join(", ", ids));
    }

    /// <summary>Puts an optimizer in the place of accumulators.</summary>
    private static ModelProto Updated(ModelProto model)
    {
        foreach (var node in model.Graph.Node.Where(n => n.OpType == "InPlaceAccumulatorV2"))
        {
            var weight = node.Input[0].Split("_grad")[0];
            (node.OpType, string[] inputs) = ("AdamOptimizer", ["loss_grad", "", weight, node.Input[1], "", ""]);
            node.Input.Clear();
            node.Input.AddRange(inputs);
        }

        return model;
    }

    /// <summary>Makes a training graph as ONNX Runtime's generator does: the loss is the sum of y times
    /// weights.</summary>
    private static ModelProto Model(GradientOperatorCase c)
    {
        (string Name, Tensor Tensor)[] parameters = [.. c.Parameters.Select(p => (p.Name, Spread(p.Dims)))];
        var y = Onnx.Run(Forward(c, parameters).ToByteArray(), new Dictionary<string, Tensor>())["y"];
        var weights = Tensor.From<float>(
            y.Dims.AsSpan(),
            [.. Enumerable.Range(0, (int)y.ElementCount).Select(i => 0.5f + (0.25f * (i % 3)))]
        );
        NodeProto[] nodes =
        [
            .. c.Forward,
            Onnx.Node("Mul", ["y", "weights_of_y"], ["product"]),
            Onnx.Node("ReduceSum", ["product"], ["loss"], Attr.Int("keepdims", 0)),
            Onnx.Node("Mul", ["weights_of_y", "loss_grad"], ["y_grad"]),
            .. c.Gradient,
            .. parameters.Select(p =>
                Onnx.Node(
                    "com.microsoft",
                    "InPlaceAccumulatorV2",
                    [$"{p.Name}_grad.accumulation.buffer", $"{p.Name}_grad", "reset"],
                    [$"{p.Name}_flag"]
                )
            ),
        ];
        return Onnx.Model(
            Onnx.Graph(
                nodes,
                [
                    .. parameters.Select(p =>
                        Onnx.Info($"{p.Name}_grad.accumulation.buffer", ElementType.Float, [.. p.Tensor.Dims])
                    ),
                    Onnx.Info("reset", ElementType.Bool, 1),
                ],
                [
                    Onnx.Info("loss", ElementType.Float),
                    .. parameters.Select(p => Onnx.Info($"{p.Name}_flag", ElementType.Bool, 1)),
                ],
                [.. parameters, .. c.Constants, ("weights_of_y", weights), ("loss_grad", Tensor.From<float>([], [1]))]
            ),
            17
        );
    }

    /// <summary>Gives numbers that lie apart and away from zero, so that no step crosses a kink.</summary>
    private static Tensor Spread(long[] dims)
    {
        var count = (int)Tensor.CountOf(dims);
        return Tensor.From<float>(
            dims,
            [.. Enumerable.Range(0, count).Select(i => ((i * 7 % count) + 0.5f - (count / 2)) * 3 / count)]
        );
    }

    private static ModelProto Forward(GradientOperatorCase c, (string Name, Tensor Tensor)[] parameters)
    {
        var nodes = c.Forward.Select(n => n.Clone()).ToArray();
        foreach (var node in nodes.Where(n => n.OpType == "BatchNormInternal"))
        {
            (node.OpType, node.Domain) = ("Identity", "");
            while (node.Input.Count > 1)
            {
                node.Input.RemoveAt(1);
            }

            while (node.Output.Count > 1)
            {
                node.Output.RemoveAt(1);
            }

            node.Attribute.Clear();
        }

        var model = Onnx.Model(
            Onnx.Graph(nodes, [], [new ValueInfoProto { Name = "y" }], [.. parameters, .. c.Constants]),
            17
        );
        TrainingOperators.Standardize(model.Graph);
        return model;
    }
}
