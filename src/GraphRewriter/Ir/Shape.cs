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
internal readonly record struct Dim(long First, long Second)
{
    /// <summary>A dimension that depends on the data.</summary>
    public static readonly Dim Unknown = new(-1, -1);

    public bool IsStatic => First == Second && First >= 0;

    public bool IsKnown => First >= 0 && Second >= 0;

    /// <summary>Gets the size of a static dimension.</summary>
    public long Size => IsStatic ? First : throw new OpenDimensionException();

    public static implicit operator Dim(long size) => new(size, size);

    /// <summary>Whether two dimensions are known to be equal at every size.</summary>
    public bool SameAs(Dim other) => IsKnown && this == other;

    public override string ToString() => IsStatic ? $"{First}" : "?";
}

/// <summary>A size must be known, and the model leaves it open.</summary>
internal sealed class OpenDimensionException() : InvalidOperationException("The dimension is not static.");

/// <summary>The dimensions of a value.</summary>
internal sealed class Shape(params ImmutableArray<Dim> dims)
{
    public static readonly Shape Scalar = new();

    public ImmutableArray<Dim> Dims { get; } = dims;

    public int Rank => Dims.Length;

    public bool IsStatic => Dims.All(d => d.IsStatic);

    /// <summary>Gets the number of elements of a static shape.</summary>
    public long Count => Dims.Aggregate(1L, (n, d) => checked(n * d.Size));

    /// <summary>Gets a dimension; a negative axis counts from the end.</summary>
    public Dim this[int axis] => Dims[axis < 0 ? axis + Rank : axis];

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
    public int Axis(long axis) => (int)(axis < 0 ? axis + Rank : axis);

    public bool SameAs(Shape other) => Rank == other.Rank && Dims.Zip(other.Dims).All(p => p.First.SameAs(p.Second));

    public override string ToString() => $"[{string.Join(',', Dims)}]";
}
