using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Autodiff;

/// <summary>A running statistic of a batch normalization in training mode: running = momentum running + (1 - momentum) batch.</summary>
/// <param name="Running">The running mean or variance, an input of the node, [C].</param>
/// <param name="Batch">The batch's mean, or its variance not corrected for the sample's size, [C].</param>
/// <param name="Momentum">The weight of the running statistic.</param>
internal sealed record RunningStatistic(Value Running, Value Batch, float Momentum);

/// <summary>Makes training-mode batch normalizations return the batch's own mean and variance (momentum 0), which their gradient needs.</summary>
/// <remarks>What the model itself reads of the running statistics is computed from those. ONNX Runtime wants all three outputs.</remarks>
internal static class BatchStatistics
{
    /// <summary>Rewrites the nodes; gives the running statistics that somebody else must now update: mean and variance of each node in turn.</summary>
    public static List<RunningStatistic> Apply(Graph graph)
    {
        var statistics = new List<RunningStatistic>();
        var nodes = graph.Nodes.ToArray();
        graph.Nodes.Clear();
        var builder = new GraphBuilder(graph);
        foreach (var node in nodes)
        {
            graph.Nodes.Add(node);
            if (node.Is("BatchNormalization") && node.Attributes.Int("training_mode", 0) != 0)
            {
                (builder.Origin, builder.Prefix) = ($"running statistics {node}", $"{node.Name}/");
                statistics.AddRange(Apply(builder, node));
            }
        }

        graph.Prune();
        return statistics;
    }

    private static RunningStatistic[] Apply(GraphBuilder builder, Node node)
    {
        var momentum = node.Attributes.Float("momentum", 0.9f);
        node.Attributes.Set(Float("momentum", 0));
        return [One(1, "batch_mean"), One(2, "batch_variance")];

        RunningStatistic One(int output, string name)
        {
            var running = new Term(builder, node.Inputs[output + 2]!);
            var batch = new Term(builder, builder.Graph.AddValue(builder.Graph.FreshName($"{node.Outputs[0].Name}.{name}")));
            (batch.V.Producer, batch.V.Type, batch.V.Shape) = (node, running.Type, running.V.Shape);
            if (node.Outputs.Count <= output)
            {
                node.Outputs.Add(batch);
            }
            else
            {
                if (node.Outputs[output].Name.Length > 0)
                {
                    builder.Assign(node.Outputs[output], (running * momentum) + (batch * (1 - momentum)));
                }

                node.Outputs[output] = batch;
            }

            return new(running, batch, momentum);
        }
    }
}
