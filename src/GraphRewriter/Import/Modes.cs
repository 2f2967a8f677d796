using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Puts batch normalization and dropout into training or inference mode.</summary>
internal static class Modes
{
    /// <summary>
    /// Prepares a graph for training: batch normalizations as asked, dropout only where the model says so and drops
    /// something.
    /// </summary>
    public static void ForTraining(Graph graph, BatchNormMode batchNorm)
    {
        foreach (var node in Norms(graph))
        {
            if (batchNorm != BatchNormMode.AsExported)
            {
                node.Attributes.Set(Int("training_mode", batchNorm == BatchNormMode.Train ? 1 : 0));
            }

            if (node.Attributes.Int("training_mode", 0) == 0)
            {
                node.TrimOutputs(1);
            }
        }

        RemoveDropout(graph, n => !IsOn(n.Input(2)) || n.Input(1)?.Constant?.ToDouble() is [0]);
    }

    /// <summary>Prepares a graph for evaluation: running statistics, no dropout.</summary>
    public static void ForEvaluation(Graph graph)
    {
        foreach (var node in Norms(graph))
        {
            node.Attributes.Remove("training_mode");
            node.TrimOutputs(1);
        }

        RemoveDropout(graph, _ => true);
    }

    /// <summary>Does the same to a model file as it was exported, in place.</summary>
    public static void ForInference(ModelProto model) => ForInference(model.Graph);

    private static void ForInference(GraphProto graph)
    {
        foreach (var subgraph in graph.Node.SelectMany(n => n.Attribute).SelectMany(OpsetUpgrade.Subgraphs))
        {
            ForInference(subgraph);
        }

        foreach (var node in graph.Node.Where(n => n.Domain is "" or "ai.onnx"))
        {
            if (node.OpType == "BatchNormalization")
            {
                foreach (var attribute in node.Attribute.Where(a => a is { Name: "training_mode", I: not 0 }).ToArray())
                {
                    node.Attribute.Remove(attribute);
                }

                while (node.Output.Count > 1)
                {
                    node.Output.RemoveAt(node.Output.Count - 1);
                }
            }
            else if (node.OpType == "Dropout" && node.Input.Count > 2)
            {
                node.Input.RemoveAt(2);
            }
        }
    }

    private static bool IsOn(Value? mode) => mode is not null && mode.Constant is not { Data.Span: [0] };

    private static IEnumerable<Node> Norms(Graph graph) =>
        graph.WithSubgraphs().SelectMany(g => g.Nodes).Where(n => n.Is("BatchNormalization"));

    private static void RemoveDropout(Graph root, Func<Node, bool> remove)
    {
        foreach (var graph in root.WithSubgraphs().ToArray())
        {
            RemoveDropoutOf(graph, remove);
        }
    }

    private static void RemoveDropoutOf(Graph graph, Func<Node, bool> remove)
    {
        var readers = graph.Readers();
        foreach (
            var node in graph
                .Nodes.Where(n =>
                    n.Is("Dropout")
                    && remove(n)
                    && n.Outputs.Skip(1).All(o => !readers[o].Any() && !graph.Outputs.Contains(o))
                )
                .ToArray()
        )
        {
            if (!graph.Outputs.Contains(node.Outputs[0]))
            {
                node.Outputs[0].ReplaceAllUses(node.Inputs[0]!);
                graph.Remove(node);
            }
            else if (node.Inputs.Count > 2)
            {
                node.TrimInputs(2);
            }
        }
    }
}
