using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.GraphRewriter.Tests.Artifacts;

/// <summary>Checkpoints of ONNX Runtime's on-device training are read, written, and refused where they are
/// damaged.</summary>
public sealed class OrtCheckpointFileTests : IDisposable
{
    private static readonly OrtCheckpointFile Small = new()
    {
        Trainable = new OrderedDictionary<string, Tensor>
        {
            ["fc.weight"] = Tensor.From<float>([5, 7], [.. Enumerable.Range(0, 35).Select(i => i * 0.25f)]),
            ["scalar"] = Tensor.From<float>([], [2]),
            ["half"] = Tensor.From<Half>([3], [(Half)1, (Half)2, (Half)3]),
        },
        Frozen = new OrderedDictionary<string, Tensor> { ["ids"] = Tensor.From<long>([2], [-1, long.MaxValue]) },
        Groups =
        [
            new(
                "group0",
                4,
                0.001f,
                new OrderedDictionary<string, IReadOnlyDictionary<string, Tensor>>
                {
                    ["scalar"] = new OrderedDictionary<string, Tensor>
                    {
                        ["momentum0"] = Tensor.From<float>([], [0.5f]),
                        ["momentum1"] = Tensor.From<float>([], [0.25f]),
                    },
                }
            ),
        ],
        Properties = new OrderedDictionary<string, object>
        {
            ["epoch"] = 3L,
            ["best"] = 0.5f,
            ["name"] = "größe",
        },
    };

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void WhatIsWrittenIsRead()
    {
        var path = Path.Combine(_folder.Path, "checkpoint");
        Small.Write(path);
        Same(Small, OrtCheckpointFile.Read(path));
        Same(Small, OrtCheckpointFile.Read(File.ReadAllBytes(path)));
    }

    [Fact]
    public void LargeTensorsGoToAFileBesideIt()
    {
        var path = Path.Combine(_folder.Path, "checkpoint");
        CheckpointTables.Write(Small, path, largest: 0);
        Assert.Equal(35 * sizeof(float), new FileInfo(path + ".data").Length); // The others are below 64 bytes.
        Same(Small, OrtCheckpointFile.Read(path));
        File.WriteAllBytes(path + ".data", new byte[100]);
        Assert.Equal("MAC0403", Assert.Throws<MacOnnxException>(() => OrtCheckpointFile.Read(path)).Diagnostic.Id);
        File.Delete(path + ".data");
        Assert.Equal("MAC0402", Assert.Throws<MacOnnxException>(() => OrtCheckpointFile.Read(path)).Diagnostic.Id);
    }

    /// <summary>Changed and missing bytes, and files of other kinds: a line that says what is wrong, and nothing
    /// else.</summary>
    [Fact]
    public void DamagedFilesAreRefusedOrRead()
    {
        var path = Path.Combine(_folder.Path, "checkpoint");
        Small.Write(path);
        var original = File.ReadAllBytes(path);
        var random = new Random(1);
        var refused = 0;
        for (var i = 0; i < 4000; i++)
        {
            var bytes = original[..(i % 4 == 0 ? random.Next(original.Length) : original.Length)];
            for (var n = random.Next(1, 4); n > 0 && bytes.Length > 0; n--)
            {
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            }

            try
            {
                OrtCheckpointFile.Read(bytes);
            }
            catch (MacOnnxException e) when (e.Diagnostic.Id == "MAC0403")
            {
                Assert.DoesNotContain('\n', e.Message);
                refused++;
            }
        }

        Assert.True(refused > 1000, $"{refused} of 4000 were refused.");
    }

    [Fact]
    public void OtherVersionsAreNamed()
    {
        var path = Path.Combine(_folder.Path, "checkpoint");
        Small.Write(path);
        var bytes = File.ReadAllBytes(path);
        var root = BitConverter.ToInt32(bytes);
        var version = root + BitConverter.ToUInt16(bytes, root - BitConverter.ToInt32(bytes, root) + 4);
        bytes[version] = 1;
        Same(Small, OrtCheckpointFile.Read(bytes));
        bytes[version] = 3;
        Assert.Contains(
            "format version 3",
            Assert.Throws<MacOnnxException>(() => OrtCheckpointFile.Read(bytes)).Message,
            StringComparison.Ordinal
        );
    }

