using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>Reads one stream of token ids; <see cref="Dataset.FromTokens"/> cuts it into samples.</summary>
public static class TokenFile
{
    /// <summary>Whether a path's extension is that of a token file: <c>.npy</c>, <c>.bin</c> or <c>.txt</c>.</summary>
    /// <param name="path">The path; nothing need be there.</param>
    public static bool IsTokenFile(string path) =>
        Path.GetExtension(path).ToUpperInvariant() is ".NPY" or ".BIN" or ".TXT" && !Directory.Exists(path);

    /// <summary>Reads the ids of a file of at most 2 GB.</summary>
    /// <remarks><b>.npy</b>: one axis of integers. <b>.bin</b>: 16-bit unsigned integers, little endian, and nothing
    /// else. <b>.txt</b>: any
    /// text; its bytes (of UTF-8) are the ids, 0 to 255, so that no vocabulary is needed.</remarks>
    /// <param name="path">The file; one of another extension is read as text.</param>
    /// <returns>The ids [count], of the file's integer type.</returns>
    /// <exception cref="GraphRewriter.Diagnostics.MacOnnxException">The file cannot be read (MAC0402) or is damaged
    /// (MAC0403).</exception>
    public static Tensor Read(string path) =>
        Path.GetExtension(path).ToUpperInvariant() switch
        {
            ".NPY" => NpyFile.Read(path),
            ".BIN" => InputFile.Read(path, "file of 16-bit token ids", stream => Read(stream, ElementType.UInt16)),
            _ => InputFile.Read(path, "text file", stream => Read(stream, ElementType.UInt8)),
        };

    private static Tensor Read(FileStream stream, ElementType type)
    {
        var (count, rest) = Math.DivRem(stream.Length, type.Size());
        return rest == 0
            ? new Tensor(type, [count], InputFile.ReadElements(stream, [count], type.Size(), stream.Length))
            : throw new InvalidDataException($"its {stream.Length} bytes are not a whole number of ids");
    }
}
