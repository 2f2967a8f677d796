using System.Numerics;
using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>Makes an array what a model expects where that loses nothing: its type and its shape.</summary>
internal static class TensorFit
{
    /// <summary>
    /// Gives the array with the spec's type and shape; see <see cref="Dataset"/> for what is allowed.
    /// </summary>
    /// <exception cref="MacOnnxException">Wrong data shape (MAC0603) or type (MAC0604).</exception>
    public static Tensor Fit(Tensor tensor, InputSpec spec, string where)
    {
        var shaped = Reshape(tensor.Dims.AsSpan(), spec) is { } dims
            ? new Tensor(tensor.Type, [.. dims], tensor.Data)
            : throw WrongShape(spec, tensor.Dims.AsSpan(), where);
        return shaped.Type == spec.Type ? shaped : Convert(shaped, spec, where);
    }

    /// <summary>Gives the error for a shape that does not fit.</summary>
    public static MacOnnxException WrongShape(InputSpec spec, ReadOnlySpan<long> found, string where) =>
        new(
            "MAC0603",
            where,
            $"Wrong data shape: the model expects {spec}, found [{string.Join(',', found.ToArray())}].",
            "Reshape the array."
        );

    /// <summary>Gives 8-bit pixels as floats from 0 to 1.</summary>
    public static Tensor ScalePixels(Tensor pixels)
    {
        var scaled = GC.AllocateUninitializedArray<byte>(checked(pixels.Data.Length * sizeof(float)));
        var to = MemoryMarshal.Cast<byte, float>(scaled.AsSpan());
        var from = pixels.Data.Span;
        for (var i = 0; i < to.Length; i++)
        {
            to[i] = from[i] / 255f;
        }

        return new Tensor(ElementType.Float, pixels.Dims, scaled);
    }

    private static long[]? Reshape(ReadOnlySpan<long> dims, InputSpec spec)
    {
        // The first axis counts rows: how many is judged where samples are known. A fixed first axis is not judged here
        // either,
        // since the data of a model with a fixed batch hold many batches.
        var wanted = spec.Dims.AsSpan();
        if (dims.IsEmpty || wanted.IsEmpty)
        {
            return Tensor.CountOf(dims) != 1 ? null
                : wanted.ContainsAnyExcept(1, -1) ? null
                : [.. Enumerable.Repeat(1L, wanted.Length)];
        }

        var rows = dims[0];
        var rest = dims[1..];
        var wantedRest = wanted[1..];
        if (spec.Fits([wanted[0], .. rest]))
        {
            return [.. dims];
        }

        if (!wantedRest.ContainsAnyInRange(long.MinValue, -1))
        {
            return Tensor.CountOf(wantedRest) == Tensor.CountOf(rest) ? [rows, .. wantedRest] : null;
        }

        // Dynamic axes: insert the axes of size 1 that the model names.
        var result = new List<long> { rows };
        foreach (var size in wantedRest)
        {
            if (size == 1)
            {
                result.Add(1);
            }
            else if (!rest.IsEmpty && (size < 0 || size == rest[0]))
            {
                result.Add(rest[0]);
                rest = rest[1..];
            }
            else
            {
                return null;
            }
        }

        return rest.IsEmpty ? [.. result] : null;
    }

    private static Tensor Convert(Tensor tensor, InputSpec spec, string where)
    {
        if (tensor.Type.IsFloatingPoint() && !spec.Type.IsFloatingPoint())
        {
            throw WrongType(tensor, spec, where);
        }

        return tensor.Type switch
        {
            ElementType.Bool or ElementType.UInt8 => From<byte>(tensor, spec, where),
            ElementType.Int8 => From<sbyte>(tensor, spec, where),
            ElementType.UInt16 => From<ushort>(tensor, spec, where),
            ElementType.Int16 => From<short>(tensor, spec, where),
            ElementType.UInt32 => From<uint>(tensor, spec, where),
            ElementType.Int32 => From<int>(tensor, spec, where),
            ElementType.UInt64 => From<ulong>(tensor, spec, where),
            ElementType.Int64 => From<long>(tensor, spec, where),
            ElementType.Float16 => From<Half>(tensor, spec, where),
            ElementType.Float => From<float>(tensor, spec, where),
            ElementType.Double => From<double>(tensor, spec, where),
            _ => throw WrongType(tensor, spec, where),
        };
    }

    private static Tensor From<T>(Tensor tensor, InputSpec spec, string where)
        where T : unmanaged, INumber<T> =>
        spec.Type switch
        {
            ElementType.UInt8 => FromTo<T, byte>(tensor, spec, where),
            ElementType.Int8 => FromTo<T, sbyte>(tensor, spec, where),
            ElementType.UInt16 => FromTo<T, ushort>(tensor, spec, where),
            ElementType.Int16 => FromTo<T, short>(tensor, spec, where),
            ElementType.UInt32 => FromTo<T, uint>(tensor, spec, where),
            ElementType.Int32 => FromTo<T, int>(tensor, spec, where),
            ElementType.UInt64 => FromTo<T, ulong>(tensor, spec, where),
            ElementType.Int64 => FromTo<T, long>(tensor, spec, where),
            ElementType.Float16 => FromTo<T, Half>(tensor, spec, where),
            ElementType.Float => FromTo<T, float>(tensor, spec, where),
            ElementType.Double => FromTo<T, double>(tensor, spec, where),
            ElementType.Bool => ToBool<T>(tensor, spec, where),
            _ => throw WrongType(tensor, spec, where),
        };

    private static Tensor FromTo<TFrom, TTo>(Tensor tensor, InputSpec spec, string where)
        where TFrom : unmanaged, INumber<TFrom>
        where TTo : unmanaged, INumber<TTo>
    {
        var from = MemoryMarshal.Cast<byte, TFrom>(tensor.Data.Span);
        var size = (long)from.Length * spec.Type.Size();
        if (size > Array.MaxLength)
        {
            throw new MacOnnxException(
                "MAC0604",
                where,
                $"The data have {size} bytes as the model's {spec.Type}, more than 2 GB, which is not supported.",
                "Give a part of them."
            );
        }

        var data = GC.AllocateUninitializedArray<byte>((int)size);
        var to = MemoryMarshal.Cast<byte, TTo>(data.AsSpan());
        var i = 0;
        try
        {
            for (; i < to.Length; i++)
            {
                to[i] = TTo.CreateChecked(from[i]);
                if (!TTo.IsFinite(to[i]) && TFrom.IsFinite(from[i]))
                {
                    throw new OverflowException();
                }
            }
        }
        catch (OverflowException)
        {
            throw new MacOnnxException(
                "MAC0604",
                where,
                $"The value {from[i]} does not fit the model's {spec.Type}.",
                "Scale or correct the data."
            );
        }

        return new Tensor(spec.Type, tensor.Dims, data);
    }

    private static Tensor ToBool<TFrom>(Tensor tensor, InputSpec spec, string where)
        where TFrom : unmanaged, INumber<TFrom>
    {
        var bytes = FromTo<TFrom, byte>(tensor, spec with { Type = ElementType.UInt8 }, where).Data;
        return bytes.Span.ContainsAnyExceptInRange((byte)0, (byte)1)
            ? throw WrongType(tensor, spec, where)
            : new Tensor(ElementType.Bool, tensor.Dims, bytes);
    }

    private static MacOnnxException WrongType(Tensor tensor, InputSpec spec, string where) =>
        new(
            "MAC0604",
            where,
            $"The data are {tensor.Type}, but the model expects {spec.Type}, and the values might change.",
            "Convert the array where it is made."
        );
}
