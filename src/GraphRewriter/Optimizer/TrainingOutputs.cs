using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>Writes what training and evaluation graphs compute to buffers.</summary>
/// <param name="g">The graph.</param>
internal sealed class TrainingOutputs(BoundGraph g)
{
    /// <summary>Writes the loss, and what it is the mean over where that is known.</summary>
    public void WriteLoss(BufferRole role, Value loss, BufferRole countRole, Value? count)
    {
        (g.B.Origin, g.B.Prefix) = ("loss", "loss/");
        WriteNumber(role, loss, "loss");
        WriteNumber(countRole, count, "loss_count");
    }

    /// <summary>Writes one number, whatever its type and rank.</summary>
    public void WriteNumber(BufferRole role, Value? number, string name)
    {
        if (number is not null)
        {
            var term = new Term(g.B, number).Cast(ElementType.Float);
            var stem = role is BufferRole.EvaluationLoss or BufferRole.EvaluationCount ? $"evaluation_{name}" : name;
            g.Write(g.Buffers.Single(role, stem), number.Shape is not { Rank: > 0 } ? term : term.Reshape(), name);
        }
    }

    /// <summary>Writes the gradients, and their norm.</summary>
    /// <returns>The buffer of each gradient.</returns>
    public Dictionary<Parameter, string> WriteGradients(IEnumerable<(Parameter Parameter, Value Gradient)> gradients)
    {
        var buffers = new Dictionary<Parameter, string>();
        var all = gradients.ToArray();
        foreach (var (parameter, gradient) in all)
        {
            var name = $"{parameter.Name}_grad";
            var buffer = g.Buffers.Add(name, BufferRole.Gradient, ElementType.Float, parameter.Dims.AsSpan());
            g.Write(buffer, new(g.B, gradient), name);
            buffers.Add(parameter, buffer);
        }

        (g.B.Origin, g.B.Prefix) = ("gradient norm", "norm/");
        var norm = GradientNorm.Append(g.B, all.Select(p => new Term(g.B, p.Gradient)));
        g.Write(g.Buffers.Single(BufferRole.GradientNorm, "gradient_norm"), norm, "gradient_norm");
        return buffers;
    }

    /// <summary>Writes the batch's statistics of batch normalizations in training mode.</summary>
    /// <param name="statistics">What the nodes give.</param>
    /// <param name="kept">The parameters and running statistics that are inputs.</param>
    /// <returns>The running statistics that they advance.</returns>
    public List<RunningStatistic> WriteBatchStatistics(
        IEnumerable<BatchStatistic> statistics,
        IEnumerable<Parameter> kept
    )
    {
        var running = new List<RunningStatistic>();
        var stored = kept.Where(p => p.Treatment == Treatment.Statistic).ToDictionary(p => p.Value);
        (g.B.Origin, g.B.Prefix) = ("running statistics", "statistics/");
        foreach (var statistic in statistics)
        {
            Write(statistic.Mean, statistic.BatchMean, statistic.Momentum);
            Write(statistic.Variance, statistic.BatchVariance, statistic.Momentum);
        }

        return running;

        void Write(Value old, Value batch, float momentum)
        {
            if (!stored.TryGetValue(old, out var parameter))
            {
                return;
            }

            var dims = parameter.Dims.AsSpan();
            var buffer = g.Buffers.Add(batch.Name, BufferRole.Statistic, ElementType.Float, dims);
            g.Write(buffer, new Term(g.B, batch).Cast(ElementType.Float), batch.Name);
            running.Add(new(parameter.Name, buffer, momentum));
        }
    }
}
