using System.Globalization;
using System.Runtime.InteropServices;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Reads and writes <c>TensorProto</c>: raw bytes, typed fields, and data in a file beside the model.
/// </summary>
internal static class TensorFormat
{
    /// <summary>Reads a tensor.</summary>
    /// <param name="proto">The tensor; strings and 4-bit types are refused.</param>
    /// <param name="folder">The folder of the model file, where external data may be; null where there is none.</param>
    public static Tensor FromProto(TensorProto proto, string? folder)
    {
        var type = (ElementType)proto.DataType;
        if (type.Size() == 0)
        {
            throw Bad(
                proto,
                $"holds {type}, which is not supported.",
                type is ElementType.Int4 or ElementType.UInt4
                    ? "If it holds weights, RewriteOptions.Dequantize makes float ones of them."
                    : "Leave this tensor out of the model."
            );
        }

        if (proto.Dims.Any(d => d < 0))
        {
            throw Bad(proto, "has a negative dimension.", "The file is damaged: export the model again.");
        }

        long length;
        try
        {
            length = checked(Tensor.CountOf(proto.Dims.ToArray()) * type.Size());
        }
        catch (OverflowException e)
        {
            throw Bad(
                proto,
                $"has impossible dimensions [{string.Join(',', proto.Dims)}].",
                "The file is damaged: export the model again.",
                e
            );
        }

        var data =
            proto.DataLocation == TensorProto.Types.DataLocation.External ? ReadExternal(proto, folder, length)
            : proto.HasRawData ? proto.RawData.Memory
            : TypedField(proto, type);
        if (data.Length != length)
        {
            throw Bad(
                proto,
                $"has {data.Length} bytes where {type}[{string.Join(',', proto.Dims)}] needs {length}.",
                "The file is damaged: export the model again."
            );
        }

        return new Tensor(type, [.. proto.Dims], data);
    }

    public static TensorProto ToProto(Tensor tensor, string? name)
    {
        var proto = new TensorProto
        {
            DataType = (int)tensor.Type,
            RawData = UnsafeByteOperations.UnsafeWrap(tensor.Data),
        };
        proto.Dims.AddRange(tensor.Dims);
        if (name is not null)
        {
            proto.Name = name;
        }

        return proto;
    }

    private static ReadOnlyMemory<byte> TypedField(TensorProto proto, ElementType type) =>
        type switch
        {
            ElementType.Float or ElementType.Complex64 => Bytes<float>([.. proto.FloatData]),
            ElementType.Double or ElementType.Complex128 => Bytes<double>([.. proto.DoubleData]),
            ElementType.Int64 => Bytes<long>([.. proto.Int64Data]),
            ElementType.UInt64 => Bytes<ulong>([.. proto.Uint64Data]),
            ElementType.UInt32 => Bytes<uint>([.. proto.Uint64Data.Select(v => (uint)v)]),
            ElementType.Int32 => Bytes<int>([.. proto.Int32Data]),
            _ when type.Size() == 2 => Bytes<ushort>([.. proto.Int32Data.Select(v => (ushort)v)]),
            _ => Bytes<byte>([.. proto.Int32Data.Select(v => (byte)v)]),
        };

    private static byte[] Bytes<T>(T[] values)
        where T : unmanaged => MemoryMarshal.AsBytes(values.AsSpan()).ToArray();

    private static byte[] ReadExternal(TensorProto proto, string? folder, long length)
    {
        var entries = proto
            .ExternalData.GroupBy(e => e.Key, StringComparer.Ordinal)
            .ToDictionary(g => g.Key, g => g.Last().Value, StringComparer.Ordinal);
        var path = ExternalPath(proto, folder, entries.GetValueOrDefault("location", ""));
        var offset = Number("offset", 0);
        if (Number("length", length) != length)
        {
            throw Bad(
                proto,
                $"says {entries["length"]} bytes where its dimensions need {length}.",
                "The file is damaged: export the model again."
            );
        }

        if (length > Array.MaxLength)
        {
            throw Bad(
                proto,
                $"has {length} bytes, more than one tensor may have ({Array.MaxLength}).",
                "Split the tensor in the model."
            );
        }

        try
        {
            InputFile.RequireContent(path);
            using var file = File.OpenHandle(path);
            if (offset < 0 || offset > RandomAccess.GetLength(file) - length)
            {
                throw Bad(
                    proto,
                    $"needs bytes {offset} to {offset + length} of '{path}', which has {RandomAccess.GetLength(file)}.",
                    "Copy the whole data file beside the model."
                );
            }

            var data = new byte[length];
            var done = 0;
            while (done < data.Length)
            {
                var read = RandomAccess.Read(file, data.AsSpan(done), offset + done);
                done += read > 0 ? read : throw new EndOfStreamException();
            }

            return data;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidDataException)
        {
            throw Bad(
                proto,
                $"has its data in '{path}', which cannot be read: {e.Message}",
                "Copy the data file beside the model.",
                e
            );
        }

        long Number(string key, long fallback) =>
            !entries.TryGetValue(key, out var text) ? fallback
            : long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number
            : throw Bad(
                proto,
                $"has the external data {key} '{text}'.",
                "The file is damaged: export the model again."
            );
    }

    /// <summary>
    /// Resolves the location of external data, which may not leave the model's folder, by a link neither.
    /// </summary>
    private static string ExternalPath(TensorProto proto, string? folder, string location)
    {
        if (folder is not null && location.Length > 0 && !location.Contains('\0') && !Path.IsPathRooted(location))
        {
            var root = Path.GetFullPath(folder) + Path.DirectorySeparatorChar;
            var path = Path.GetFullPath(Path.Combine(root, location));
            if (path.StartsWith(root, StringComparison.Ordinal) && !HasLink(root, path))
            {
                return path;
            }
        }

        throw Bad(
            proto,
            $"has its data in '{location}', outside the model's folder or behind a link.",
            "Put the data file itself beside the model."
        );
    }

    /// <summary>Whether a file, or a folder on the way to it from <paramref name="root"/>, is a link.</summary>
    private static bool HasLink(string root, string path)
    {
        for (var part = path; part.Length > root.Length; part = Path.GetDirectoryName(part)!)
        {
            if (new FileInfo(part).LinkTarget is not null)
            {
                return true;
            }
        }

        return false;
    }

    private static MacOnnxException Bad(TensorProto proto, string what, string hint, Exception? inner = null) =>
        new("MAC0005", $"tensor '{proto.Name}'", $"It {what}", hint, inner);
}
