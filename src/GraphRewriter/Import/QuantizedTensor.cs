using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>A constant of integers that stand for real numbers: (q - zero point) * scale.</summary>
/// <param name="Dims">The dimensions.</param>
/// <param name="Values">The integers, row major.</param>
/// <param name="Type">The type that they are stored in.</param>
internal sealed record QuantizedTensor(long[] Dims, int[] Values, ElementType Type)
{
    /// <summary>Reads a tensor of integers of 4 to 32 bits; null for one of another type.</summary>
    /// <param name="proto">The tensor.</param>
    public static QuantizedTensor? Read(TensorProto proto)
    {
        var type = (ElementType)proto.DataType;
        if (type is ElementType.Int4 or ElementType.UInt4)
        {
            // Two a byte, the first in the low bits: read as bytes, which checks the size.
            var count = Tensor.CountOf(proto.Dims.ToArray());
            var bytes = proto.Clone();
            bytes.DataType = (int)ElementType.UInt8;
            bytes.Dims.Clear();
            bytes.Dims.Add((count + 1) / 2);
            var packed = TensorFormat.FromProto(bytes).Data.Span;
            return new([.. proto.Dims], Unpack(packed, count, 4, type == ElementType.Int4), type);
        }

        if (type is not (ElementType.Int8 or ElementType.UInt8 or ElementType.Int16 or ElementType.UInt16))
        {
            return type is ElementType.Int32
                ? new([.. proto.Dims], TensorFormat.FromProto(proto).Span<int>().ToArray(), type)
                : null;
        }

        var tensor = TensorFormat.FromProto(proto);
        return new(
            [.. proto.Dims],
            type switch
            {
                ElementType.Int8 => [.. tensor.Span<sbyte>().ToArray().Select(v => (int)v)],
                ElementType.UInt8 => [.. tensor.Span<byte>().ToArray().Select(v => (int)v)],
                ElementType.Int16 => [.. tensor.Span<short>().ToArray().Select(v => (int)v)],
                _ => [.. tensor.Span<ushort>().ToArray().Select(v => (int)v)],
            },
            type
        );
    }

    /// <summary>Gives numbers of 2, 4 or 8 bits, the first in the low bits of a byte.</summary>
    /// <param name="packed">The bytes.</param>
    /// <param name="count">How many numbers.</param>
    /// <param name="bits">The bits of each.</param>
    /// <param name="isSigned">Whether the highest bit is a sign.</param>
    public static int[] Unpack(ReadOnlySpan<byte> packed, long count, int bits, bool isSigned)
    {
        var (each, mask) = (8 / bits, (1 << bits) - 1);
        var values = new int[count];
        for (var i = 0; i < values.Length; i++)
        {
            var value = (packed[i / each] >> (i % each * bits)) & mask;
            values[i] = isSigned && value > mask >> 1 ? value - mask - 1 : value;
        }

        return values;
    }

    /// <summary>Gives the real numbers.</summary>
    /// <param name="scale">One scale, one for each index of an axis, or one for each block along it.</param>
    /// <param name="zero">The zero points, as many as scales; null for 0.</param>
    /// <param name="axis">The axis.</param>
    /// <param name="block">The elements of a block; 0 without blocks.</param>
    /// <param name="name">What the tensor is called, for messages.</param>
    /// <returns>A tensor of the type of the scale.</returns>
    /// <exception cref="MacOnnxException">The sizes do not fit (MAC0005).</exception>
    public Tensor Dequantize(Tensor scale, int[]? zero, int axis, long block, string name)
    {
        var scales = scale.ToDouble();
        axis = axis < 0 ? axis + Dims.Length : axis;
        long ScaleIndex(long i)
        {
            if (scales.Length == 1)
            {
                return 0;
            }

            // i is before * size * after + along * after + behind.
            var after = Tensor.CountOf(Dims.AsSpan()[(axis + 1)..]);
            var along = i / after % Dims[axis];
            if (block == 0)
            {
                return along;
            }

            var blocks = (Dims[axis] + block - 1) / block;
            return (((i / after / Dims[axis] * blocks) + (along / block)) * after) + (i % after);
        }

        if (scales.Length != 1 && (axis < 0 || axis >= Dims.Length || Needed() != scales.Length))
        {
            throw Bad();
        }

        if (zero is not null && zero.Length != scales.Length && zero.Length != 1)
        {
            throw Bad();
        }

        var values = new float[Values.Length];
        for (var i = 0; i < values.Length; i++)
        {
            var at = ScaleIndex(i);
            values[i] = (float)((Values[i] - (zero is null ? 0L : zero[zero.Length == 1 ? 0 : at])) * scales[at]);
        }

        return Tensor.From<float>(Dims, values).To(scale.Type);

        long Needed() =>
            block == 0 ? Dims[axis] : Values.Length / Math.Max(Dims[axis], 1) * ((Dims[axis] + block - 1) / block);

        MacOnnxException Bad() =>
            new(
                "MAC0005",
                $"tensor '{name}'",
                $"It has {scales.Length} scales and {zero?.Length ?? 0} zero points, which do not fit "
                    + $"[{string.Join(',', Dims)}].",
                "Quantize the model again."
            );
    }
}