    [Theory]
    [InlineData("generated/mlp_ce_adamw/checkpoint", 6, 0, -1)]
    [InlineData("generated/mlp_ce_adamw/checkpoint_step4", 6, 0, 4)]
    [InlineData("generated/mlp_mse_sgd/checkpoint_step4", 6, 0, 4)]
    [InlineData("generated/cnn_bn_ce_adamw/checkpoint", 8, 4, -1)]
    [InlineData("generated/lora/checkpoint", 4, 6, -1)]
    [InlineData("ort/training_api/checkpoint.ckpt", 4, 0, -1)]
    [InlineData("ort/training_api/ort_format/checkpoint", 2, 2, -1)]
    [InlineData("ort/training_api/custom_ops/checkpoint", 2, 0, -1)]
    [InlineData("ort/history/10ba1e270c/training_api/checkpoint.ckpt", 4, 0, -1)] // Version 1.
    [InlineData("ort/history/1c316d0e39/training_api/checkpoint.ckpt", 4, 0, -1)] // A folder.
    [InlineData("ort/history/2681648f5b/training_api/load_checkpoint", 2, 2, -1)] // A folder with frozen parameters.
    [InlineData("examples/web_mnist/checkpoint", 4, 0, -1)]
    [InlineData("third_party/SeizureGuard/training_artifacts/checkpoint", 4, 6, -1)]
    public void OnnxRuntimesOwnAreRead(string name, int trainable, int frozen, int step)
    {
        var path = Path.Combine(Repository.Shared("ort-artifacts"), name);
        var checkpoint = OrtCheckpointFile.Read(path);
        Assert.Equal((trainable, frozen), (checkpoint.Trainable.Count, checkpoint.Frozen.Count));
        Assert.False(checkpoint.IsNominal);
        Assert.Equal(step, checkpoint.Groups.Count == 0 ? -1 : (int)checkpoint.Groups[0].Step);
        Assert.All(checkpoint.Groups, g => Assert.Equal(trainable, g.Momentums.Count));
        var copy = Path.Combine(_folder.Path, "copy");
        checkpoint.Write(copy);
        Same(checkpoint, OrtCheckpointFile.Read(copy));
    }

    [Fact]
    public void ANominalOneHasNamesAndTypes()
    {
        var path = Path.Combine(Repository.Shared("ort-artifacts"), "generated/mlp_ce_adamw/nominal_checkpoint");
        var checkpoint = OrtCheckpointFile.Read(path);
        Assert.True(checkpoint.IsNominal);
        Assert.Equal(["0.bias", "0.weight"], checkpoint.Trainable.Keys.Order(StringComparer.Ordinal).Take(2));
        Assert.All(checkpoint.Trainable.Values, t => Assert.Equal((ElementType.Float, 0), (t.Type, t.Data.Length)));
    }

    private static void Same(OrtCheckpointFile a, OrtCheckpointFile b)
    {
        Same(a.Trainable, b.Trainable);
        Same(a.Frozen, b.Frozen);
        Assert.Equal(a.Properties, b.Properties);
        Assert.Equal(
            a.Groups.Select(g => (g.Name, g.Step, g.InitialLearningRate)),
            b.Groups.Select(g => (g.Name, g.Step, g.InitialLearningRate))
        );
        foreach (var (x, y) in a.Groups.Zip(b.Groups))
        {
            Assert.Equal(x.Momentums.Keys, y.Momentums.Keys);
            Assert.All(x.Momentums.Keys, k => Same(x.Momentums[k], y.Momentums[k]));
        }
    }

    private static void Same(IReadOnlyDictionary<string, Tensor> a, IReadOnlyDictionary<string, Tensor> b)
    {
        Assert.Equal(a.Keys, b.Keys);
        foreach (var (name, x) in a)
        {
            Assert.Equal((x.Type, x.Dims.Length), (b[name].Type, b[name].Dims.Length));
            Assert.Equal(x.Dims, b[name].Dims);
            Assert.True(x.Data.Span.SequenceEqual(b[name].Data.Span), name);
        }
    }
}
