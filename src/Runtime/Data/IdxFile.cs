using System.Buffers.Binary;
using System.IO.Compression;
using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>
/// Reads the IDX files that MNIST and its relatives ship as, plain or gzipped: one array, big endian.
/// </summary>
public static class IdxFile
{
    /// <summary>
    /// Reads an array of at most 2 GB. Whether the file is gzipped is seen from its first bytes, not its name.
    /// </summary>
    /// <param name="path">The file.</param>
    /// <exception cref="MacOnnxException">The file cannot be read (MAC0402) or is not an IDX file
    /// (MAC0403).</exception>
    public static Tensor Read(string path) =>
        InputFile.Read(
            path,
            "IDX file",
            stream =>
            {
                var zipped = stream.ReadByte() == 0x1F && stream.ReadByte() == 0x8B;
                stream.Position = 0;
                if (!zipped)
                {
                    return Read(stream, stream.Length);
                }

                using var inflated = new GZipStream(stream, CompressionMode.Decompress);
                return Read(inflated, MostInflated(stream.Length));
            }
        );

    /// <summary>
    /// Gives the most bytes that deflated data can grow to: a match of 258 bytes takes at least 2 bits. Bounds what is
    /// allocated for a declared size.
    /// </summary>
    internal static long MostInflated(long compressed) => (Math.Min(compressed, long.MaxValue / 2048) * 1032) + 1024;

    /// <summary>Turns big-endian elements into little-endian ones, in place.</summary>
    internal static void ReverseBytes(Span<byte> data, int elementSize)
    {
        switch (elementSize)
        {
            case 2:
                var shorts = MemoryMarshal.Cast<byte, short>(data);
                BinaryPrimitives.ReverseEndianness(shorts, shorts);
                break;
            case 4:
                var ints = MemoryMarshal.Cast<byte, int>(data);
                BinaryPrimitives.ReverseEndianness(ints, ints);
                break;
            case 8:
                var longs = MemoryMarshal.Cast<byte, long>(data);
                BinaryPrimitives.ReverseEndianness(longs, longs);
                break;
        }
    }

    private static Tensor Read(Stream stream, long length)
    {
        Span<byte> start = stackalloc byte[4];
        stream.ReadExactly(start);
        var type = start[2] switch
        {
            0x08 => ElementType.UInt8,
            0x09 => ElementType.Int8,
            0x0B => ElementType.Int16,
            0x0C => ElementType.Int32,
            0x0D => ElementType.Float,
            0x0E => ElementType.Double,
            _ => ElementType.Undefined,
        };
        if (start[0] != 0 || start[1] != 0 || type == ElementType.Undefined)
        {
            throw new InvalidDataException("it does not begin like an IDX file");
        }

        var sizes = new byte[4 * start[3]];
        stream.ReadExactly(sizes);
        var dims = new long[start[3]];
        for (var i = 0; i < dims.Length; i++)
        {
            dims[i] = BinaryPrimitives.ReadUInt32BigEndian(sizes.AsSpan(4 * i));
        }

        var data = InputFile.ReadElements(stream, dims, type.Size(), length - 4 - sizes.Length);
        if (stream.ReadByte() >= 0)
        {
            throw new InvalidDataException($"more bytes follow than its shape [{string.Join(',', dims)}] needs");
        }

        ReverseBytes(data, type.Size());
        return new Tensor(type, [.. dims], data);
    }
}
