using System.Collections.Immutable;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>One dimension, as found at two different sizes of the model's dynamic dimensions.</summary>
/// <remarks>
/// Every dynamic dimension of the model is given one size in the first probe and another in the second. A dimension
/// that is
/// the same in both is static; two dimensions that agree in both are the same function of the dynamic ones. This
/// replaces
/// symbolic arithmetic.
/// </remarks>
/// <param name="First">The size in the first probe; -1 where the data decide it.</param>
/// <param name="Second">The size in the second probe; -1 where the data decide it.</param>
public readonly record struct Dim(long First, long Second)
{
    /// <summary>A dimension that depends on the data.</summary>
    public static readonly Dim Unknown = new(-1, -1);

    /// <summary>Gets whether the size is the same for every batch.</summary>
    public bool IsStatic => First == Second && First >= 0;

    /// <summary>Gets whether the model's dynamic dimensions decide the size, not the data.</summary>
    public bool IsKnown => First >= 0 && Second >= 0;

    /// <summary>Gets the size of a static dimension.</summary>
    /// <exception cref="InvalidOperationException">The dimension is not static.</exception>
    public long Size => IsStatic ? First : throw new OpenDimensionException();

    /// <summary>Makes a static dimension.</summary>
    /// <param name="size">The size.</param>
    public static implicit operator Dim(long size) => new(size, size);

    /// <summary>Whether two dimensions are known to be equal at every size.</summary>
    /// <param name="other">The other dimension.</param>
    public bool SameAs(Dim other) => IsKnown && this == other;

    /// <inheritdoc/>
    public override string ToString() => IsStatic ? $"{First}" : "?";
}

/// <summary>A size must be known, and the model leaves it open.</summary>
internal sealed class OpenDimensionException() : InvalidOperationException("The dimension is not static.");

/// <summary>The dimensions of a value.</summary>
/// <param name="dims">The dimensions; none for a scalar.</param>
public sealed class Shape(params ImmutableArray<Dim> dims)
{
    /// <summary>The shape of a scalar.</summary>
    public static readonly Shape Scalar = new();

    /// <summary>Gets the dimensions.</summary>
    public ImmutableArray<Dim> Dims { get; } = dims;

    /// <summary>Gets the number of axes.</summary>
    public int Rank => Dims.Length;

    /// <summary>Gets whether all dimensions are static.</summary>
    public bool IsStatic => Dims.All(d => d.IsStatic);

    /// <summary>Gets the number of elements of a static shape.</summary>
    /// <exception cref="InvalidOperationException">A dimension is not static.</exception>
    public long Count => Dims.Aggregate(1L, (n, d) => checked(n * d.Size));

    /// <summary>Gets a dimension; a negative axis counts from the end.</summary>
    /// <param name="axis">The axis.</param>
    public Dim this[int axis] => Dims[axis < 0 ? axis + Rank : axis];

    /// <summary>Makes a static shape.</summary>
    /// <param name="dims">The sizes.</param>
    public static Shape Of(params ReadOnlySpan<long> dims)
    {
        var result = new Dim[dims.Length];
        for (var i = 0; i < dims.Length; i++)
        {
            result[i] = dims[i];
        }

        return new([.. result]);
    }

    /// <summary>Makes a negative axis count from the front.</summary>
    /// <param name="axis">The axis, -rank to rank - 1.</param>
    public int Axis(long axis) => (int)(axis < 0 ? axis + Rank : axis);

    /// <summary>Whether two shapes are known to be equal at every size.</summary>
    /// <param name="other">The other shape.</param>
    public bool SameAs(Shape? other) => Rank == other?.Rank && Dims.Zip(other.Dims).All(p => p.First.SameAs(p.Second));

    /// <inheritdoc/>
    public override string ToString() => $"[{string.Join(',', Dims)}]";
}
