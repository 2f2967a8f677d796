using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Support;

/// <summary>Numbers of a size below 1 that repeat nowhere.</summary>
internal static class Waves
{
    /// <summary>Gives a tensor of them.</summary>
    public static Tensor Of(int seed, params long[] dims) =>
        Tensor.From<float>(
            dims,
            [
                .. Enumerable
                    .Range(0, (int)Tensor.CountOf(dims))
                    .Select(i => MathF.Sin((1.7f * i) + (0.1f * i * i) + seed) * 0.8f),
            ]
        );
}
