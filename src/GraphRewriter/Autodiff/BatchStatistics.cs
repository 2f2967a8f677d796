using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Autodiff;

/// <summary>A running statistic of a batch normalization in training mode: running = momentum running + (1 - momentum) batch.</summary>
internal sealed record RunningStatistic(Value Running, Value Batch, float Momentum);

/// <summary>Makes training-mode batch normalizations return the batch's own mean and variance (momentum 0), which their gradient needs.</summary>
internal static class BatchStatistics
{
    /// <summary>Rewrites the nodes; gives the running statistics that somebody else must now update.</summary>
    public static List<RunningStatistic> Apply(Graph graph)
    {
        var statistics = new List<RunningStatistic>();
        foreach (var node in graph.Nodes.Where(n => n.Is("BatchNormalization") && n.Attributes.Int("training_mode", 0) != 0))
        {
            var momentum = node.Attributes.Float("momentum", 0.9f);
            node.Attributes.Set(Float("momentum", 0));
            for (var i = 1; i <= 2; i++)
            {
                var batch = graph.AddValue(graph.FreshName($"{node.Outputs[0].Name}.{(i == 1 ? "batch_mean" : "batch_variance")}"));
                (batch.Producer, batch.Type, batch.Shape) = (node, node.Inputs[i + 2]!.Type, node.Inputs[i + 2]!.Shape);
                if (node.Outputs.Count > i)
                {
                    node.Outputs[i] = batch;
                }
                else
                {
                    node.Outputs.Add(batch);
                }

                statistics.Add(new RunningStatistic(node.Inputs[i + 2]!, batch, momentum));
            }
        }

        return statistics;
    }
}
