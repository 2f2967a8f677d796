using System.IO.Compression;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>Reads and writes NumPy's <c>.npz</c> files: a zip of <c>.npy</c> files, one for each named array.</summary>
public static class NpzFile
{
    private const string Extension = ".npy";

    /// <summary>Gives the names of the arrays, in the file's order.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="MacOnnxException">The file cannot be read (MAC0402) or is not an npz file
    /// (MAC0403).</exception>
    public static IReadOnlyList<string> Names(string path) => Open(path, zip => Arrays(zip).Keys.ToArray());

    /// <summary>Reads arrays, stored or deflated, each of at most 2 GB.</summary>
    /// <param name="path">The file.</param>
    /// <param name="names">The arrays wanted, of which only those in the file are read; null for all.</param>
    /// <returns>The arrays by name, in the file's order.</returns>
    /// <exception cref="MacOnnxException">The file cannot be read (MAC0402) or is not an npz file
    /// (MAC0403).</exception>
    public static IReadOnlyDictionary<string, Tensor> Read(string path, IReadOnlyCollection<string>? names = null) =>
        Open(
            path,
            zip =>
            {
                var tensors = new OrderedDictionary<string, Tensor>(StringComparer.Ordinal);
                foreach (var (name, entry) in Arrays(zip))
                {
                    if (names is null || names.Contains(name))
                    {
                        tensors.Add(name, Read(name, entry));
                    }
                }

                return tensors;
            }
        );

    /// <summary>Writes arrays, complete or not at all; the same arrays give the same bytes.</summary>
    /// <param name="path">The file.</param>
    /// <param name="arrays">The arrays; see <see cref="NpyFile.Write(string, Tensor)"/> for the types.</param>
    /// <param name="compress">Whether to deflate them.</param>
    /// <exception cref="ArgumentException">NumPy has no such type.</exception>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public static void Write(string path, IEnumerable<KeyValuePair<string, Tensor>> arrays, bool compress = false)
    {
        var list = arrays.Select(a => (a.Key, Header: NpyFile.Header(a.Value), a.Value)).ToList();
        AtomicFile.Write(
            path,
            stream =>
            {
                using var zip = new ZipArchive(stream, ZipArchiveMode.Create, leaveOpen: true);
                foreach (var (name, header, tensor) in list)
                {
                    var entry = zip.CreateEntry(
                        name + Extension,
                        compress ? CompressionLevel.Optimal : CompressionLevel.NoCompression
                    );
                    entry.LastWriteTime = new DateTimeOffset(1980, 1, 1, 0, 0, 0, TimeSpan.Zero);
                    using var content = entry.Open();
                    NpyFile.Write(content, header, tensor);
                }
            }
        );
    }

    private static T Open<T>(string path, Func<ZipArchive, T> read) =>
        InputFile.Read(
            path,
            "npz file",
            stream =>
            {
                using var zip = new ZipArchive(stream, ZipArchiveMode.Read);
                return read(zip);
            }
        );

    private static OrderedDictionary<string, ZipArchiveEntry> Arrays(ZipArchive zip)
    {
        var entries = new OrderedDictionary<string, ZipArchiveEntry>(StringComparer.Ordinal);
        foreach (var entry in zip.Entries.Where(e => e.FullName.EndsWith(Extension, StringComparison.Ordinal)))
        {
            if (!entries.TryAdd(entry.FullName[..^Extension.Length], entry))
            {
                throw new InvalidDataException($"it holds '{entry.FullName}' twice");
            }
        }

        return entries;
    }

    private static Tensor Read(string name, ZipArchiveEntry entry)
    {
        try
        {
            using var content = entry.Open();
            return NpyFile.Read(content, Math.Min(entry.Length, IdxFile.MostInflated(entry.CompressedLength)));
        }
        catch (Exception e) when (e is InvalidDataException or EndOfStreamException)
        {
            throw new InvalidDataException($"array '{name}': {InputFile.Reason(e)}", e);
        }
    }
}
