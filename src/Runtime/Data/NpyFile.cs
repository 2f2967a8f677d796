using System.Buffers.Binary;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>Reads and writes NumPy's <c>.npy</c> files: one array of booleans, integers or floats.</summary>
public static partial class NpyFile
{
    private const int MaxHeader = 1 << 16;

    private static ReadOnlySpan<byte> Magic => [0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y'];

    /// <summary>Reads an array: format versions 1 to 3, either byte order, C or Fortran order; at most 2 GB.</summary>
    /// <param name="path">The file.</param>
    /// <returns>The array, row major.</returns>
    /// <exception cref="MacOnnxException">The file cannot be read (MAC0402) or is not an npy file
    /// (MAC0403).</exception>
    public static Tensor Read(string path) => InputFile.Read(path, "npy file", stream => Read(stream, stream.Length));

    /// <summary>Writes an array, complete or not at all.</summary>
    /// <param name="path">The file.</param>
    /// <param name="tensor">The array: bool, an integer type, float16, float or double.</param>
    /// <exception cref="ArgumentException">NumPy has no such type.</exception>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public static void Write(string path, Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        var header = Header(tensor);
        AtomicFile.Write(path, stream => Write(stream, header, tensor));
    }

    /// <summary>Reads an array out of a stream that holds nothing else.</summary>
    /// <param name="stream">The stream, at the array's begin.</param>
    /// <param name="length">The most bytes the stream can hold.</param>
    /// <exception cref="InvalidDataException">Not an array of numbers.</exception>
    internal static Tensor Read(Stream stream, long length)
    {
        Span<byte> start = stackalloc byte[8];
        stream.ReadExactly(start);
        if (!start[..6].SequenceEqual(Magic) || start[6] is 0 or > 3)
        {
            throw new InvalidDataException("it does not begin like an npy file of version 1, 2 or 3");
        }

        var lengthBytes = start[..(start[6] == 1 ? 2 : 4)];
        stream.ReadExactly(lengthBytes);
        var headerLength =
            lengthBytes.Length == 2
                ? BinaryPrimitives.ReadUInt16LittleEndian(lengthBytes)
                : BinaryPrimitives.ReadUInt32LittleEndian(lengthBytes);
        if (headerLength > MaxHeader)
        {
            throw new InvalidDataException($"its header cannot have {headerLength} bytes");
        }

        var header = new byte[headerLength];
        stream.ReadExactly(header);
        var (type, bigEndian, fortran, dims) = Parse(Encoding.UTF8.GetString(header));
        var data = InputFile.ReadElements(stream, dims, type.Size(), length - 8 - lengthBytes.Length - headerLength);
        if (stream.ReadByte() >= 0)
        {
            throw new InvalidDataException($"more bytes follow than its shape [{string.Join(',', dims)}] needs");
        }

        if (bigEndian)
        {
            IdxFile.ReverseBytes(data, type.Size());
        }

        if (fortran)
        {
            data = type.Size() switch
            {
                1 => RowMajor<byte>(data, dims),
                2 => RowMajor<ushort>(data, dims),
                4 => RowMajor<uint>(data, dims),
                _ => RowMajor<ulong>(data, dims),
            };
        }

        return new Tensor(type, [.. dims], data);
    }

    /// <summary>Writes header and elements.</summary>
    internal static void Write(Stream stream, byte[] header, Tensor tensor)
    {
        stream.Write(header);
        stream.Write(tensor.Data.Span);
    }

