using System.Numerics;
using System.Runtime.CompilerServices;

namespace MacOnnx.Runtime.Kernels;

/// <summary>What kernels do with rows.</summary>
internal static unsafe class VectorMath
{
    /// <summary>The sum of products of two rows.</summary>
    public static float Dot(float* x, float* y, long count)
    {
        Vector<float> even = default,
            odd = default;
        var i = 0L;
        for (; i <= count - (2 * Vector<float>.Count); i += 2 * Vector<float>.Count)
        {
            even += Vector.Load(x + i) * Vector.Load(y + i);
            odd += Vector.Load(x + i + Vector<float>.Count) * Vector.Load(y + i + Vector<float>.Count);
        }

        var sum = Vector.Sum(even + odd);
        for (; i < count; i++)
        {
            sum += x[i] * y[i];
        }

        return sum;
    }

    /// <summary>
    /// Copies a row that does not overlap its copy; rows are too short for the runtime's own copy to pay.
    /// </summary>
    public static void Copy(float* row, float* to, long count)
    {
        if (count < Vector<float>.Count)
        {
            for (var j = 0L; j < count; j++)
            {
                to[j] = row[j];
            }

            return;
        }

        for (var i = 0L; i < count - Vector<float>.Count; i += Vector<float>.Count)
        {
            Vector.Store(Vector.Load(row + i), to + i);
        }

        var last = count - Vector<float>.Count;
        Vector.Store(Vector.Load(row + last), to + last);
    }

    /// <summary>Adds a row to another.</summary>
    public static void Add(float* row, float* sum, long columns)
    {
        var i = 0L;
        for (; i <= columns - Vector<float>.Count; i += Vector<float>.Count)
        {
            Vector.Store(Vector.Load(sum + i) + Vector.Load(row + i), sum + i);
        }

        for (; i < columns; i++)
        {
            sum[i] += row[i];
        }
    }

    /// <summary>Loads the first floats of a vector; the others are zero.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Load(float* p, int count) =>
        count == Vector<float>.Count ? Vector.Load(p) : LoadFirst(p, count);

    /// <summary>Stores the first floats of a vector.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector<float> values, float* p, int count)
    {
        if (count == Vector<float>.Count)
        {
            Vector.Store(values, p);
        }
        else
        {
            StoreFirst(values, p, count);
        }
    }

    public static Vector<float> Sigmoid(Vector<float> x) => Vector<float>.One / (Vector<float>.One + Vector.Exp(-x));

    /// <summary>Gives tanh with the absolute error of a rounding of 1.</summary>
    public static Vector<float> Tanh(Vector<float> x)
    {
        var two = new Vector<float>(2);
        return Vector<float>.One - (two / (Vector<float>.One + Vector.Exp(two * x)));
    }

    private static Vector<float> LoadFirst(float* p, int count)
    {
        var buffer = stackalloc float[Vector<float>.Count];
        new Span<float>(p, count).CopyTo(new Span<float>(buffer, count));
        new Span<float>(buffer + count, Vector<float>.Count - count).Clear();
        return Vector.Load(buffer);
    }

    private static void StoreFirst(Vector<float> values, float* p, int count)
    {
        var buffer = stackalloc float[Vector<float>.Count];
        Vector.Store(values, buffer);
        new Span<float>(buffer, count).CopyTo(new Span<float>(p, count));
    }
}
