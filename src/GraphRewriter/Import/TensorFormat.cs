using System.Runtime.InteropServices;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Reads and writes <c>TensorProto</c>: raw bytes and typed fields.</summary>
internal static class TensorFormat
{
    /// <summary>Reads a tensor.</summary>
    /// <param name="proto">The tensor; strings, 4-bit types and external data are refused, which
    /// <see cref="ModelFile"/> has taken in.</param>
    public static Tensor FromProto(TensorProto proto)
    {
        var length = LengthOf(proto);
        var type = (ElementType)proto.DataType;
        if (IsPacked(type))
        {
            throw Bad(
                proto,
                $"holds {type}, which is not supported.",
                "If it holds weights, RewriteOptions.Dequantize makes float ones of them."
            );
        }

        var data =
            proto.DataLocation == TensorProto.Types.DataLocation.External
                ? throw Bad(proto, "has its data in another file.", "Store them in the model.")
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

    /// <summary>Gives the bytes that a tensor's type and dimensions ask for.</summary>
    public static long LengthOf(TensorProto proto)
    {
        var type = (ElementType)proto.DataType;
        if (type.Size() == 0 && !IsPacked(type))
        {
            throw Bad(proto, $"holds {type}, which is not supported.", "Leave this tensor out of the model.");
        }

        if (proto.Dims.Any(d => d < 0))
        {
            throw Bad(proto, "has a negative dimension.", "The file is damaged: export the model again.");
        }

        try
        {
            var count = Tensor.CountOf(proto.Dims.ToArray());
            return IsPacked(type) ? checked(count + 1) / 2 : checked(count * type.Size());
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
    }

    /// <summary>Whether a byte holds two numbers.</summary>
    private static bool IsPacked(ElementType type) => type is ElementType.Int4 or ElementType.UInt4;

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

    /// <summary>Gives the error that a tensor is not as it must be.</summary>
    /// <param name="proto">The tensor.</param>
    /// <param name="what">What is wrong, after "It".</param>
    /// <param name="hint">What to do.</param>
    /// <param name="inner">The cause; null for none.</param>
    public static MacOnnxException Bad(TensorProto proto, string what, string hint, Exception? inner = null) =>
        new("MAC0005", $"tensor '{proto.Name}'", $"It {what}", hint, inner);
}
