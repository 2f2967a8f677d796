using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>Models are read without their weights, which stay in their files until they are written.</summary>
public sealed class ModelFileTests : IDisposable
{
    private const int Width = 2048;

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void AModelIsWhatProtobufReads()
    {
        foreach (var file in Directory.GetFiles(Repository.Models(""), "*.onnx"))
        {
            Assert.Equal(ModelProto.Parser.ParseFrom(File.ReadAllBytes(file)), ModelFile.Read(file));
        }
    }

    /// <summary>
    /// Fields in any order, twice, unknown or of another wire type: what is read is what protobuf reads.
    /// </summary>
    [Fact]
    public void DamagedModelsAreWhatProtobufReadsOrRefused()
    {
        var original = File.ReadAllBytes(Repository.Models("digits-mlp.onnx"));
        var random = new Random(1);
        var read = 0;
        for (var i = 0; i < 300; i++)
        {
            var bytes = original.ToArray();
            for (var n = random.Next(1, 4); n > 0; n--)
            {
                // Weights are most of the file, and any bytes of them are as good as others.
                var place = random.Next(2) == 0 ? random.Next(400) : bytes.Length - 1 - random.Next(400);
                bytes[place] = (byte)random.Next(256);
            }

            try
            {
                var model = ModelFile.Read(_folder.File("m.onnx", bytes));
                if (model.Graph?.Initializer.Any(t => t.DataLocation != 0 || t.ExternalData.Count > 0) != true)
                {
                    Assert.Equal(ModelProto.Parser.ParseFrom(bytes), model);
                    read++;
                }
            }
            catch (Exception e) when (e is InvalidDataException or InvalidProtocolBufferException or MacOnnxException)
            {
                // Refused: the reader of models makes one line of it.
            }
        }

        Assert.InRange(read, 20, 290);
    }

    /// <summary>Graph, initializers and their fields may come in parts, which are merged.</summary>
    [Fact]
    public void PartsOfAMessageAreMerged()
    {
        var small = Tiny(new byte[16]);
        small.Graph.Initializer[0].RawData = ByteString.CopyFrom(new byte[100_000]);
        byte[] bytes = [.. small.ToByteArray(), .. Tiny(new byte[8]).ToByteArray()];
        Assert.Equal(ModelProto.Parser.ParseFrom(bytes), ModelFile.Read(_folder.File("m.onnx", bytes)));

        static ModelProto Tiny(byte[] data) =>
            new()
            {
                Graph = new GraphProto
                {
                    Name = $"g{data.Length}",
                    Initializer =
                    {
                        new TensorProto { Name = "w", RawData = ByteString.CopyFrom(data) },
                    },
                },
            };
    }

    /// <summary>The weights are 16 MB; everything else that a rewrite allocates is far less.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void WeightsDoNotComeIntoMemory(bool isExternal)
    {
        var (path, weights) = Model(isExternal);
        var options = new RewriteOptions { Loss = LossKind.Mse };
        Rewriter.Rewrite(path, options).Package.Save(_folder.File("first.mac")); // static tables are made once
        var before = GC.GetAllocatedBytesForCurrentThread();
        Rewriter.Inspect(path, options);
        var package = Rewriter.Rewrite(path, options).Package;
        package.Save(_folder.File("m.mac"));
        var loaded = TrainingPackage.Load(_folder.File("m.mac"));
        loaded.Save(_folder.File("again.mac"));
        InferenceModel.Write(_folder.File("out.onnx"), loaded.ForwardModel.Span, loaded.Weights, largest: 1000);
        var allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.InRange(allocated, 0, weights.Length / 2);

        foreach (var name in new[] { "m.mac", "again.mac" })
        {
            var tensors = Safetensors.Read(_folder.File($"{name}/checkpoint.safetensors")).Tensors;
            Assert.True(tensors["w"].Data.Span.SequenceEqual(weights));
        }

        Assert.True(File.ReadAllBytes(_folder.File("out.onnx.data")).AsSpan().SequenceEqual(weights));
    }

    [Fact]
    public void AFileThatIsWrittenMeanwhileIsRefused()
    {
        var (path, weights) = Model(isExternal: true);
        var package = Rewriter.Rewrite(path, new RewriteOptions { Loss = LossKind.Mse }).Package;
        var data = _folder.File("w.bin");
        File.WriteAllBytes(data, new byte[weights.Length]);
        File.SetLastWriteTimeUtc(data, DateTime.UtcNow.AddSeconds(5));
        var e = Assert.Throws<MacOnnxException>(() => package.Save(_folder.File("m.mac")));
        Assert.Equal(("MAC0402", data), (e.Diagnostic.Id, e.Diagnostic.Where));
        Assert.False(File.Exists(_folder.File("m.mac/manifest.json")));
        Assert.Throws<MacOnnxException>(() => package.Weights["w"].Data.Span.Length);
    }

    [Fact]
    public void AFileThatIsReplacedMeanwhileStaysWhatItWas()
    {
        var (path, weights) = Model(isExternal: true);
        var package = Rewriter.Rewrite(path, new RewriteOptions { Loss = LossKind.Mse }).Package;
        File.Delete(_folder.File("w.bin"));
        _folder.File("w.bin", new byte[80]);
        Assert.True(package.Weights["w"].Data.Span.SequenceEqual(weights));
    }

    private (string Path, byte[] Weights) Model(bool isExternal)
    {
        var weights = new byte[Width * Width * sizeof(float)];
        new Random(2).NextBytes(weights);
        var graph = Onnx.Graph(
            [Onnx.Node("MatMul", ["x", "w"], ["y"])],
            [Onnx.Info("x", ElementType.Float, 4, Width)],
            [Onnx.Info("y", ElementType.Float, 4, Width)],
            ("w", new Tensor(ElementType.Float, [Width, Width], weights))
        );
        if (isExternal)
        {
            _folder.File("w.bin", weights);
            var proto = graph.Initializer[0];
            proto.ClearRawData();
            proto.DataLocation = TensorProto.Types.DataLocation.External;
            proto.ExternalData.Add(new StringStringEntryProto { Key = "location", Value = "w.bin" });
        }

        return (_folder.File("m.onnx", Onnx.Model(graph).ToByteArray()), weights);
    }
}
