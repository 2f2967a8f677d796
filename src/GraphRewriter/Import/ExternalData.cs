using System.Globalization;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Where the data of a tensor are, if not in the model file.</summary>
/// <param name="Tensor">The tensor.</param>
/// <param name="Path">The file: in the model's folder, not behind a link.</param>
/// <param name="Offset">The first byte; may be any number.</param>
/// <param name="Length">The number of bytes that the tensor needs.</param>
internal sealed record ExternalData(TensorProto Tensor, string Path, long Offset, int Length)
{
    /// <summary>Reads where a tensor's data are.</summary>
    /// <param name="tensor">The tensor.</param>
    /// <param name="folder">The folder of the model file, which the data may not leave.</param>
    /// <exception cref="MacOnnxException">What the file says cannot be (MAC0005).</exception>
    public static ExternalData Of(TensorProto tensor, string folder)
    {
        var length = TensorFormat.LengthOf(tensor);
        var entries = tensor
            .ExternalData.GroupBy(e => e.Key, StringComparer.Ordinal)
            .ToDictionary(g => g.Key, g => g.Last().Value, StringComparer.Ordinal);
        var path = PathOf(tensor, folder, entries.GetValueOrDefault("location", ""));
        var offset = Number("offset", 0);
        if (Number("length", length) != length)
        {
            throw TensorFormat.Bad(
                tensor,
                $"says {entries["length"]} bytes where its dimensions need {length}.",
                "The file is damaged: export the model again."
            );
        }

        return length <= Array.MaxLength
            ? new(tensor, path, offset, (int)length)
            : throw TensorFormat.Bad(
                tensor,
                $"has {length} bytes, more than one tensor may have ({Array.MaxLength}).",
                "Split the tensor in the model."
            );

        long Number(string key, long fallback) =>
            !entries.TryGetValue(key, out var text) ? fallback
            : long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number
            : throw TensorFormat.Bad(
                tensor,
                $"has the external data {key} '{text}'.",
                "The file is damaged: export the model again."
            );
    }

    /// <summary>Opens the file.</summary>
    /// <exception cref="MacOnnxException">It cannot be read (MAC0005).</exception>
    public OpenFile Open()
    {
        try
        {
            return new OpenFile(Path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidDataException)
        {
            throw TensorFormat.Bad(
                Tensor,
                $"has its data in '{Path}', which cannot be read: {e.Message}",
                "Copy the data file beside the model.",
                e
            );
        }
    }

    /// <summary>Gives the data, which large tensors leave in the file until somebody asks for them.</summary>
    /// <param name="file">What <see cref="Open"/> gave.</param>
    /// <exception cref="MacOnnxException">They do not lie within the file (MAC0005).</exception>
    public ByteString In(OpenFile file) =>
        Offset <= file.Length - Length
            ? UnsafeByteOperations.UnsafeWrap(FileMemory.Of(file, Offset, Length))
            : throw TensorFormat.Bad(
                Tensor,
                $"needs bytes {Offset} to {(Int128)Offset + Length} of '{Path}', which has {file.Length}.",
                "Copy the whole data file beside the model."
            );

    /// <summary>
    /// Resolves the location of external data, which may not leave the model's folder, by a link neither.
    /// </summary>
    private static string PathOf(TensorProto tensor, string folder, string location)
    {
        if (location.Length > 0 && !location.Contains('\0') && !System.IO.Path.IsPathRooted(location))
        {
            var root = System.IO.Path.GetFullPath(folder) + System.IO.Path.DirectorySeparatorChar;
            var path = System.IO.Path.GetFullPath(System.IO.Path.Combine(root, location));
            if (path.StartsWith(root, StringComparison.Ordinal) && !HasLink(root, path))
            {
                return path;
            }
        }

        throw TensorFormat.Bad(
            tensor,
            $"has its data in '{location}', outside the model's folder or behind a link.",
            "Put the data file itself beside the model."
        );
    }

    /// <summary>Whether a file, or a folder on the way to it from <paramref name="root"/>, is a link.</summary>
    private static bool HasLink(string root, string path)
    {
        for (var part = path; part.Length > root.Length; part = System.IO.Path.GetDirectoryName(part)!)
        {
            if (new FileInfo(part).LinkTarget is not null)
            {
                return true;
            }
        }

        return false;
    }
}
