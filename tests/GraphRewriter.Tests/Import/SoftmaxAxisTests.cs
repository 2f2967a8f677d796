using Google.Protobuf;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Shapes;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>A softmax of operator sets before 13 becomes one over a single axis where that is the same.</summary>
public class SoftmaxAxisTests
{
    [Theory]
    [InlineData("Softmax", 3, new long[] { 2, 3, 4, 5 }, 3)]
    [InlineData("Softmax", 1, new long[] { 2, 7, 1, 1 }, 1)]
    [InlineData("LogSoftmax", 1, new long[] { -1, 7 }, 1)]
    [InlineData("Softmax", 2, new long[] { -1, 3, -2 }, 2)]
    [InlineData("Softmax", 1, new long[] { 2, 3, 4 }, null)]
    public void OneAxisNeedsNoReshaping(string op, long axis, long[] shape, int? expected)
    {
        var model = Onnx.Model(
            Onnx.Graph(
                [Onnx.Node(op, ["x"], ["y"], Int("axis", axis))],
                [Onnx.Info("x", ElementType.Float, shape)],
                [Onnx.Info("y", ElementType.Float, shape)]
            ),
            11
        );
        var original = model.ToByteArray();
        ModelReader.Normalize(model, "m.onnx");
        var graph = GraphImporter.Import(model, "m.onnx");
        ShapeInference.Apply(graph, "m.onnx");
        SoftmaxAxis.Apply(graph);
        var inputs = Onnx.Inputs(original);
        Onnx.Equal(Onnx.Run(original, inputs), Onnx.Run(ModelWriter.ToBytes(graph), inputs), 1e-6);
        if (expected is { } only)
        {
            Assert.Equal(only, Assert.Single(graph.Nodes).Attributes.Int("axis", -1));
        }
        else
        {
            Assert.Contains(graph.Nodes, n => n.Is("Flatten"));
        }
    }
}
