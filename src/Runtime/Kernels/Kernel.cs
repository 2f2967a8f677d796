using System.Runtime.InteropServices;

namespace MacOnnx.Runtime.Kernels;

/// <summary>The kernel of one node of one session. It keeps what the node's attributes say.</summary>
public abstract class Kernel
{
    /// <summary>Computes the outputs.</summary>
    /// <remarks>
    /// May run on several threads at once where the session does. What it throws ends the session's run with the
    /// message.
    /// </remarks>
    /// <param name="context">The call.</param>
    public abstract void Compute(KernelContext context);
}

/// <summary>A node's attributes when its kernel is made.</summary>
public readonly struct KernelInfo
{
    private readonly nint _handle;

    internal KernelInfo(nint handle) => _handle = handle;

    /// <summary>Whether an integer attribute is there and not 0.</summary>
    /// <param name="name">The attribute.</param>
    public bool Flag(string name) => OrtApi.GetInt(_handle, name) is { } value && value != 0;

    /// <summary>Gives an integer attribute, which must be there.</summary>
    /// <param name="name">The attribute.</param>
    public int Int(string name) =>
        checked(
            (int)(
                OrtApi.GetInt(_handle, name) ?? throw new InvalidOperationException($"The attribute {name} is missing.")
            )
        );

    /// <summary>Gives a float attribute, which must be there.</summary>
    /// <param name="name">The attribute.</param>
    public float Float(string name) =>
        OrtApi.GetFloat(_handle, name) ?? throw new InvalidOperationException($"The attribute {name} is missing.");

    /// <summary>Gives a list of integers; null where there is none.</summary>
    /// <param name="name">The attribute.</param>
    public long[]? Ints(string name) => OrtApi.GetInts(_handle, name);
}

/// <summary>What a kernel sees of one call: float tensors in, float tensors out, and the session's threads.</summary>
public readonly unsafe struct KernelContext
{
    /// <summary>
    /// The axes that a buffer for dimensions has room for; tensors of more get a buffer of their own.
    /// </summary>
    public const int MaxRank = 8;

    private readonly nint _handle;

    internal KernelContext(nint handle) => _handle = handle;

    /// <summary>
    /// Gives an input that must have so many elements: a graph may come from anywhere, and kernels do not check what
    /// they read.
    /// </summary>
    /// <param name="index">The input, from 0.</param>
    /// <param name="count">The number of elements.</param>
    public float* Input(int index, long count)
    {
        var value = OrtApi.GetInput(_handle, index);
        var found = Count(OrtApi.GetDims(value, stackalloc long[MaxRank]));
        return found == count
            ? OrtApi.GetFloats(value)
            : throw new InvalidOperationException($"Input {index} has {found} elements instead of {count}.");
    }

    /// <summary>Gives an input that is a scalar.</summary>
    /// <param name="index">The input, from 0.</param>
    public float Scalar(int index) => *Input(index, 1);

    /// <summary>Writes an input's dimensions to a buffer of <see cref="MaxRank"/>.</summary>
    /// <param name="input">The input, from 0.</param>
    /// <param name="buffer">The buffer.</param>
    public Span<long> Dims(int input, Span<long> buffer) => OrtApi.GetDims(OrtApi.GetInput(_handle, input), buffer);

    /// <summary>Gives an output: the memory to write.</summary>
    /// <param name="index">The output, from 0.</param>
    /// <param name="dims">Its dimensions.</param>
    public float* Output(int index, ReadOnlySpan<long> dims) =>
        OrtApi.GetFloats(OrtApi.GetOutput(_handle, index, dims));

    /// <summary>
    /// Cuts 0 .. count - 1 into parts and runs a body for each on the session's threads. The number of parts must not
    /// depend on the threads, so that results do not.
    /// </summary>
    /// <param name="count">The number of elements, rows or the like.</param>
    /// <param name="parts">The number of parts.</param>
    /// <param name="body">A static method; it gets the work, the part, and the part's first element and the one behind
    /// its last.</param>
    /// <param name="work">What the body works on.</param>
    /// <typeparam name="T">The type of the work.</typeparam>
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
            OrtApi.ParallelFor(_handle, &Run, parts, &call);
            if (call.HasFailed != 0)
            {
                throw new InvalidOperationException("A kernel failed.");
            }
        }
    }

    /// <summary>The number of elements of a tensor.</summary>
    /// <param name="dims">The dimensions.</param>
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
    /// <param name="elements">The number of elements.</param>
    public static int Parts(long elements) => (int)Math.Clamp(elements / 16384, 1, 32);

    /// <summary>The number of parts to cut so many rows into.</summary>
    /// <param name="rows">The number of rows.</param>
    /// <param name="columns">The elements of each.</param>
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
