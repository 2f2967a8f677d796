using System.Numerics.Tensors;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.Runtime;

/// <summary>A matrix that the host inverts: result = (source + rho I)^-1, where source or rho has changed.</summary>
/// <param name="refresh">The buffers.</param>
/// <param name="buffers">Holds them.</param>
internal sealed class HostInverse(HostRefresh refresh, BufferSet buffers)
{
    private double[]? _sum;
    private double _weight;
    private float _damping = float.NaN;

    /// <summary>Gets the graph that computes the source from data; null where another graph keeps it.</summary>
    public string? Graph => refresh.Graph;

    /// <summary>Gets whether the source is known, from data or from a checkpoint.</summary>
    public bool IsKnown => buffers.Floats(refresh.Source).ContainsAnyExcept(0f);

    /// <summary>
    /// Adds what a batch's data give, which the source's buffer holds; not where numbers are not finite, as in
    /// training.
    /// </summary>
    public void Add(double samples)
    {
        var values = buffers.Floats(refresh.Source);
        if (!TensorPrimitives.IsFiniteAll<float>(values))
        {
            return;
        }

        _sum ??= new double[values.Length];
        for (var i = 0; i < values.Length; i++)
        {
            _sum[i] += samples * values[i];
        }

        _weight += samples;
    }

    /// <summary>Makes the source of the batches added.</summary>
    /// <exception cref="MacOnnxException">No batch had finite numbers (MAC0503).</exception>
    public void Finish()
    {
        if (_weight <= 0)
        {
            throw new MacOnnxException(
                "MAC0503",
                refresh.Source,
                "No batch gives the first layer an input of finite numbers.",
                "Check the data."
            );
        }

        var source = buffers.Floats(refresh.Source);
        for (var i = 0; i < source.Length; i++)
        {
            source[i] = (float)(_sum![i] / _weight);
        }

        (_sum, _weight) = (null, 0);
        Forget();
    }

    /// <summary>Says that the source has changed.</summary>
    public void Forget() => _damping = float.NaN;

    /// <summary>Computes the inverse, by Cholesky's decomposition in double precision.</summary>
    public void Run()
    {
        var damping = buffers.Floats(refresh.Damping)[0];
        if (damping == _damping)
        {
            return;
        }

        if (!IsKnown)
        {
            throw new InvalidOperationException(
                "The first layer's second moment must be computed before the first step."
            );
        }

        Invert(buffers.Floats(refresh.Source), buffers.Floats(refresh.Result), damping);
        _damping = damping;
    }

    private static void Invert(ReadOnlySpan<float> source, Span<float> inverse, float damping)
    {
        var n = (int)Math.Sqrt(source.Length);
        var lower = new double[n * n];
        TensorPrimitives.ConvertTruncating<float, double>(source, lower);
        for (var j = 0; j < n; j++)
        {
            var row = lower.AsSpan(j * n, n);
            var pivot = Math.Sqrt(row[j] + damping - TensorPrimitives.SumOfSquares<double>(row[..j]));
            row[j] = pivot;
            for (var i = j + 1; i < n; i++)
            {
                var other = lower.AsSpan(i * n, n);
                other[j] = (other[j] - TensorPrimitives.Dot<double>(other[..j], row[..j])) / pivot;
            }
        }

        // Column k of the inverse solves L L^T x = e_k.
        var x = new double[n];
        for (var k = 0; k < n; k++)
        {
            for (var i = 0; i < n; i++)
            {
                x[i] =
                    ((i == k ? 1 : 0) - TensorPrimitives.Dot<double>(lower.AsSpan(i * n, i), x.AsSpan(0, i)))
                    / lower[(i * n) + i];
            }

            for (var i = n - 1; i >= 0; i--)
            {
                var sum = x[i];
                for (var j = i + 1; j < n; j++)
                {
                    sum -= lower[(j * n) + i] * x[j];
                }

                x[i] = sum / lower[(i * n) + i];
            }

            for (var i = 0; i < n; i++)
            {
                inverse[(k * n) + i] = (float)x[i];
            }
        }
    }
}
