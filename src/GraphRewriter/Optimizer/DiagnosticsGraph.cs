using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// Builds the graph that measures what the preconditioner of each layer does to the gradient, before the update in
/// steps that refresh.
/// </summary>
/// <remarks>
/// Of each layer three numbers: |m|^2 / E|x|^2, the mean's share of the energy of the input rows x; then what
/// <see cref="CurvatureBlock.Measure"/> gives. A number that a layer does not have is NaN.
/// </remarks>
internal static class DiagnosticsGraph
{
    private const long Numbers = 3;

    /// <summary>Gives the statistics that the graph reads, of layers whose units see the same rows.</summary>
    public static IEnumerable<Statistic> Statistics(IEnumerable<CurvatureBlock> blocks) =>
        blocks.Where(b => b.Layer.HasOneInput).Select(b => Moments.Energy(b.Layer));

    /// <summary>Builds the graph.</summary>
    /// <param name="blocks">The blocks, whose state has been declared.</param>
    /// <param name="statistics">The buffer of each statistic by its name.</param>
    /// <param name="gradients">The buffer of each trained parameter's gradient.</param>
    /// <param name="buffers">The buffers; receives those of the numbers.</param>
    /// <returns>The graph, and the buffer of the numbers by the layer's weight.</returns>
    public static (BoundGraph Graph, ImmutableSortedDictionary<string, string> Numbers) Build(
        IEnumerable<CurvatureBlock> blocks,
        IReadOnlyDictionary<string, string> statistics,
        IReadOnlyDictionary<Parameter, string> gradients,
        BufferTable buffers
    )
    {
        var g = BoundGraph.New(PackageFiles.Diagnostics, buffers);
        var numbers = ImmutableSortedDictionary.CreateBuilder<string, string>(StringComparer.Ordinal);
        foreach (var (layer, block) in blocks.Select(b => (b.Layer, b)))
        {
            var name = layer.Weight.Name;
            (g.B.Origin, g.B.Prefix) = ($"diagnostics {layer.Node}", $"{name}/");
            var none = new Term(g.B, g.B.Constant(Tensor.From<float>([1], [float.NaN])));
            var share = none;
            if (layer.HasOneInput)
            {
                var energy = g.Read(statistics[Moments.Energy(layer).Name]);
                share = Part(energy, 0) / Part(energy, 1);
            }

            Term? bias = layer.Bias is { } b ? g.Read(gradients[b]) : null;
            var (shrinkage, cosine) = block.Measure(g, g.Read(gradients[layer.Weight]), bias) ?? (none, none);
            var buffer = buffers.Add(
                $"{name}.diagnostics",
                BufferRole.Diagnostics,
                ElementType.Float,
                [Numbers],
                BufferPlace.Host
            );
            g.Write(buffer, g.B.Concat([share, shrinkage, cosine], 0));
            numbers.Add(name, buffer);
        }

        g.Finish();
        return (g, numbers.ToImmutable());
    }

    private static Term Part(Term pair, long index) => pair.Op("Slice", pair.B.Int64s(index), pair.B.Int64s(index + 1));
}
