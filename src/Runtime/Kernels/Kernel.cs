using System.Runtime.InteropServices;

namespace MacOnnx.Runtime.Kernels;

/// <summary>The kernel of one node of one session. It keeps what the node's attributes say.</summary>
internal abstract class Kernel
{
    public abstract void Compute(KernelContext context);
}

/// <summary>A node's attributes when its kernel is made.</summary>
internal readonly struct KernelInfo(nint handle)
{
    public bool Flag(string name) => OrtApi.GetInt(handle, name) is { } value && value != 0;

    public int Int(string name) =>
        checked(
            (int)(
                OrtApi.GetInt(handle, name) ?? throw new InvalidOperationException($"The attribute {name} is missing.")
            )
        );

    public float Float(string name) =>
        OrtApi.GetFloat(handle, name) ?? throw new InvalidOperationException($"The attribute {name} is missing.");

    public long[]? Ints(string name) => OrtApi.GetInts(handle, name);
}

/// <summary>What a kernel sees of one call: float tensors in, float tensors out, and the session's threads.</summary>
internal readonly unsafe struct KernelContext(nint handle)
{
    /// <summary>
    /// The axes that a buffer for dimensions has room for; tensors of more get a buffer of their own.
    /// </summary>
    public const int MaxRank = 8;

    /// <summary>
    /// Gives an input that must have so many elements: a graph may come from anywhere, and kernels do not check what
    /// they read.
    /// </summary>
    public float* Input(int index, long count)
    {
        var value = OrtApi.GetInput(handle, index);
        var found = Count(OrtApi.GetDims(value, stackalloc long[MaxRank]));
        return found == count
            ? OrtApi.GetFloats(value)
            : throw new InvalidOperationException($"Input {index} has {found} elements instead of {count}.");
    }

    /// <summary>Gives an input that is a scalar.</summary>
    public float Scalar(int index) => *Input(index, 1);

    /// <summary>Writes an input's dimensions to a buffer of <see cref="MaxRank"/>.</summary>
    public Span<long> Dims(int input, Span<long> buffer) => OrtApi.GetDims(OrtApi.GetInput(handle, input), buffer);

    public float* Output(int index, ReadOnlySpan<long> dims) => OrtApi.GetFloats(OrtApi.GetOutput(handle, index, dims));

    /// <summary>
    /// Cuts 0 .. count - 1 into parts and runs a body for each on the session's threads. The number of parts must not
    /// depend on the threads, so that results do not.
    /// </summary>
    /// <param name="count">The number of elements, rows or the like.</param>
    /// <param name="parts">The number of parts.</param>
    /// <param name="body">A static method; it gets the work, the part, and the part's first element and the one behind
    /// its last.</param>
    /// <param name="work">What the body works on.</param>
    // csharpier-ignore
    public void ParallelFor<T>(long count, int parts, delegate*<void*, int, long, long, void> body, ref T work)
        where T : unmanaged
    {
        fixed (T* data = &work)
        {
            if (parts == 1)
            {
                body(data, 0, 0, count);
                return;
            }

            var call = new Call
            {
                Body = body,
                Work = data,
                Count = count,
                Parts = parts,
            };
            OrtApi.ParallelFor(handle, &Run, parts, &call);
            if (call.HasFailed != 0)
            {
                throw new InvalidOperationException("A kernel failed.");
            }
        }
    }

    /// <summary>The number of elements of a tensor.</summary>
    public static long Count(ReadOnlySpan<long> dims)
    {
        var product = 1L;
        foreach (var dim in dims)
        {
            product = checked(product * dim);
        }

        return product;
    }

    /// <summary>
    /// The number of parts to cut so many elements into: enough for threads to share, each worth its dispatch.
    /// </summary>
    public static int Parts(long elements) => (int)Math.Clamp(elements / 16384, 1, 32);

    /// <summary>The number of parts to cut so many rows into.</summary>
    public static int Parts(long rows, long columns) => (int)Math.Clamp(rows, 1, Parts(checked(rows * columns)));

    // An exception must not unwind through native frames.
    [UnmanagedCallersOnly]
    private static void Run(nint data, nuint part)
    {
        var call = (Call*)data;
        try
        {
            call->Body(
                call->Work,
                (int)part,
                call->Count * (long)part / call->Parts,
                call->Count * ((long)part + 1) / call->Parts
            );
        }
#pragma warning disable CA1031
        catch (Exception)
        {
            Volatile.Write(ref call->HasFailed, 1);
        }
#pragma warning restore CA1031
    }

    private struct Call
    {
        // csharpier-ignore
        public delegate*<void*, int, long, long, void> Body;
        public void* Work;
        public long Count;
        public int Parts;
        public int HasFailed;
    }
}
