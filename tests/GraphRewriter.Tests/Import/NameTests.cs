using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Tests.Support;

namespace MacOnnx.GraphRewriter.Tests.Import;

public sealed class NameTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void ANameThatCheckpointsCannotHoldIsRefused()
    {
        var graph = Onnx.Graph(
            [Onnx.Node("MatMul", ["x", "__metadata__"], ["y"])],
            [Onnx.Info("x", ElementType.Float, 2, 4)],
            [Onnx.Info("y", ElementType.Float, 2, 3)],
            ("__metadata__", Onnx.Floats(4, 3))
        );
        var path = _folder.File("m.onnx", Onnx.Model(graph).ToByteArray());
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path, new() { Loss = LossKind.Mse }));
        Assert.Equal("MAC0015", e.Diagnostic.Id);
    }
}
