using System.Numerics.Tensors;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime;

/// <summary>
/// The exact curvature of the first layer: the second moment A of its input over the data, and (A + rho I)^-1.
/// </summary>
/// <param name="layer">The layer, of the manifest.</param>
/// <param name="store">Holds A and the inverse.</param>
internal sealed class ExactCurvature(ExactLayer layer, StateStore store)
{
    private readonly double[] _sum = new double[layer.Size * layer.Size];
    private double _weight;
    private float _damping = float.NaN;

    /// <summary>Gets whether A is known, from data or from a checkpoint.</summary>
    public bool IsKnown => StateStore.Floats(store[layer.Moment]).ContainsAnyExcept(0f);

    /// <summary>Adds a batch's second moment; not one that holds numbers that are not finite, as in training.</summary>
    public void Add(OrtValue moment, double samples)
    {
        var values = moment.GetTensorDataAsSpan<float>();
        if (!TensorPrimitives.IsFiniteAll(values))
        {
            return;
        }

        for (var i = 0; i < values.Length; i++)
        {
            _sum[i] += samples * values[i];
        }

        _weight += samples;
    }

    /// <summary>Makes A of the batches added.</summary>
    /// <exception cref="MacOnnxException">No batch had finite numbers (MAC0503).</exception>
    public void Finish()
    {
        if (_weight <= 0)
        {
            throw new MacOnnxException(
                "MAC0503",
                layer.Moment,
                "No batch gives the first layer an input of finite numbers.",
                "Check the data."
            );
        }

        var moment = StateStore.Floats(store[layer.Moment]);
        for (var i = 0; i < moment.Length; i++)
        {
            moment[i] = (float)(_sum[i] / _weight);
        }

        Forget();
    }

    /// <summary>Says that A has changed.</summary>
    public void Forget() => _damping = float.NaN;

    /// <summary>
    /// Computes the inverse where A or the damping has changed, by Cholesky's decomposition in double precision.
    /// </summary>
    /// <param name="damping">rho, more than 0, so that A + rho I is positive definite.</param>
    public void Invert(float damping)
    {
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

        var n = (int)layer.Size;
        var lower = new double[n * n];
        TensorPrimitives.ConvertTruncating<float, double>(StateStore.Floats(store[layer.Moment]), lower);
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
        var inverse = StateStore.Floats(store[layer.Inverse]);
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

        _damping = damping;
    }
}
