using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>What the training graph expects for one of its data inputs.</summary>
/// <param name="Name">The input's name.</param>
/// <param name="Type">Its element type.</param>
/// <param name="Dims">Its dimensions, -1 where dynamic; empty for a scalar.</param>
public sealed record InputSpec(string Name, ElementType Type, long[] Dims)
{
    /// <summary>Gets a value indicating whether the first axis may have any length.</summary>
    internal bool AnyRows => Dims is [< 0, ..];

    /// <inheritdoc/>
    public override string ToString() => $"{Type}[{string.Join(',', Dims.Select(d => d < 0 ? "?" : $"{d}"))}]";

    /// <summary>Whether a shape fits, axis by axis.</summary>
    internal bool Fits(ReadOnlySpan<long> dims)
    {
        var fits = dims.Length == Dims.Length;
        for (var axis = 0; fits && axis < dims.Length; axis++)
        {
            fits = Dims[axis] < 0 || Dims[axis] == dims[axis];
        }

        return fits;
    }
}

/// <summary>Which part of a folder as MNIST ships.</summary>
public enum DatasetSplit
{
    /// <summary>The files that begin with <c>train</c>.</summary>
    Train,

    /// <summary>The files that begin with <c>t10k</c>.</summary>
    Test,
}
