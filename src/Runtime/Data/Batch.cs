using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Data;

/// <summary>One batch, in buffers that the next one but one reuses: valid until the enumeration moves on.</summary>
public sealed class Batch
{
    internal Batch(IReadOnlyList<string> names, IReadOnlyList<OrtValue> values, long index, long samples)
    {
        Names = names;
        Values = values;
        Index = index;
        Samples = samples;
    }

    /// <summary>Gets the names of the model's inputs and the target, in the order of the specs.</summary>
    public IReadOnlyList<string> Names { get; }

    /// <summary>Gets the values in that order. The loader owns and frees them.</summary>
    public IReadOnlyList<OrtValue> Values { get; }

    /// <summary>Gets the number of this batch in its epoch, from 0.</summary>
    public long Index { get; }

    /// <summary>Gets the number of samples in it.</summary>
    public long Samples { get; }
}
