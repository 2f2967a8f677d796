using System.Buffers;
using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>
/// Bytes of a file as memory that is read when its elements are asked for, and forgotten when nobody uses them.
/// </summary>
/// <param name="file">The file.</param>
/// <param name="offset">The first byte.</param>
/// <param name="length">The number of bytes; the file had them all when it was opened.</param>
internal sealed class FileMemory(OpenFile file, long offset, int length) : MemoryManager<byte>
{
    /// <summary>What is smaller is not worth a visit to the file of its own.</summary>
    private const int Smallest = 1 << 16;

    private const int FirstPart = 1 << 12;
    private const int LargestPart = 1 << 20;

    private readonly WeakReference<byte[]> _loaded = new(null!);

    /// <inheritdoc/>
    public override Memory<byte> Memory => CreateMemory(length);

    /// <summary>Gives bytes of a file: large parts as memory that is read later, small ones at once.</summary>
    /// <param name="file">The file.</param>
    /// <param name="offset">The first byte.</param>
    /// <param name="length">The number of bytes, all of them within the file.</param>
    /// <exception cref="MacOnnxException">They cannot be read (MAC0402).</exception>
    public static ReadOnlyMemory<byte> Of(OpenFile file, long offset, int length)
    {
        var memory = new FileMemory(file, offset, length);
        return length < Smallest ? memory.Load() : memory.Memory;
    }

    /// <summary>Copies the bytes of any memory, those of a file without a copy in between.</summary>
    public static void Copy(ReadOnlyMemory<byte> memory, Span<byte> destination)
    {
        if (Find(memory) is var (file, offset))
        {
            file.Read(offset, destination[..memory.Length]);
        }
        else
        {
            memory.Span.CopyTo(destination);
        }
    }

    /// <summary>
    /// Gives the bytes of any memory part by part, those of a file in parts of up to 1 MB after a small first one. A
    /// part is valid until the next is taken.
    /// </summary>
    public static IEnumerable<ReadOnlyMemory<byte>> Parts(ReadOnlyMemory<byte> memory)
    {
        if (Find(memory) is not var (file, offset))
        {
            yield return memory;
            yield break;
        }

        var buffer = ArrayPool<byte>.Shared.Rent(Math.Min(memory.Length, LargestPart));
        try
        {
            for (int from = 0, count = FirstPart; from < memory.Length; from += count, count = LargestPart)
            {
                count = Math.Min(count, memory.Length - from);
                file.Read(offset + from, buffer.AsSpan(0, count));
                yield return buffer.AsMemory(0, count);
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    /// <inheritdoc/>
    /// <exception cref="MacOnnxException">The bytes cannot be read (MAC0402).</exception>
    public override Span<byte> GetSpan() => Load();

    /// <inheritdoc/>
    public override unsafe MemoryHandle Pin(int elementIndex = 0)
    {
        var handle = GCHandle.Alloc(Load(), GCHandleType.Pinned);
        return new((byte*)handle.AddrOfPinnedObject() + elementIndex, handle);
    }

    /// <inheritdoc/>
    public override void Unpin()
    {
        // Nothing to do: the pinned array has a handle of its own.
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        // Nothing to do: the file is closed with its last part.
    }

    private static (OpenFile File, long Offset)? Find(ReadOnlyMemory<byte> memory) =>
        MemoryMarshal.TryGetMemoryManager<byte, FileMemory>(memory, out var manager, out var start, out _)
            ? manager.At(start)
            : null;

    private (OpenFile File, long Offset)? At(int start) => _loaded.TryGetTarget(out _) ? null : (file, offset + start);

    private byte[] Load()
    {
        if (!_loaded.TryGetTarget(out var bytes))
        {
            bytes = GC.AllocateUninitializedArray<byte>(length);
            file.Read(offset, bytes);
            _loaded.SetTarget(bytes);
        }

        return bytes;
    }
}
