using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>A BatchNormalization in training mode: what its running statistics are made of.</summary>
/// <param name="Node">The node.</param>
/// <param name="Momentum">The weight of the running statistics: running = running * momentum + batch * (1 -
/// momentum).</param>
/// <param name="Mean">The running mean, an input of the node, [C].</param>
/// <param name="Variance">The running variance, an input of the node, [C].</param>
/// <param name="BatchMean">The batch's mean, [C].</param>
/// <param name="BatchVariance">The batch's variance, not corrected for the sample's size, [C].</param>
internal sealed record BatchStatistic(
    Node Node,
    float Momentum,
    Value Mean,
    Value Variance,
    Value BatchMean,
    Value BatchVariance
);

/// <summary>
/// Makes every BatchNormalization in training mode give the statistics of the batch, which its gradient needs.
/// </summary>
/// <remarks>
/// With momentum 0 the outputs for the running statistics are the batch's. Where the model reads the running
/// statistics, they are
/// computed from those; ONNX Runtime requires all three outputs. Runs before shape inference.
/// </remarks>
internal static class BatchStatistics
{
    /// <summary>
    /// Rewrites the nodes; gives those whose running statistics are stored, which somebody else must now update.
    /// </summary>
    public static IReadOnlyList<BatchStatistic> Prepare(Graph graph)
    {
        var read = graph.Nodes.SelectMany(n => n.Reads).Concat(graph.Outputs).ToHashSet();
        var found = new List<BatchStatistic>();
        var builder = new GraphBuilder(graph);
        var nodes = graph.Nodes.ToArray();
        foreach (var (index, node) in nodes.Index())
        {
            if (node.Is("BatchNormalization") && node.Attributes.Int("training_mode", 0) == 1)
            {
                builder.Before = nodes.ElementAtOrDefault(index + 1);
                found.Add(Prepare(builder, node, read));
            }
        }

        return [.. found.Where(f => f.Mean.Producer is null && f.Variance.Producer is null)];
    }

    private static BatchStatistic Prepare(GraphBuilder builder, Node node, HashSet<Value> read)
    {
        var momentum = node.Attributes.Float("momentum", 0.9f);
        node.Attributes.Set(Float("momentum", 0));
        (builder.Origin, builder.Prefix) = ($"running statistics {node}", $"{node.Name}/");
        var batch = new Value[2];
        for (var i = 1; i <= 2; i++)
        {
            var value = batch[i - 1] = builder.Graph.AddValue(
                builder.Graph.FreshName($"{node.Outputs[0].Name}/{(i == 1 ? "batch_mean" : "batch_variance")}")
            );
            (value.Type, value.Shape) = (node.Inputs[2 + i]!.Type, node.Inputs[2 + i]!.Shape);
            if (i < node.Outputs.Count && read.Contains(node.Outputs[i]))
            {
                var (running, current) = (new Term(builder, node.Inputs[2 + i]!), new Term(builder, value));
                var type = running.Type == ElementType.Undefined ? ElementType.Float : running.Type;
                builder.Assign(
                    node.Outputs[i],
                    running.Op("Mul", builder.Scalar(momentum, type))
                        + current.Op("Mul", builder.Scalar(1 - momentum, type))
                );
            }

            node.SetOutput(i, value);
        }

        return new(node, momentum, node.Inputs[3]!, node.Inputs[4]!, batch[0], batch[1]);
    }
}
