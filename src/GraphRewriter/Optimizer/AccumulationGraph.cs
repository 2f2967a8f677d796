using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// Builds the graph that adds a batch's gradients and statistics to those of the batches before it, as weighted means:
/// mean' = keep mean + gain batch, with keep = W / (W + w) and gain = w / (W + w).
/// </summary>
/// <remarks>
/// The weight of a gradient is what the loss is the mean over, that of a statistic the number of samples. A statistic
/// of gradients is both: its shares by samples are multiplied by those of gradients, as often as gradients are factors
/// of it, since a batch's mean loss is only a share of the step's. The buffers of the batch exist only in runs that
/// accumulate: <c>batch/</c> and the name of the mean's buffer.
/// <para>
/// Where an optimizer of ONNX Runtime is kept, it is as there: gradients are summed, and running statistics advance
/// with every batch. The graph then applies the statistics of the batch before, and leaves the last one's to the
/// update.
/// </para>
/// </remarks>
internal static class AccumulationGraph
{
    /// <summary>Builds the graph.</summary>
    /// <param name="buffers">The buffers; receives those of the batch.</param>
    /// <param name="degrees">For buffers of statistics, how often gradients are factors of them; else 0.</param>
    /// <param name="running">The running statistics that advance with every batch; null where they advance with the
    /// step, by means, and gradients are averaged too.</param>
    public static BoundGraph Build(
        BufferTable buffers,
        IReadOnlyDictionary<string, int> degrees,
        IReadOnlyList<RunningStatistic>? running
    )
    {
        var replaced = running?.Select(s => s.Batch).ToHashSet(StringComparer.Ordinal) ?? [];
        var g = BoundGraph.New(PackageFiles.Accumulation, buffers);
        var gradients = new List<Term>();
        foreach (var buffer in buffers.All.ToArray())
        {
            var kind = buffer.Role switch
            {
                BufferRole.Gradient => "gradient",
                BufferRole.Statistic => "statistic",
                _ => null,
            };
            if (kind is null)
            {
                continue;
            }

            (g.B.Origin, g.B.Prefix) = ($"accumulation {buffer.Name}", $"{buffer.Name}/");
            var batch = buffers.Add(
                PackageFiles.BatchPrefix + buffer.Name,
                BufferRole.Batch,
                buffer.Type,
                buffer.Dims.AsSpan()
            );
            var degree = degrees.GetValueOrDefault(buffer.Name);
            Term Share(string share) =>
                degree == 0
                    ? g.Scalar($"{kind}_{share}")
                    : g.Scalar($"{kind}_{share}_{degree}", $"{kind}_{share} * gradient_{share} ^ {degree}");
            Term Mean()
            {
                var (keep, gain) = (Share("keep"), Share("gain"));
                return (keep * g.Read(buffer.Name)) + (gain * g.Read(batch));
            }

            var isSum = buffer.Role == BufferRole.Gradient && running is not null;
            var mean =
                isSum ? g.Read(buffer.Name) + g.Read(batch)
                : replaced.Contains(buffer.Name) ? g.Read(batch).Op("Identity")
                : Mean();
            g.Write(buffer.Name, mean);
            if (buffer.Role == BufferRole.Gradient)
            {
                mean.V.Shape = Shape.Of(buffer.Dims.AsSpan());
                gradients.Add(mean);
            }
        }

        foreach (var uses in (running ?? []).GroupBy(s => s.Buffer))
        {
            RunningStatistic.Advance(g, uses.Key, uses, g.Scalar("statistic_pending"));
        }

        (g.B.Origin, g.B.Prefix) = ("gradient norm", "norm/");
        g.Write(buffers.Single(BufferRole.GradientNorm, "gradient_norm"), GradientNorm.Append(g.B, gradients));
        g.Finish();
        return g;
    }
}
