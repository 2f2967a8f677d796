using Google.Protobuf;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>
/// The class axis is the one whose removal from the logits' shape gives the labels' shape, the last one if two fit.
/// </summary>
public sealed class ClassAxisTests
{
    [Theory]
    [InlineData("-1,10", "1797", 1)]
    [InlineData("64,10", "640", 1)]
    [InlineData("-1,3,5", "8,5", 1)]
    [InlineData("-1,3,5", "8,3", 2)]
    [InlineData("-1,4,4", "8,4", 2)]
    [InlineData("-1,3,-1", "8,7", 1)]
    [InlineData("-1,19,32,32", "2,32,32", 1)]
    [InlineData("-1,32,32,19", "2,32,32", 3)]
    [InlineData("7,-1,9", "7,2", 2)]
    [InlineData("-1,-1,256", "5000,64", 2)]
    [InlineData("-1,256,-1", "5000,64", 1)]
    [InlineData("-1,3,5", "8,6", null)]
    [InlineData("-1,3,5", "8", null)]
    public void FollowsTheLabels(string logits, string labels, int? axis) =>
        Assert.Equal(
            axis,
            ClassAxis.Resolve(new TensorInfo("logits", ElementType.Float, [.. Dims(logits)]), Dims(labels))
        );

    [Fact]
    public void APackageIsRewrittenForTheLabels()
    {
        using var folder = new TempFolder();
        var path = folder.File("conv.onnx", Model().ToByteArray());
        var (package, _) = Rewriter.Rewrite(path);
        Assert.Equal((2, 5L), (package.Manifest.ClassAxis, package.Manifest.Classes));
        package.Save(folder.File("conv.mac"));
        package = TrainingPackage.Load(folder.File("conv.mac"));

        Assert.Same(package, ClassAxis.Fit(package, [8, 3]));
        var fitted = ClassAxis.Fit(package, [8, 5]);
        Assert.Equal((1, 3L), (fitted.Manifest.ClassAxis, fitted.Manifest.Classes));
        Assert.Equal(package.Weights["w"].Data.ToArray(), fitted.Weights["w"].Data.ToArray());

        // Chosen by an option, the axis stays.
        var (chosen, _) = Rewriter.Rewrite(path, new RewriteOptions { ClassAxis = -1 });
        Assert.Same(chosen, ClassAxis.Fit(chosen, [8, 5]));
    }

    private static long[] Dims(string text) => [.. text.Split(',').Select(t => long.Parse(t, null))];

    /// <summary>Makes a 1-D convolution: [batch, 2, 5] to logits [batch, 3, 5].</summary>
    private static ModelProto Model()
    {
        var graph = new GraphProto { Name = "conv" };
        graph.Input.Add(Declare("x", 2));
        graph.Output.Add(Declare("logits", 3));
        graph.Initializer.Add(
            TensorFormat.ToProto(GraphRewriter.Ir.Tensor.From<float>([3, 2, 1], [1, 2, 3, 4, 5, 6]), "w")
        );
        graph.Node.Add(
            new NodeProto
            {
                OpType = "Conv",
                Input = { "x", "w" },
                Output = { "logits" },
            }
        );
        return new ModelProto
        {
            IrVersion = 8,
            Graph = graph,
            OpsetImport = { new OperatorSetIdProto { Version = 17 } },
        };
    }

    private static ValueInfoProto Declare(string name, long channels) =>
        new()
        {
            Name = name,
            Type = new TypeProto
            {
                TensorType = new TypeProto.Types.Tensor
                {
                    ElemType = (int)ElementType.Float,
                    Shape = new TensorShapeProto
                    {
                        Dim =
                        {
                            new TensorShapeProto.Types.Dimension { DimParam = "batch" },
                            new TensorShapeProto.Types.Dimension { DimValue = channels },
                            new TensorShapeProto.Types.Dimension { DimValue = 5 },
                        },
                    },
                },
            },
        };
}