    /// <summary>Gives everything before the elements, a multiple of 64 bytes.</summary>
    internal static byte[] Header(Tensor tensor)
    {
        var size = tensor.Type.Size();
        var type = tensor.Type switch
        {
            ElementType.Bool => "|b1",
            ElementType.UInt8 => "|u1",
            ElementType.Int8 => "|i1",
            ElementType.UInt16 or ElementType.UInt32 or ElementType.UInt64 => $"<u{size}",
            ElementType.Int16 or ElementType.Int32 or ElementType.Int64 => $"<i{size}",
            ElementType.Float16 or ElementType.Float or ElementType.Double => $"<f{size}",
            _ => throw new ArgumentException($"NumPy has no type for {tensor}.", nameof(tensor)),
        };
        var dims = string.Concat(tensor.Dims.Select(d => $"{d}, "));
        var text =
            $"{{'descr': '{type}', 'fortran_order': False, 'shape': "
            + $"({(tensor.Dims.Length > 1 ? dims.TrimEnd(' ', ',') : dims.TrimEnd())}), }}";
        var length = (10 + text.Length + 1 + 63) / 64 * 64;
        var header = new byte[length];
        Magic.CopyTo(header);
        header[6] = 1;
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(8), checked((ushort)(length - 10)));
        Encoding.ASCII.GetBytes(text.PadRight(length - 11) + "\n", header.AsSpan(10));
        return header;
    }

    private static (ElementType Type, bool BigEndian, bool Fortran, long[] Dims) Parse(string header)
    {
        var descr = DescrEntry().Match(header);
        var fortran = FortranEntry().Match(header);
        var shape = ShapeEntry().Match(header);
        if (!descr.Success || !fortran.Success || !shape.Success)
        {
            throw new InvalidDataException("its header does not name one type, order and shape");
        }

        var text = descr.Groups[1].Value;
        var type = text.TrimStart('<', '>', '|', '=') switch
        {
            "b1" => ElementType.Bool,
            "u1" => ElementType.UInt8,
            "u2" => ElementType.UInt16,
            "u4" => ElementType.UInt32,
            "u8" => ElementType.UInt64,
            "i1" => ElementType.Int8,
            "i2" => ElementType.Int16,
            "i4" => ElementType.Int32,
            "i8" => ElementType.Int64,
            "f2" => ElementType.Float16,
            "f4" => ElementType.Float,
            "f8" => ElementType.Double,
            ['O', ..] => throw new InvalidDataException("it holds Python objects instead of numbers"),
            _ => throw new InvalidDataException(
                $"its elements are '{text}', not booleans, integers or floats of up to 64 bits"
            ),
        };
        var dims = new List<long>();
        foreach (
            var part in shape
                .Groups[1]
                .Value.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)
        )
        {
            dims.Add(
                long.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out var dim)
                    ? dim
                    : throw new InvalidDataException($"its shape has the size '{part}'")
            );
        }

        return (type, text[0] == '>', fortran.Groups[1].Value == "True", [.. dims]);
    }

    private static byte[] RowMajor<T>(byte[] columnMajor, long[] dims)
        where T : unmanaged
    {
        var result = new byte[columnMajor.Length];
        var from = MemoryMarshal.Cast<byte, T>(columnMajor.AsSpan());
        var to = MemoryMarshal.Cast<byte, T>(result.AsSpan());
        var strides = new long[dims.Length];
        var stride = 1L;
        for (var axis = 0; axis < dims.Length; axis++)
        {
            strides[axis] = stride;
            stride *= dims[axis];
        }

        // Walks the row-major positions; offset is the same element's position in the file.
        var index = new long[dims.Length];
        var offset = 0L;
        for (var i = 0; i < to.Length; i++)
        {
            to[i] = from[(int)offset];
            for (var axis = dims.Length - 1; axis >= 0; axis--)
            {
                offset += strides[axis];
                if (++index[axis] < dims[axis])
                {
                    break;
                }

                offset -= strides[axis] * dims[axis];
                index[axis] = 0;
            }
        }

        return result;
    }

    [GeneratedRegex("""['"]descr['"]\s*:\s*['"]([^'"]+)['"]""")]
    private static partial Regex DescrEntry();

    [GeneratedRegex("""['"]fortran_order['"]\s*:\s*(True|False)""")]
    private static partial Regex FortranEntry();

    [GeneratedRegex("""['"]shape['"]\s*:\s*\(([^)]*)\)""")]
    private static partial Regex ShapeEntry();
}
