using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime;

/// <summary>
/// The buffers of a package in native memory. They stay where they are: sessions are bound to them once.
/// </summary>
/// <param name="buffers">
/// The buffers. Each is allocated with its first use: by then a graph has agreed to the size that the manifest says.
/// </param>
internal sealed class BufferSet(IEnumerable<BufferInfo> buffers) : IDisposable
{
    private readonly Dictionary<string, BufferInfo> _infos = buffers.ToDictionary(b => b.Name, StringComparer.Ordinal);
    private readonly Dictionary<string, OrtValue> _values = new(StringComparer.Ordinal);

    /// <summary>Gets the value of a buffer.</summary>
    public OrtValue this[string name] => _values.TryGetValue(name, out var value) ? value : Allocate(_infos[name]);

    /// <summary>Gets the first buffer of a role; null where there is none.</summary>
    public string? Find(BufferRole role) => _infos.Values.FirstOrDefault(b => b.Role == role)?.Name;

    /// <summary>Gets a number that a graph wrote; null where no graph does.</summary>
    public float? Number(BufferRole role) => Find(role) is { } name ? Floats(name)[0] : null;

    /// <summary>Gets the floats of a buffer in the host's memory.</summary>
    public Span<float> Floats(string name) => MemoryMarshal.Cast<byte, float>(Host(name));

    /// <summary>Sets the scalar of a role, where there is one.</summary>
    public void Set<T>(BufferRole role, T value)
        where T : unmanaged
    {
        if (Find(role) is { } name)
        {
            MemoryMarshal.Write(Host(name), value);
        }
    }

    /// <summary>Fills a buffer with zeros.</summary>
    public void Clear(string name) => this[name].GetTensorMutableRawData().Clear();

    /// <summary>Copies a tensor into a buffer.</summary>
    /// <exception cref="MacOnnxException">The tensor has another type or shape.</exception>
    public void Set(BufferInfo info, Tensor tensor)
    {
        if (!info.Fits(tensor))
        {
            throw new MacOnnxException(
                "MAC0406",
                info.Name,
                $"The checkpoint has {tensor} where the model has {info.Type}[{string.Join(',', info.Dims)}].",
                "Use a checkpoint of this model."
            );
        }

        tensor.CopyTo(this[info.Name].GetTensorMutableRawData());
    }

    /// <summary>Copies a buffer out.</summary>
    public Tensor Get(BufferInfo info) =>
        new(info.Type, info.Dims, this[info.Name].GetTensorMutableRawData().ToArray());

    /// <summary>Gives a buffer in place: for those who are done with it before the next graph runs.</summary>
    public Tensor View(BufferInfo info) => new(info.Type, info.Dims, new BufferMemory(this[info.Name]).Memory);

    public void Dispose()
    {
        foreach (var value in _values.Values)
        {
            value.Dispose();
        }

        _values.Clear();
    }

    /// <summary>Gets the bytes of a buffer that steps read or write: it lives in the host's memory.</summary>
    private Span<byte> Host(string name) =>
        _infos[name].Place == BufferPlace.Host
            ? this[name].GetTensorMutableRawData()
            : throw new InvalidOperationException($"The buffer '{name}' lives on the device.");

    private OrtValue Allocate(BufferInfo info)
    {
        try
        {
            var type = (TensorElementType)(int)info.Type;
            var value = OrtValue.CreateAllocatedTensorValue(OrtAllocator.DefaultInstance, type, [.. info.Dims]);
            _values.Add(info.Name, value);
            value.GetTensorMutableRawData().Clear();
            return value;
        }
        catch (OnnxRuntimeException e)
        {
            throw new MacOnnxException(
                "MAC0505",
                info.Name,
                $"There is no memory for {info.Bytes} bytes of it.",
                "Free memory, or train a smaller model.",
                e
            );
        }
    }
}
