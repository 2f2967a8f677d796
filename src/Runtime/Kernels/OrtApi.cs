using System.Runtime.InteropServices;
using System.Text;

namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// The entries of ONNX Runtime's C API that kernels need and its C# package does not give. The table only ever grows:
/// offsets are fixed.
/// </summary>
internal static unsafe partial class OrtApi
{
    /// <summary>
    /// The API version of ONNX Runtime 1.17, the first with shape inference and ParallelFor for custom operators.
    /// </summary>
    public const uint Version = 17;

    private const int CreateStatusEntry = 0,
        GetErrorMessage = 2,
        CreateCustomOpDomain = 26,
        CustomOpDomainAdd = 27,
        AddCustomOpDomain = 28,
        GetTensorMutableData = 51,
        GetDimensionsCount = 61,
        GetDimensions = 62,
        GetTensorTypeAndShape = 65,
        KernelInfoGetAttributeFloat = 85,
        KernelInfoGetAttributeInt64 = 86,
        KernelContextGetInput = 90,
        KernelContextGetOutput = 91,
        ReleaseStatus = 93,
        ReleaseTensorTypeAndShapeInfo = 99,
        KernelInfoGetAttributeArrayInt64 = 163,
        ShapeInferContextGetInputTypeShape = 268,
        ShapeInferContextSetOutputTypeShape = 270,
        KernelContextParallelFor = 274;

    private static readonly void** Table = Load();

    /// <summary>Throws where a call failed.</summary>
    public static void Check(nint status)
    {
        if (status != 0)
        {
            var message = Marshal.PtrToStringUTF8(
                (nint)((delegate* unmanaged<nint, byte*>)Table[GetErrorMessage])(status)
            );
            ((delegate* unmanaged<nint, void>)Table[ReleaseStatus])(status);
            throw new InvalidOperationException($"ONNX Runtime: {message}");
        }
    }

    /// <summary>Makes the status that a failed callback returns.</summary>
    public static nint CreateStatus(Exception e)
    {
        fixed (byte* text = Utf8(e.Message))
        {
            return ((delegate* unmanaged<int, byte*, nint>)Table[CreateStatusEntry])(1, text);
        }
    }

    public static nint CreateDomain(string name)
    {
        nint domain;
        fixed (byte* text = Utf8(name))
        {
            Check(((delegate* unmanaged<byte*, nint*, nint>)Table[CreateCustomOpDomain])(text, &domain));
        }

        return domain;
    }

    public static void AddOperator(nint domain, void* op) =>
        Check(((delegate* unmanaged<nint, void*, nint>)Table[CustomOpDomainAdd])(domain, op));

    public static void AddDomain(nint sessionOptions, nint domain) =>
        Check(((delegate* unmanaged<nint, nint, nint>)Table[AddCustomOpDomain])(sessionOptions, domain));

    public static nint GetInput(nint context, int index)
    {
        nint value;
        Check(
            ((delegate* unmanaged<nint, nuint, nint*, nint>)Table[KernelContextGetInput])(context, (nuint)index, &value)
        );
        return value;
    }

    public static nint GetOutput(nint context, int index, ReadOnlySpan<long> dims)
    {
        nint value;
        fixed (long* first = dims)
        {
            Check(
                ((delegate* unmanaged<nint, nuint, long*, nuint, nint*, nint>)Table[KernelContextGetOutput])(
                    context,
                    (nuint)index,
                    first,
                    (nuint)dims.Length,
                    &value
                )
            );
        }

        return value;
    }

    public static float* GetFloats(nint value)
    {
        void* data;
        Check(((delegate* unmanaged<nint, void**, nint>)Table[GetTensorMutableData])(value, &data));
        return (float*)data;
    }

    /// <summary>
    /// Writes a tensor's dimensions to a buffer and gives the part that was written, or where there are more
    /// dimensions a new buffer.
    /// </summary>
    public static Span<long> GetDims(nint value, Span<long> buffer)
    {
        nint info;
        Check(((delegate* unmanaged<nint, nint*, nint>)Table[GetTensorTypeAndShape])(value, &info));
        try
        {
            return DimsOf(info, buffer);
        }
        finally
        {
            ((delegate* unmanaged<nint, void>)Table[ReleaseTensorTypeAndShapeInfo])(info);
        }
    }

