using System.Runtime.InteropServices;

namespace MacOnnx.Runtime.Kernels;

/// <summary>Work memory of a thread, aligned for vectors, that grows and is kept from call to call.</summary>
internal sealed unsafe class Scratch
{
    private const nuint Alignment = 64;

    [ThreadStatic]
    private static Scratch? t_part,
        t_call;

    private float* _memory;
    private nuint _size;

    ~Scratch() => NativeMemory.AlignedFree(_memory);

    /// <summary>Gives memory that one part of a kernel's work may use, until the part ends.</summary>
    public static float* OfPart(long count) => (t_part ??= new Scratch()).Get(count);

    /// <summary>
    /// Gives memory that all parts of a kernel's work share; for the thread that calls the kernel, until the call ends.
    /// </summary>
    public static float* OfCall(long count) => (t_call ??= new Scratch()).Get(count);

    private float* Get(long count)
    {
        var size = checked((nuint)count * sizeof(float));
        if (_size < size)
        {
            NativeMemory.AlignedFree(_memory);
            _memory = null;
            _size = 0;
            _memory = (float*)NativeMemory.AlignedAlloc(size, Alignment);
            _size = size;
        }

        return _memory;
    }
}
