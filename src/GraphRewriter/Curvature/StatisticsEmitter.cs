using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>Emits the statistics that curvature blocks ask for, computed only in steps that need them.</summary>
internal static class StatisticsEmitter
{
    /// <summary>Appends the statistics in one If, zeros where the flag is false, and writes them to buffers.</summary>
    /// <param name="g">The training graph.</param>
    /// <param name="statistics">The statistics.</param>
    /// <param name="gradient">Emits the gradient of the loss with respect to a value.</param>
    /// <returns>The buffer of each statistic by its name.</returns>
    public static Dictionary<string, string> Append(
        BoundGraph g,
        IReadOnlyList<Statistic> statistics,
        Func<GraphBuilder, Value, Term> gradient
    )
    {
        var buffers = new Dictionary<string, string>(StringComparer.Ordinal);
        if (statistics.Count == 0)
        {
            return buffers;
        }

        var flag = g.Read(g.Buffers.Single(BufferRole.UpdateStatistics, "update_statistics", ElementType.Bool));
        (g.B.Origin, g.B.Prefix) = ("statistics", "mac/");
        var known = new Dictionary<string, Term>(StringComparer.Ordinal);
        var results = Conditional.Append(
            g.B,
            flag,
            [.. statistics.Select(s => g.Graph.FreshName($"mac/{s.Name}"))],
            [.. statistics.Select(s => Shape.Of(s.Dims))],
            b => [.. statistics.Select(s => Emit(b, s).V)],
            b => [.. statistics.Select(s => b.Op("ConstantOfShape", [b.Int64s(s.Dims)]))]
        );
        foreach (var (statistic, value) in statistics.Zip(results))
        {
            var buffer = g.Buffers.Add(statistic.Name, BufferRole.Statistic, ElementType.Float, statistic.Dims);
            g.Write(buffer, new(g.B, value), statistic.Name);
            buffers.Add(statistic.Name, buffer);
        }

        return buffers;

        Term Emit(GraphBuilder b, Statistic statistic)
        {
            (b.Origin, b.Prefix) = ($"statistics {statistic.Node}", $"{statistic.Name}/");
            if (statistic.Key is { } key && known.TryGetValue(key, out var same))
            {
                return same.Op("Identity");
            }

            var emitted = statistic.Emit(b, v => gradient(b, v));
            if (statistic.Key is not null)
            {
                known.Add(statistic.Key, emitted);
            }

            return emitted;
        }
    }
}
