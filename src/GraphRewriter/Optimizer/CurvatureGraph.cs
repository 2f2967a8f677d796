using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Curvature;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// Builds the curvature graph, run only in steps that update statistics, refresh preconditioners or change one of its
/// scalars.
/// </summary>
internal static class CurvatureGraph
{
    /// <summary>Builds the graph; it is empty where no block has statistics.</summary>
    /// <param name="blocks">The blocks, whose state has been declared.</param>
    /// <param name="statistics">The buffer of each statistic by its name.</param>
    /// <param name="buffers">The buffers.</param>
    public static BoundGraph Build(
        IEnumerable<CurvatureBlock> blocks,
        IReadOnlyDictionary<string, string> statistics,
        BufferTable buffers
    )
    {
        var g = BoundGraph.New(PackageFiles.Curvature, buffers);
        if (statistics.Count == 0)
        {
            return g;
        }

        var average = new MovingAverage(g);
        foreach (var block in blocks)
        {
            (g.B.Origin, g.B.Prefix) = ($"curvature {block.Layer.Node}", $"{block.Layer.Weight.Name}/");
            block.Update(g, average, s => g.Read(statistics[s.Name]));
        }

        g.Finish();
        return g;
    }
}
