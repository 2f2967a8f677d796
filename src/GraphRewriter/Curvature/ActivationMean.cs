using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>A tensor that the training graph computes of a batch in the steps that ask for statistics.</summary>
/// <param name="Name">What it is called, unique in the model.</param>
/// <param name="Node">The node of the model that it is about.</param>
/// <param name="Dims">Its dimensions, all static; it is float.</param>
/// <param name="Key">Statistics with the same key are equal and computed once; null for one of its own.</param>
/// <param name="Emit">Emits it; the second argument gives the gradient of the loss with respect to a value.</param>
/// <param name="Degree">
/// The power of the loss that it is proportional to: 0 for one of activations, 1 for a mean of gradients, 2 for a mean
/// of their products. Batches that are accumulated are weighed by it.
/// </param>
internal sealed record Statistic(
    string Name,
    Node Node,
    long[] Dims,
    string? Key,
    Func<GraphBuilder, Func<Value, Term>, Term> Emit,
    int Degree = 0
);

/// <summary>A mean of input rows of a layer: the statistic m of MAC, or several of them.</summary>
/// <param name="Rows">The number of means.</param>
/// <param name="Statistics">What the training graph must compute.</param>
/// <param name="Combine">Makes [<paramref name="Rows"/>, in] of the statistics.</param>
/// <remarks>The constant 1 that a bias adds to each row is left out: its mean is 1.</remarks>
internal sealed record ActivationMean(int Rows, Statistic[] Statistics, Func<Term[], Term> Combine)
{
    /// <summary>Makes a mean of one statistic.</summary>
    public static ActivationMean Of(Statistic statistic) => new((int)statistic.Dims[0], [statistic], s => s[0]);
}
