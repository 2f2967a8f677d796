using CsCheck;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;
using MacOnnx.Runtime.Tests.Training;

namespace MacOnnx.Runtime.Tests.Data;

/// <summary>
/// The readers of small formats, whatever the file: what was written is read again, and what is damaged is read or
/// refused in a line. A failure is shrunk to the fewest edits and comes with its seed.
/// </summary>
public sealed class ReaderTests : IDisposable
{
    private static readonly byte[] Interesting =
    [
        0,
        1,
        2,
        0x7F,
        0x80,
        0xFF,
        (byte)'-',
        (byte)'9',
        (byte)'"',
        (byte)']',
    ];

    /// <summary>An edit of a file: where, what and which kind; most are where headers are.</summary>
    private static readonly Gen<(int Place, byte Value, int Kind)[]> Edits = Gen.Select(
        Gen.Frequency((3, Gen.Int[0, 200]), (1, Gen.Int[0, 1 << 16])),
        Gen.OneOf(Gen.Byte, Gen.OneOf(Interesting)),
        Gen.Int[0, 3]
    ).Array[1, 5];

    private static readonly Gen<Tensor> Tensors = Gen.SelectMany(
        Gen.OneOf(
            ElementType.Bool,
            ElementType.UInt8,
            ElementType.Int16,
            ElementType.UInt32,
            ElementType.Int64,
            ElementType.Float16,
            ElementType.Float,
            ElementType.Double
        ),
        Gen.Long[0, 4].Array[0, 4],
        (type, dims) =>
            Gen.Byte.Array[(int)Tensor.CountOf(dims) * type.Size()].Select(bytes => new Tensor(type, [.. dims], bytes))
    );

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void NumpyArraysAreReadAsWritten() =>
        Check(
            Tensors,
            tensor =>
            {
                NpyFile.Write(_folder.File("a.npy"), tensor);
                return Same(tensor, NpyFile.Read(_folder.File("a.npy")));
            },
            50
        );

    [Fact]
    public void TensorsByNameAreReadAsWritten() =>
        Check(
            Gen.Dictionary(Gen.String[Gen.Char['!', '~'], 1, 8], Tensors)[0, 4],
            tensors =>
            {
                Safetensors.Write(_folder.File("a.safetensors"), tensors);
                NpzFile.Write(
                    _folder.File("a.npz"),
                    tensors.Where(t => !t.Key.Contains('/', StringComparison.Ordinal))
                );
                var named = Safetensors.Read(_folder.File("a.safetensors")).Tensors;
                var zipped = NpzFile.Read(_folder.File("a.npz"));
                return named.Count == tensors.Count
                    && tensors.All(t => Same(t.Value, named[t.Key]))
                    && zipped.All(t => Same(t.Value, tensors[t.Key]));
            },
            30
        );

    [Theory]
    [InlineData("a.npy")]
    [InlineData("a.npz")]
    [InlineData("deflated.npz")]
    [InlineData("a.idx")]
    [InlineData("a.safetensors")]
    [InlineData("tokens.npy")]
    [InlineData("tokens.bin")]
    [InlineData("manifest.json")]
    public void DamagedFilesAreReadOrRefused(string file)
    {
        var (good, path) = (Good(file), _folder.File(file));
        Check(
            Edits,
            edits =>
            {
                File.WriteAllBytes(path, Damaged(good, edits));
                try
                {
                    return Read(path).All(t => t.Data.Length == t.ElementCount * t.Type.Size());
                }
                catch (MacOnnxException e)
                {
                    return e.Diagnostic.Id is "MAC0402" or "MAC0403" or "MAC0404" or "MAC0405"
                        && !e.Message.Any(char.IsControl);
                }
            },
            300
        );
    }

    /// <summary>One thread, since all cases of a test share their file.</summary>
    private static void Check<T>(Gen<T> cases, Func<T, bool> holds, long count) =>
        cases.Sample(holds, iter: count, threads: 1);

    private static bool Same(Tensor a, Tensor b) =>
        a.Type == b.Type && a.Dims.SequenceEqual(b.Dims) && a.Data.Span.SequenceEqual(b.Data.Span);

    private static byte[] Damaged(byte[] good, (int Place, byte Value, int Kind)[] edits)
    {
        var bytes = good.ToList();
        foreach (var (place, value, kind) in edits.Where(_ => bytes.Count > 0))
        {
            var at = place % bytes.Count;
            switch (kind)
            {
                case 0:
                    bytes[at] = value;
                    break;
                case 1:
                    bytes.Insert(at, value);
                    break;
                case 2:
                    bytes.RemoveRange(at, Math.Min(value, bytes.Count - at));
                    break;
                default:
                    bytes.InsertRange(at, bytes.GetRange(at, Math.Min(value, bytes.Count - at)));
                    break;
            }
        }

        return [.. bytes];
    }

    private static IEnumerable<Tensor> Read(string path)
    {
        switch (Path.GetFileName(path))
        {
            case "manifest.json":
                Manifest.Read(path);
                return [];
            case "a.safetensors":
                return Safetensors.Read(path).Tensors.Values;
            case "a.idx":
                return [IdxFile.Read(path)];
            case "a.npy":
                return [NpyFile.Read(path)];
            case var name when name.StartsWith("tokens", StringComparison.Ordinal):
                return [TokenFile.Read(path)];
            default:
                return NpzFile.Read(path).Values;
        }
    }

    /// <summary>Makes a sound file.</summary>
    private byte[] Good(string file)
    {
        var path = _folder.File(file);
        var a = Tensor.From<float>([2, 3], [1, -2, 3, 4, 5, float.NaN]);
        KeyValuePair<string, Tensor>[] both = [new("a", a), new("ids", Tensor.From<long>([3], [1, 2, 3]))];
        switch (file)
        {
            case "a.npy":
                NpyFile.Write(path, a);
                break;
            case "tokens.npy":
                NpyFile.Write(path, both[1].Value);
                break;
            case "a.npz" or "deflated.npz":
                NpzFile.Write(path, both, compress: file != "a.npz");
                break;
            case "a.safetensors":
                Safetensors.Write(path, both, new Dictionary<string, string> { ["text"] = "x" });
                break;
            case "manifest.json":
                Digits.Package.Save(_folder.File("p.mac"));
                File.Copy(_folder.File("p.mac/manifest.json"), path);
                break;
            case "a.idx":
                _folder.File(file, [0, 0, 0x0B, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
                break;
            default:
                _folder.File(file, [1, 0, 2, 0, 3, 1]);
                break;
        }

        return File.ReadAllBytes(path);
    }
}
