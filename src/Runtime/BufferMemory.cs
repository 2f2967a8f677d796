using System.Buffers;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime;

/// <summary>The bytes of a buffer in place: valid until the buffer is disposed.</summary>
/// <param name="value">The buffer, in the host's memory.</param>
internal sealed unsafe class BufferMemory(OrtValue value) : MemoryManager<byte>
{
    /// <inheritdoc/>
    public override Span<byte> GetSpan() => value.GetTensorMutableRawData();

    /// <inheritdoc/>
    public override MemoryHandle Pin(int elementIndex = 0)
    {
        fixed (byte* first = GetSpan())
        {
            return new(first + elementIndex); // native memory does not move
        }
    }

    /// <inheritdoc/>
    public override void Unpin()
    {
        // Nothing to do: native memory does not move.
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        // Nothing to do: the buffer belongs to its set.
    }
}
