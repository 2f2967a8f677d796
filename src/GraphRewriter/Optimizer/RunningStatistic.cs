using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>A running statistic, and the batch's statistic that advances it.</summary>
/// <param name="Buffer">The running statistic's buffer.</param>
/// <param name="Batch">The batch's buffer.</param>
/// <param name="Momentum">The weight of the running statistic.</param>
internal sealed record RunningStatistic(string Buffer, string Batch, float Momentum)
{
    /// <summary>
    /// Emits running = momentum running + (1 - momentum) batch, as ONNX defines it (the population variance).
    /// </summary>
    /// <param name="g">The graph.</param>
    /// <param name="buffer">The running statistic's buffer.</param>
    /// <param name="uses">The batch's statistics that advance it, in turn.</param>
    /// <param name="share">1 where they do, 0 where they have done so already; null for 1.</param>
    public static void Advance(BoundGraph g, string buffer, IEnumerable<RunningStatistic> uses, Term? share = null)
    {
        (g.B.Origin, g.B.Prefix) = ($"running statistic {buffer}", $"{buffer}/");
        var next = uses.Aggregate(
            g.Read(buffer),
            (value, use) =>
                share is { } part
                    ? value + (part * (1 - (double)use.Momentum) * (g.Read(use.Batch) - value))
                    : (value * use.Momentum) + (g.Read(use.Batch) * (1 - (double)use.Momentum))
        );
        g.Write(buffer, next);
    }
}
