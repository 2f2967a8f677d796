using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Optimizer;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime;

/// <summary>Named tensors in native buffers that stay where they are: sessions are bound to them once.</summary>
internal sealed class StateStore : IDisposable
{
    private readonly Dictionary<string, OrtValue> _values = new(StringComparer.Ordinal);

    /// <summary>Gets the values by name.</summary>
    public IReadOnlyDictionary<string, OrtValue> Values => _values;

    public OrtValue this[string name] => _values[name];

    /// <summary>Adds a tensor of zeros.</summary>
    public OrtValue Add(string name, ElementType type, ReadOnlySpan<long> dims)
    {
        var value = OrtValue.CreateAllocatedTensorValue(
            OrtAllocator.DefaultInstance,
            (TensorElementType)(int)type,
            dims.ToArray()
        );
        value.GetTensorMutableRawData().Clear();
        _values.Add(name, value);
        return value;
    }

    /// <summary>Adds a scalar and gives a handle for setting it.</summary>
    public OrtValue AddScalar(string name) => Add(name, ElementType.Float, []);

    /// <summary>Copies a tensor into the buffer of its name.</summary>
    /// <exception cref="MacOnnxException">The tensor has another type or shape.</exception>
    public void Set(StateTensor state, Tensor tensor)
    {
        if (tensor.Type != state.Type || !tensor.Dims.SequenceEqual(state.Dims))
        {
            throw new MacOnnxException(
                "MAC0406",
                state.Name,
                $"The checkpoint has {tensor} where the model has {state.Type}[{string.Join(',', state.Dims)}].",
                "Use a checkpoint of this model."
            );
        }

        tensor.Data.Span.CopyTo(_values[state.Name].GetTensorMutableRawData());
    }

    /// <summary>Copies a buffer out.</summary>
    public Tensor Get(StateTensor state) =>
        new(state.Type, state.Dims, _values[state.Name].GetTensorMutableRawData().ToArray());

    public void Dispose()
    {
        foreach (var value in _values.Values)
        {
            value.Dispose();
        }
    }

    /// <summary>Gives the floats of a value.</summary>
    public static Span<float> Floats(OrtValue value) =>
        MemoryMarshal.Cast<byte, float>(value.GetTensorMutableRawData());
}
