using System.Diagnostics;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>
/// A damaged model is refused with a diagnostic, or trains if the damage does not matter; nothing else happens.
/// </summary>
public sealed class DamagedModelTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void ChangedBytesEndInADiagnosticOrInSuccess()
    {
        var original = File.ReadAllBytes(Repository.Models("digits-cnn.onnx"));
        Try(500, random => Mutate(original, random));
    }

    /// <summary>
    /// Files that are well formed get further: these have other operators, attributes, types, shapes, names and edges.
    /// </summary>
    [Fact]
    public void ChangedFieldsEndInADiagnosticOrInSuccess()
    {
        var original = ModelReader.Read(Repository.Models("digits-cnn.onnx"));
        Try(
            300,
            random =>
            {
                var model = original.Clone();
                for (var n = random.Next(1, 3); n > 0; n--)
                {
                    Mutate(model, random);
                }

                return model.ToByteArray();
            }
        );
    }

    /// <summary>Rewrites mutations. MACONNX_FUZZ sets how many, from another seed.</summary>
    private void Try(int count, Func<Random, byte[]> mutate)
    {
        var more = int.TryParse(Environment.GetEnvironmentVariable("MACONNX_FUZZ"), out var given);
        var random = new Random(more ? Environment.TickCount : 1);
        var outcomes = new Dictionary<string, int>(StringComparer.Ordinal);
        for (var i = 0; i < (more ? given : count); i++)
        {
            var bytes = mutate(random);
            var path = _folder.File("m.onnx", bytes);
            var clock = Stopwatch.StartNew();
            try
            {
                Rewriter.Rewrite(path);
                outcomes["success"] = outcomes.GetValueOrDefault("success") + 1;
            }
            catch (MacOnnxException e) when (e.Diagnostic.Id != "MAC0504")
            {
                Assert.DoesNotContain('\n', e.Message);
                outcomes[e.Diagnostic.Id] = outcomes.GetValueOrDefault(e.Diagnostic.Id) + 1;
            }
            catch (Exception e)
            {
                var kept = Path.Combine(Path.GetTempPath(), $"maconnx-fuzz-{i}.onnx");
                File.WriteAllBytes(kept, bytes);
                Assert.Fail($"Mutation {i}, kept in {kept}: {e}");
            }

            Assert.True(clock.Elapsed < TimeSpan.FromSeconds(20), $"Mutation {i} takes {clock.Elapsed}.");
        }

        TestContext.Current.SendDiagnosticMessage(
            string.Join(", ", outcomes.OrderByDescending(o => o.Value).Select(o => $"{o.Key} {o.Value}"))
        );
        Assert.True(outcomes["success"] > 3, "Some mutations do no harm.");
        Assert.True(outcomes.Count > 4, "Mutations do different harm.");
    }

    /// <summary>Changes a field of a model.</summary>
    internal static void Mutate(ModelProto model, Random random)
    {
        var node = Any(model.Graph.Node);
        var attribute = node.Attribute.Count > 0 ? Any(node.Attribute) : new AttributeProto();
        var tensor = Any(model.Graph.Initializer);
        var info = Any(random.Next(2) == 0 ? model.Graph.Input : model.Graph.Output);
        string[] names = [.. model.Graph.Node.SelectMany(n => n.Input.Concat(n.Output)).Append("").Append("unknown")];
        string[] ops =
        [
            "Relu",
            "Add",
            "MatMul",
            "Gemm",
            "Reshape",
            "Transpose",
            "Softmax",
            "MaxPool",
            "Split",
            "Gather",
            "ConstantOfShape",
            "Expand",
            "Loop",
            "If",
            "Constant",
            "LSTM",
            "Einsum",
            "Resize",
            "Squeeze",
            "ReduceMean",
            "Foo",
        ];
        long[] numbers = [0, 1, -1, 2, 3, 7, 64, 1 << 20, int.MaxValue, 1L << 40, long.MaxValue, long.MinValue];
        switch (random.Next(17))
        {
            case 0:
                node.OpType = Any(ops);
                break;
            case 1:
                node.Domain = Any(["ai.onnx", "com.microsoft", "other"]);
                break;
            case 2 when node.Input.Count > 0:
                node.Input[random.Next(node.Input.Count)] = Any(names);
                break;
            case 3:
                node.Input.Add(Any(names));
                break;
            case 4 when node.Input.Count > 0:
                node.Input.RemoveAt(random.Next(node.Input.Count));
                break;
            case 5 when node.Output.Count > 0:
                node.Output[random.Next(node.Output.Count)] = Any(names);
                break;
            case 6:
                node.Output.Add(Any(names));
                break;
            case 7:
                attribute.I = Any(numbers);
                attribute.F = Any(numbers);
                break;
            case 8:
                attribute.Ints.Add(Any(numbers));
                break;
            case 9 when attribute.Ints.Count > 0:
                attribute.Ints[random.Next(attribute.Ints.Count)] = Any(numbers);
                break;
            case 10:
                attribute.Type = (AttributeProto.Types.AttributeType)random.Next(15);
                break;
            case 11:
                attribute.Name = Any(["axis", "value", "group", "kernel_shape", "training_mode", "auto_pad"]);
                break;
            case 12 when tensor.Dims.Count > 0:
                tensor.Dims[random.Next(tensor.Dims.Count)] = Any(numbers);
                break;
            case 13:
                tensor.Dims.Add(Any(numbers));
                break;
            case 14:
                tensor.DataType = random.Next(25);
                break;
            case 15 when info.Type?.TensorType?.Shape is { Dim.Count: > 0 } shape:
                Any(shape.Dim).DimValue = Any(numbers);
                break;
            default:
                info.Type =
                    random.Next(3) == 0 ? null : new TypeProto { TensorType = new() { ElemType = random.Next(25) } };
                break;
        }

        T Any<T>(IList<T> list) => list[random.Next(list.Count)];
    }

    private static byte[] Mutate(byte[] original, Random random)
    {
        var bytes = original.ToList();
        for (var n = random.Next(1, 4); n > 0; n--)
        {
            var at = Place(bytes, random);
            switch (random.Next(6))
            {
                case 0:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 1:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 2:
                    bytes.RemoveAt(at);
                    break;
                case 3:
                    bytes.Insert(at, (byte)random.Next(256));
                    break;
                case 4:
                    bytes[at] = random.Next(2) == 0 ? (byte)255 : (byte)0;
                    break;
                default:
                    var length = Math.Min(random.Next(1, 40), bytes.Count - at);
                    bytes.InsertRange(Place(bytes, random), bytes.GetRange(at, length));
                    break;
            }
        }

        return [.. random.Next(20) == 0 ? bytes.Take(random.Next(bytes.Count)) : bytes];
    }

    /// <summary>Chooses a place, near text, where the file's structure is: nearly all of it is weights.</summary>
    private static int Place(List<byte> bytes, Random random)
    {
        var at = random.Next(bytes.Count);
        for (var tries = 0; tries < 2000 && !IsText(bytes, at); tries++)
        {
            at = random.Next(bytes.Count);
        }

        return Math.Max(0, at - random.Next(12));
    }

    private static bool IsText(List<byte> bytes, int at) =>
        at + 4 <= bytes.Count
        && bytes
            .GetRange(at, 4)
            .All(b => char.IsAsciiLetterOrDigit((char)b) || b is (byte)'.' or (byte)'_' or (byte)'/');
}
