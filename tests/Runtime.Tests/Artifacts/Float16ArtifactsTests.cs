using Google.Protobuf;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>Training graphs with weights of half precision.</summary>
public sealed class Float16ArtifactsTests
{
    /// <summary>
    /// loss = scale sum(x w), in half precision: its gradient is scale x. With a scale of 1e-8 that is below the least
    /// number of half precision, 6e-8, unless the loss is scaled; float master weights take the update.
    /// </summary>
    [Theory]
    [InlineData(1f, 64, false)]
    [InlineData(1f, 64, true)]
    [InlineData(1e-8f, 32768, false)]
    [InlineData(1e-8f, 32768, true)]
    public void GradientsAreScaledAndWeightsFloat(float scale, float lossScale, bool rebuilds)
    {
        float[] x = [1, -2, 4, 0.5f],
            w = [0.1f, 0.2f, -0.3f, 0.4f];
        var (package, _) = Rewriter.Rewrite(
            TrainingArtifacts.Read(
                Model(scale).ToByteArray(),
                checkpoint: new OrtCheckpointFile
                {
                    Trainable = new Dictionary<string, Tensor>
                    {
                        ["w"] = Tensor.From<float>([4], w).To(ElementType.Float16),
                    },
                }
            ),
            new()
            {
                Optimizer = OptimizerKind.Sgd,
                RebuildsBackward = rebuilds,
                Hyperparameters = new()
                {
                    LearningRate = 1e-3f,
                    Momentum = 0,
                    LossScale = lossScale,
                },
            }
        );
        Assert.Equal(ElementType.Float, package.Weights["w"].Type);
        using var session = new MacTrainingSession(package);
        session.TrainStep([OrtValues.Of(Tensor.From<float>([4], x).To(ElementType.Float16))]);

        // Half precision has 11 bits.
        var expected = x.Select(v => v * scale).ToArray();
        var found = session.Gradient("w").Span<float>().ToArray();
        Assert.All(expected.Zip(found), p => Assert.Equal(1, p.Second / p.First, 2e-3));
        var before = session.GetState()["w"].Span<float>().ToArray();
        Assert.True(session.OptimizerStep());
        var moved = before.Zip(found, (value, g) => value - (1e-3f * g));
        Assert.All(
            moved.Zip(session.GetState()["w"].Span<float>().ToArray()),
            p => Assert.Equal(p.First, p.Second, 1e-8)
        );
    }

    private static ModelProto Model(float scale)
    {
        var model = new ModelProto
        {
            IrVersion = 8,
            Graph = new() { Name = "half" },
        };
        model.OpsetImport.Add(new OperatorSetIdProto { Version = 17 });
        model.OpsetImport.Add(new OperatorSetIdProto { Domain = "com.microsoft", Version = 1 });
        var graph = model.Graph;
        foreach (var name in new[] { "x", "w", "w_grad.accumulation.buffer" })
        {
            graph.Input.Add(DeclarationFormat.ToProto(name, ElementType.Float16, [new(4, null)]));
        }

        graph.Input.Add(DeclarationFormat.ToProto("lazy_reset_grad", ElementType.Bool, [new(1, null)]));
        graph.Initializer.Add(TensorFormat.ToProto(Tensor.From<float>([], [scale]), "scale"));
        graph.Initializer.Add(TensorFormat.ToProto(Tensor.From<float>([], [1]), "loss_grad"));
        Add("Mul", ["x", "w"], "product");
        Add("ReduceSum", ["product"], "sum", Attr.Int("keepdims", 0));
        Add("Cast", ["sum"], "wide", Attr.Int("to", (long)ElementType.Float));
        Add("Mul", ["wide", "scale"], "loss");
        Add("Mul", ["loss_grad", "scale"], "wide_grad");
        Add("Cast", ["wide_grad"], "sum_grad", Attr.Int("to", (long)ElementType.Float16));
        Add("Mul", ["x", "sum_grad"], "w_grad");
        Add("InPlaceAccumulatorV2", ["w_grad.accumulation.buffer", "w_grad", "lazy_reset_grad"], "flag");
        graph.Node[^1].Domain = "com.microsoft";
        graph.Output.Add(DeclarationFormat.ToProto("loss", ElementType.Float, []));
        graph.Output.Add(DeclarationFormat.ToProto("flag", ElementType.Bool, [new(1, null)]));
        return model;

        void Add(string opType, string[] inputs, string output, params Attr[] attributes)
        {
            var node = new NodeProto { OpType = opType, Name = output };
            node.Input.AddRange(inputs);
            node.Output.Add(output);
            node.Attribute.AddRange(attributes.Select(AttributeFormat.ToProto));
            graph.Node.Add(node);
        }
    }
}
