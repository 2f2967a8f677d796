using System.Collections.Immutable;
using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>A constant tensor: type, dimensions and its elements as little-endian bytes, row major.</summary>
public sealed class Tensor
{
    /// <summary>Initializes a new instance of the <see cref="Tensor"/> class.</summary>
    /// <param name="type">The element type.</param>
    /// <param name="dims">The dimensions, each 0 or more; empty for a scalar.</param>
    /// <param name="data">The elements; not copied. Exactly as long as type and dimensions say.</param>
    /// <exception cref="ArgumentException">The length does not fit the dimensions.</exception>
    public Tensor(ElementType type, ImmutableArray<long> dims, ReadOnlyMemory<byte> data)
    {
        Type = type;
        Dims = dims;
        Data = data;
        if (type.Size() is var size and > 0 && data.Length != checked(ElementCount * size))
        {
            throw new ArgumentException($"{data.Length} bytes for {type}[{string.Join(',', dims)}].", nameof(data));
        }
    }

    /// <summary>Initializes a new instance of the <see cref="Tensor"/> class whose data may be elsewhere.</summary>
    internal Tensor(ElementType type, ImmutableArray<long> dims, ReadOnlyMemory<byte> data, bool isElsewhere)
        : this(type, isElsewhere ? [0] : dims, data) => Dims = dims;

    /// <summary>Gets the element type.</summary>
    public ElementType Type { get; }

    /// <summary>Gets the dimensions.</summary>
    public ImmutableArray<long> Dims { get; }

    /// <summary>Gets the elements as little-endian bytes, row major.</summary>
    /// <remarks>Those of a large tensor from a file stay there. Asking for their span reads them, and throws
    /// <see cref="MacOnnxException"/> (MAC0402) where the file was written meanwhile; what was read is forgotten when
    /// nobody uses it.</remarks>
    public ReadOnlyMemory<byte> Data { get; }

    /// <summary>Gets the number of elements, 1 for a scalar.</summary>
    public long ElementCount => CountOf(Dims.AsSpan());

    /// <summary>Gets whether all elements are the same bits.</summary>
    internal bool IsUniform
    {
        get
        {
            ReadOnlySpan<byte> first = default;
            foreach (var part in Parts())
            {
                if (part.IsEmpty)
                {
                    break;
                }

                var data = part.Span;
                var size = Type.Size();
                first = first.IsEmpty ? data[..size].ToArray() : first;
                if (!data[..size].SequenceEqual(first) || !data[size..].SequenceEqual(data[..^size]))
                {
                    return false;
                }
            }

            return true;
        }
    }

    /// <summary>
    /// Gives the bytes part by part, each whole elements: those that are in a file do not come into memory all at once.
    /// </summary>
    internal IEnumerable<ReadOnlyMemory<byte>> Parts() => FileMemory.Parts(Data);

    /// <summary>Copies the bytes; those that are in a file come straight from there.</summary>
    internal void CopyTo(Span<byte> destination) => FileMemory.Copy(Data, destination);

    /// <summary>Writes the bytes; those that are in a file do not come into memory all at once.</summary>
    internal void WriteTo(Stream stream)
    {
        foreach (var part in Parts())
        {
            stream.Write(part.Span);
        }
    }

    /// <summary>Whether a tensor of the same length has the same bytes.</summary>
    internal bool HasSameBytes(Tensor other)
    {
        var offset = 0;
        var buffer = Array.Empty<byte>();
        foreach (var part in Parts())
        {
            buffer = buffer.Length < part.Length ? new byte[part.Length] : buffer;
            FileMemory.Copy(other.Data.Slice(offset, part.Length), buffer);
            if (!part.Span.SequenceEqual(buffer.AsSpan(0, part.Length)))
            {
                return false;
            }

            offset += part.Length;
        }

        return true;
    }

    /// <summary>Makes a tensor from elements, which are copied.</summary>
    /// <typeparam name="T">The .NET type of the elements; see <see cref="ElementTypes.Of{T}"/>.</typeparam>
    /// <param name="dims">The dimensions.</param>
    /// <param name="values">The elements, row major.</param>
    public static Tensor From<T>(ReadOnlySpan<long> dims, ReadOnlySpan<T> values)
        where T : unmanaged => new(ElementTypes.Of<T>(), [.. dims], MemoryMarshal.AsBytes(values).ToArray());

    /// <summary>Gives the number of elements of a shape.</summary>
    /// <exception cref="OverflowException">More than a <see cref="long"/> holds.</exception>
    public static long CountOf(ReadOnlySpan<long> dims)
    {
        var count = 1L;
        foreach (var dim in dims)
        {
            count = checked(count * dim);
        }

        return count;
    }

    /// <summary>Gives the elements.</summary>
    /// <typeparam name="T">The .NET type that belongs to <see cref="Type"/>.</typeparam>
    /// <exception cref="InvalidOperationException">The tensor has another type.</exception>
    public ReadOnlySpan<T> Span<T>()
        where T : unmanaged =>
        ElementTypes.Of<T>() == Type
            ? MemoryMarshal.Cast<byte, T>(Data.Span)
            : throw new InvalidOperationException($"The tensor is {Type}, not {typeof(T)}.");

    /// <summary>Gives the elements of an integer tensor as 64-bit integers.</summary>
    /// <exception cref="InvalidOperationException">The tensor is neither int64 nor int32.</exception>
    public long[] ToInt64() =>
        Type == ElementType.Int32 ? [.. Span<int>().ToArray().Select(v => (long)v)] : Span<long>().ToArray();

    /// <summary>Gives the elements of a floating-point tensor as doubles.</summary>
    /// <exception cref="InvalidOperationException">The tensor is not floating point.</exception>
    public double[] ToDouble() =>
        Type switch
        {
            ElementType.Float => [.. Span<float>().ToArray().Select(v => (double)v)],
            ElementType.Float16 => [.. Span<Half>().ToArray().Select(v => (double)v)],
            ElementType.BFloat16 =>
            [
                .. MemoryMarshal
                    .Cast<byte, ushort>(Data.Span)
                    .ToArray()
                    .Select(v => (double)BitConverter.UInt32BitsToSingle((uint)v << 16)),
            ],
            _ => Span<double>().ToArray(),
        };

    /// <summary>Gives a float16 or bfloat16 tensor as float; any other as it is.</summary>
    public Tensor ToFloat() =>
        Type is ElementType.Float16 or ElementType.BFloat16
            ? From<float>(Dims.AsSpan(), [.. ToDouble().Select(v => (float)v)])
            : this;

    /// <summary>Gives a float tensor in a type of 16 bits, rounded to nearest; any other as it is.</summary>
    /// <param name="type">The type.</param>
    public Tensor To(ElementType type) =>
        (Type, type) switch
        {
            (ElementType.Float, ElementType.Float16) => From<Half>(
                Dims.AsSpan(),
                [.. Span<float>().ToArray().Select(v => (Half)v)]
            ),
            (ElementType.Float, ElementType.BFloat16) => new(
                type,
                Dims,
                MemoryMarshal.AsBytes<ushort>([.. Span<float>().ToArray().Select(ToBFloat16)]).ToArray()
            ),
            _ => this,
        };

    private static ushort ToBFloat16(float value)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        return float.IsNaN(value) ? (ushort)0x7FC0 : (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Type}[{string.Join(',', Dims)}]";
}
