using System.Numerics.Tensors;

namespace MacOnnx.Runtime;

/// <summary>
/// The inverse of a symmetric, positive definite matrix, by Cholesky's decomposition in double precision.
/// </summary>
/// <remarks>
/// Everything is a dot product of rows that lie one after another in memory: the decomposition A = L L^T, the rows of U
/// = L^-T by substitution, and the inverse U U^T. Rows are taken in blocks, so that what many rows are multiplied with
/// stays in the cache, and in parallel. Each number is computed by one thread in one order: the result does not depend
/// on the number of threads.
/// </remarks>
internal static class CholeskyInverse
{
    private const int Block = 32;

    /// <summary>Computes (source + damping I)^-1.</summary>
    /// <param name="source">The matrix, [n, n], of which the part on and below the diagonal counts.</param>
    /// <param name="inverse">Receives the inverse, [n, n].</param>
    /// <param name="damping">What is added to the diagonal.</param>
    /// <returns>
    /// False, and nothing is written, where the sum is not positive definite or a number is not finite.
    /// </returns>
    public static bool Compute(ReadOnlySpan<float> source, Span<float> inverse, double damping)
    {
        var n = (int)Math.Sqrt(source.Length);
        var lower = new double[source.Length];
        TensorPrimitives.ConvertTruncating<float, double>(source, lower);
        for (var i = 0; i < n; i++)
        {
            lower[(i * n) + i] += damping;
        }

        if (!Decompose(lower, n))
        {
            return false;
        }

        var upper = Substitute(lower, n);
        var result = lower;
        ForBlocks(
            0,
            n,
            (from, to) =>
            {
                for (var j = 0; j < to; j++)
                {
                    for (var i = Math.Max(from, j); i < to; i++)
                    {
                        // Row i of U is zero before i, which is not before j.
                        result[(i * n) + j] = Dot(upper, (i * n) + i, (j * n) + i, n - i);
                    }
                }
            }
        );
        for (var i = 0; i < n; i++)
        {
            for (var j = 0; j <= i; j++)
            {
                inverse[(i * n) + j] = inverse[(j * n) + i] = (float)result[(i * n) + j];
            }
        }

        return true;
    }

    /// <summary>Replaces the part on and below the diagonal by L.</summary>
    private static bool Decompose(double[] a, int n)
    {
        for (var start = 0; start < n; start += Block)
        {
            var (first, end) = (start, Math.Min(start + Block, n));
            ForBlocks(first, n, (from, to) => Subtract(a, n, (from, to), (first, end)));
            for (var j = first; j < end; j++)
            {
                var square = a[(j * n) + j] - Dot(a, (j * n) + first, (j * n) + first, j - first);
                if (!(square > 0 && double.IsFinite(square)))
                {
                    return false;
                }

                a[(j * n) + j] = Math.Sqrt(square);
                Solve(a, n, (j + 1, end), (j, j + 1), first);
            }

            ForBlocks(end, n, (from, to) => Solve(a, n, (from, to), (first, end), first));
        }

        return true;
    }

    /// <summary>Subtracts from columns of rows what the columns before them contribute.</summary>
    private static void Subtract(double[] a, int n, (int From, int To) rows, (int From, int To) columns)
    {
        for (var i = rows.From; i < rows.To; i++)
        {
            for (var j = columns.From; j < Math.Min(columns.To, i + 1); j++)
            {
                a[(i * n) + j] -= Dot(a, i * n, j * n, columns.From);
            }
        }
    }

    /// <summary>
    /// Makes columns of rows those of L, from what the columns of their block before them contribute.
    /// </summary>
    private static void Solve(double[] a, int n, (int From, int To) rows, (int From, int To) columns, int first)
    {
        for (var i = rows.From; i < rows.To; i++)
        {
            for (var j = columns.From; j < columns.To; j++)
            {
                var dot = Dot(a, (i * n) + first, (j * n) + first, j - first);
                a[(i * n) + j] = (a[(i * n) + j] - dot) / a[(j * n) + j];
            }
        }
    }

    /// <summary>Computes U = L^-T. Row k of it is column k of L^-1, which is zero before k.</summary>
    private static double[] Substitute(double[] lower, int n)
    {
        var upper = new double[lower.Length];
        ForBlocks(
            0,
            n,
            (from, to) =>
            {
                for (var i = from; i < n; i++)
                {
                    var row = lower.AsSpan(i * n, n);
                    for (var k = from; k < Math.Min(to, i); k++)
                    {
                        var known = upper.AsSpan((k * n) + k, i - k);
                        upper[(k * n) + i] = -TensorPrimitives.Dot<double>(row[k..i], known) / row[i];
                    }

                    if (i < to)
                    {
                        upper[(i * n) + i] = 1 / row[i];
                    }
                }
            }
        );
        return upper;
    }

    private static double Dot(double[] a, int left, int right, int count) =>
        TensorPrimitives.Dot<double>(a.AsSpan(left, count), a.AsSpan(right, count));

    private static void ForBlocks(int from, int to, Action<int, int> body)
    {
        var blocks = (to - from + Block - 1) / Block;
        if (blocks > 4)
        {
            Parallel.For(0, blocks, b => body(from + (b * Block), Math.Min(from + ((b + 1) * Block), to)));
        }
        else if (blocks > 0)
        {
            body(from, to);
        }
    }
}
