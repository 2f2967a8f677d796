using System.Numerics;

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
}