    /// <summary>Gives an integer attribute of a node; null where it has none of that name.</summary>
    public static long? GetInt(nint info, string name)
    {
        long value;
        fixed (byte* text = Utf8(name))
        {
            return Holds(
                ((delegate* unmanaged<nint, byte*, long*, nint>)Table[KernelInfoGetAttributeInt64])(info, text, &value)
            )
                ? value
                : null;
        }
    }

    /// <summary>Gives a float attribute of a node; null where it has none of that name.</summary>
    public static float? GetFloat(nint info, string name)
    {
        float value;
        fixed (byte* text = Utf8(name))
        {
            return Holds(
                ((delegate* unmanaged<nint, byte*, float*, nint>)Table[KernelInfoGetAttributeFloat])(info, text, &value)
            )
                ? value
                : null;
        }
    }

    /// <summary>Gives an attribute of a node that is a list of integers; null where it has none of that name.</summary>
    public static long[]? GetInts(nint info, string name)
    {
        fixed (byte* text = Utf8(name))
        {
            var get = (delegate* unmanaged<nint, byte*, long*, nuint*, nint>)Table[KernelInfoGetAttributeArrayInt64];
            nuint count = 0;
            if (!Holds(get(info, text, null, &count)))
            {
                return null;
            }

            var values = new long[count];
            fixed (long* first = values)
            {
                Check(get(info, text, first, &count));
            }

            return values;
        }
    }

    /// <summary>
    /// Gives an output, before it is computed, the type and shape of an input, where that is known: an unknown shape
    /// looks like a scalar's.
    /// </summary>
    public static void InferLikeInput(nint context, int output, int input)
    {
        nint info; // the context owns it
        Check(
            ((delegate* unmanaged<nint, nuint, nint*, nint>)Table[ShapeInferContextGetInputTypeShape])(
                context,
                (nuint)input,
                &info
            )
        );
        var dims = DimsOf(info, stackalloc long[KernelContext.MaxRank]);
        if (dims.Length > 0 && !dims.ContainsAnyInRange(long.MinValue, -1))
        {
            Check(
                ((delegate* unmanaged<nint, nuint, nint, nint>)Table[ShapeInferContextSetOutputTypeShape])(
                    context,
                    (nuint)output,
                    info
                )
            );
        }
    }

    public static void ParallelFor(nint context, delegate* unmanaged<nint, nuint, void> body, int count, void* data) =>
        Check(
            (
                (delegate* unmanaged<nint, delegate* unmanaged<nint, nuint, void>, nuint, nuint, void*, nint>)
                    Table[KernelContextParallelFor]
            )(context, body, (nuint)count, 0, data)
        );

    private static Span<long> DimsOf(nint info, Span<long> buffer)
    {
        nuint rank;
        Check(((delegate* unmanaged<nint, nuint*, nint>)Table[GetDimensionsCount])(info, &rank));
        var dims = (int)rank <= buffer.Length ? buffer[..(int)rank] : new long[checked((int)rank)];
        fixed (long* first = dims)
        {
            Check(((delegate* unmanaged<nint, long*, nuint, nint>)Table[GetDimensions])(info, first, rank));
        }

        return dims;
    }

    private static bool Holds(nint status)
    {
        if (status != 0)
        {
            ((delegate* unmanaged<nint, void>)Table[ReleaseStatus])(status);
        }

        return status == 0;
    }

    private static byte[] Utf8(string text) => Encoding.UTF8.GetBytes(text + '\0');

    private static void** Load()
    {
        var api = ((delegate* unmanaged<uint, void**>)(*OrtGetApiBase()))(Version);
        return api != null ? api : throw new NotSupportedException("Kernels need ONNX Runtime 1.17 or later.");
    }

    /// <summary>Gives OrtApiBase, whose first field is GetApi.</summary>
    [LibraryImport("onnxruntime")]
    private static partial void** OrtGetApiBase();
}
