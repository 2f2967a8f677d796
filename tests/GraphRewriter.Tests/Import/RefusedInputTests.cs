using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>Names and dimensions that a model may declare and that training cannot have.</summary>
public sealed class RefusedInputTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void ANameThatCheckpointsCannotHoldIsRefused() =>
        Assert.Equal("MAC0015", Refused(Onnx.Info("x", ElementType.Float, 2, 4), "__metadata__").Id);

    [Fact]
    public void AnInputDeclaresItsShape()
    {
        var input = Onnx.Info("x", ElementType.Float, 2, 4);
        input.Type.TensorType.Shape = null;
        Assert.Equal("MAC0011", Refused(input, "w").Id);
    }

    [Fact]
    public void ADimensionOfMoreThan31BitsIsRefused()
    {
        var refused = Refused(Onnx.Info("x", ElementType.Float, 1L << 40, 4), "w");
        Assert.Equal(
            ("MAC0011", true),
            (refused.Id, refused.ToString().Contains("1099511627776", StringComparison.Ordinal))
        );
    }

    [Theory]
    [InlineData("Conv", 3, 4, 2, 1)]
    [InlineData("Conv", 3, 4, 3, 2)]
    [InlineData("ConvTranspose", 3, 4, 2, 1)]
    public void AConvolutionHasTheChannelsThatItsWeightsTake(
        string op,
        long channels,
        long first,
        long second,
        long group
    )
    {
        var graph = Onnx.Graph(
            [Onnx.Node(op, ["x", "w"], ["y"], Attr.Int("group", group))],
            [Onnx.Info("x", ElementType.Float, 2, channels, 5)],
            [Onnx.Info("y", ElementType.Float, 2, 4, 3)],
            ("w", Onnx.Floats(first, second, 3))
        );
        var refused = Refused(graph);
        Assert.Equal(
            ("MAC0102", true),
            (refused.Id, refused.ToString().Contains("3 channels", StringComparison.Ordinal))
        );
    }

    private Diagnostic Refused(ValueInfoProto input, string weight) =>
        Refused(
            Onnx.Graph(
                [Onnx.Node("MatMul", ["x", weight], ["y"])],
                [input],
                [Onnx.Info("y", ElementType.Float, 2, 3)],
                (weight, Onnx.Floats(4, 3))
            )
        );

    private Diagnostic Refused(GraphProto graph)
    {
        var path = _folder.File("m.onnx", Onnx.Model(graph).ToByteArray());
        return Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path, new() { Loss = LossKind.Mse })).Diagnostic;
    }
}
