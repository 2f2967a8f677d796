namespace MacOnnx.GraphRewriter.Ir;

/// <summary>The element type of a tensor, with ONNX's numbers (<c>TensorProto.DataType</c>).</summary>
public enum ElementType
{
    /// <summary>Not known.</summary>
    Undefined = 0,

    /// <summary>IEEE 754 binary32.</summary>
    Float = 1,

    /// <summary>Unsigned 8-bit integer.</summary>
    UInt8 = 2,

    /// <summary>Signed 8-bit integer.</summary>
    Int8 = 3,

    /// <summary>Unsigned 16-bit integer.</summary>
    UInt16 = 4,

    /// <summary>Signed 16-bit integer.</summary>
    Int16 = 5,

    /// <summary>Signed 32-bit integer.</summary>
    Int32 = 6,

    /// <summary>Signed 64-bit integer.</summary>
    Int64 = 7,

    /// <summary>UTF-8 string.</summary>
    String = 8,

    /// <summary>Boolean, one byte.</summary>
    Bool = 9,

    /// <summary>IEEE 754 binary16.</summary>
    Float16 = 10,

    /// <summary>IEEE 754 binary64.</summary>
    Double = 11,

    /// <summary>Unsigned 32-bit integer.</summary>
    UInt32 = 12,

    /// <summary>Unsigned 64-bit integer.</summary>
    UInt64 = 13,

    /// <summary>Two binary32.</summary>
    Complex64 = 14,

    /// <summary>Two binary64.</summary>
    Complex128 = 15,

    /// <summary>The upper half of a binary32.</summary>
    BFloat16 = 16,

    /// <summary>8-bit float, E4M3, no infinities.</summary>
    Float8E4M3FN = 17,

    /// <summary>8-bit float, E4M3, no infinities, no negative zero.</summary>
    Float8E4M3FNUZ = 18,

    /// <summary>8-bit float, E5M2.</summary>
    Float8E5M2 = 19,

    /// <summary>8-bit float, E5M2, no infinities, no negative zero.</summary>
    Float8E5M2FNUZ = 20,

    /// <summary>Unsigned 4-bit integer, two a byte.</summary>
    UInt4 = 21,

    /// <summary>Signed 4-bit integer, two a byte.</summary>
    Int4 = 22,
}

/// <summary>Facts about element types.</summary>
public static class ElementTypes
{
    /// <summary>Whether gradients exist for the type: float, double, float16 and bfloat16.</summary>
    public static bool IsFloatingPoint(this ElementType type) =>
        type is ElementType.Float or ElementType.Double or ElementType.Float16 or ElementType.BFloat16;

    /// <summary>
    /// Gives the bytes an element takes, or 0 where elements have no fixed whole number of bytes (strings, 4-bit
    /// types).
    /// </summary>
    public static int Size(this ElementType type) =>
        type switch
        {
            ElementType.Bool or ElementType.Int8 or ElementType.UInt8 => 1,
            ElementType.Float8E4M3FN
            or ElementType.Float8E4M3FNUZ
            or ElementType.Float8E5M2
            or ElementType.Float8E5M2FNUZ => 1,
            ElementType.Int16 or ElementType.UInt16 or ElementType.Float16 or ElementType.BFloat16 => 2,
            ElementType.Int32 or ElementType.UInt32 or ElementType.Float => 4,
            ElementType.Int64 or ElementType.UInt64 or ElementType.Double or ElementType.Complex64 => 8,
            ElementType.Complex128 => 16,
            _ => 0,
        };

    /// <summary>Gives the element type of a .NET type.</summary>
    /// <typeparam name="T">One of the numeric types, <see cref="bool"/> or <see cref="Half"/>.</typeparam>
    /// <exception cref="NotSupportedException">ONNX has no such element type.</exception>
    public static ElementType Of<T>()
        where T : unmanaged =>
        default(T) switch
        {
            float => ElementType.Float,
            double => ElementType.Double,
            Half => ElementType.Float16,
            long => ElementType.Int64,
            int => ElementType.Int32,
            short => ElementType.Int16,
            sbyte => ElementType.Int8,
            byte => ElementType.UInt8,
            ushort => ElementType.UInt16,
            uint => ElementType.UInt32,
            ulong => ElementType.UInt64,
            bool => ElementType.Bool,
            _ => throw new NotSupportedException($"{typeof(T)} is not an element type."),
        };
}
