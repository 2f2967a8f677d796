using System.Numerics.Tensors;
using MacOnnx.GraphRewriter;
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

    /// <summary>Gets what computes the source from data; null where another graph keeps it.</summary>
    public DataPass? Pass => refresh.Pass;

    /// <summary>
    /// Gets whether the source needs no pass over data: it was made, is in a checkpoint, or has none.
    /// </summary>
    public bool IsKnown => Pass is null || buffers.Floats(Pass.Samples)[0] > 0;

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

        buffers.Floats(Pass!.Samples)[0] = (float)_weight;
        (_sum, _weight) = (null, 0);
        Forget();
    }

    /// <summary>Says that the source has changed.</summary>
    public void Forget() => _damping = float.NaN;

    /// <summary>Computes the inverse.</summary>
    /// <exception cref="MacOnnxException">The damping is too small for the matrix (MAC0503).</exception>
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

        if (!CholeskyInverse.Compute(buffers.Floats(refresh.Source), buffers.Floats(refresh.Result), damping))
        {
            throw new MacOnnxException(
                "MAC0503",
                refresh.Source,
                FormattableString.Invariant($"The matrix has no inverse in float with a damping of {damping}."),
                $"Use more {nameof(Hyperparameters)}.{nameof(Hyperparameters.Damping)}."
            );
        }

        _damping = damping;
    }
}
