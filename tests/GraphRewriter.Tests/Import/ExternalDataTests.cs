using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>
/// Weights in a file beside the model: read from the model's own folder only, and written where a model would be too
/// large.
/// </summary>
public sealed class ExternalDataTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void LargeWeightsGoToAFileBesideTheModel()
    {
        var package = Rewriter.Rewrite(Repository.Models("digits-cnn.onnx")).Package;
        var (one, two) = (_folder.File("one.onnx"), _folder.File("two.onnx"));
        InferenceModel.Write(one, package.ForwardModel.Span, package.Weights);
        InferenceModel.Write(two, package.ForwardModel.Span, package.Weights, largest: 1000);
        Assert.Equal(
            ["one.onnx", "two.onnx", "two.onnx.data"],
            Directory.GetFiles(_folder.Path).Select(Path.GetFileName).Order(StringComparer.Ordinal)
        );
        Assert.True(new FileInfo(two).Length < 10_000);
        var inputs = Onnx.Inputs(File.ReadAllBytes(one));
        var expected = Onnx.Run(one, inputs);
        Onnx.Equal(expected, Onnx.Run(two, inputs), 0);

        // What was written is read again, and the package holds the data itself.
        var again = Rewriter.Rewrite(two).Package;
        Assert.All(package.Weights, w => Assert.Equal(w.Value.Data.ToArray(), again.Weights[w.Key].Data.ToArray()));
        File.Delete(two + ".data");
        again.ExportInferenceModel(_folder.File("three.onnx"), again.Weights);
        Onnx.Equal(expected, Onnx.Run(_folder.File("three.onnx"), inputs), 0);
    }

    [Fact]
    public void OffsetAndLengthSayWhereTheDataAre()
    {
        var data = Onnx.Floats(20);
        _folder.File("data.bin", data.Data.ToArray());
        Assert.Equal(data.Data[16..64].ToArray(), Read("data.bin", 16, 48).Data.ToArray());
        Assert.Equal(data.Data[..48].ToArray(), Read("./data.bin", null, null).Data.ToArray());
    }

    [Theory]
    [InlineData("../outside.bin", 0, 48, "outside the model's folder")]
    [InlineData("inside/../../outside.bin", 0, 48, "outside the model's folder")]
    [InlineData("{folder}/outside.bin", 0, 48, "outside the model's folder")]
    [InlineData("{folder}/model/data.bin", 0, 48, "outside the model's folder")]
    [InlineData("", 0, 48, "outside the model's folder")]
    [InlineData("..", 0, 48, "outside the model's folder")]
    [InlineData(".", 0, 48, "outside the model's folder")]
    [InlineData("da\0ta.bin", 0, 48, "outside the model's folder")]
    [InlineData("link.bin", 0, 48, "behind a link")]
    [InlineData("linked/outside.bin", 0, 48, "behind a link")]
    [InlineData("none.bin", 0, 48, "cannot be read")]
    [InlineData("inside", 0, 48, "cannot be read")]
    [InlineData("data.bin", 40, 48, "which has 80")]
    [InlineData("data.bin", long.MaxValue, 48, "which has 80")]
    [InlineData("data.bin", -4, 48, "the external data offset '-4'")]
    [InlineData("data.bin", 0, 44, "where its dimensions need 48")]
    [InlineData("data.bin", 0, long.MaxValue, "where its dimensions need 48")]
    public void OtherPlacesAreRefused(string location, long offset, long length, string text)
    {
        Directory.CreateDirectory(_folder.File("model/inside"));
        _folder.File("outside.bin", new byte[80]);
        _folder.File("model/data.bin", new byte[80]);
        if (text == "behind a link")
        {
            Assert.SkipWhen(OperatingSystem.IsWindows(), "Links need rights there.");
            File.CreateSymbolicLink(_folder.File("model/link.bin"), _folder.File("outside.bin"));
            Directory.CreateSymbolicLink(_folder.File("model/linked"), _folder.Path);
        }

        var e = Assert.Throws<MacOnnxException>(() =>
            Read(location.Replace("{folder}", _folder.Path, StringComparison.Ordinal), offset, length, "model")
        );
        Assert.Equal("MAC0005", e.Diagnostic.Id);
        Assert.Equal("tensor 'w'", e.Diagnostic.Where);
        Assert.Contains(text, e.Message, StringComparison.Ordinal);
    }

    /// <summary>Opening a pipe that nobody writes to would wait for ever.</summary>
    [Fact]
    public void PipesAreNotOpened()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows has no pipes among its files.");
        using (var make = System.Diagnostics.Process.Start("mkfifo", [_folder.File("pipe"), _folder.File("pipe.npz")]))
        {
            make.WaitForExit();
        }

        File.CreateSymbolicLink(_folder.File("link.npz"), _folder.File("pipe.npz"));
        Assert.Contains(
            "not a regular file",
            Assert.Throws<MacOnnxException>(() => Read("pipe", 0, 48)).Message,
            StringComparison.Ordinal
        );
        foreach (var path in new[] { _folder.File("pipe.npz"), _folder.File("link.npz"), "/dev/zero" })
        {
            Assert.Contains(
                "not a regular file",
                Assert.Throws<MacOnnxException>(() => Safetensors.Read(path)).Message,
                StringComparison.Ordinal
            );
            Assert.Equal("MAC0001", Assert.Throws<MacOnnxException>(() => ModelReader.Read(path)).Diagnostic.Id);
        }
    }

    private Tensor Read(string location, long? offset, long? length, string folder = "")
    {
        var proto = new TensorProto
        {
            Name = "w",
            DataType = (int)ElementType.Float,
            DataLocation = TensorProto.Types.DataLocation.External,
        };
        proto.Dims.AddRange([4, 3]);
        foreach (
            var (key, value) in new[]
            {
                ("location", location),
                ("offset", $"{offset}"),
                ("length", $"{length}"),
            }.Where(e => e.Item1 == "location" || e.Item2.Length > 0)
        )
        {
            proto.ExternalData.Add(new StringStringEntryProto { Key = key, Value = value });
        }

        var model = new ModelProto { Graph = new GraphProto { Initializer = { proto } } };
        var path = _folder.File(Path.Combine(folder, "m.onnx"), model.ToByteArray());
        return TensorFormat.FromProto(ModelFile.Read(path).Graph.Initializer[0]);
    }
}
