using System.Collections.Frozen;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>
/// Gives the outputs that replace those of a gradient operator; null for an output that nobody may read.
/// </summary>
internal delegate Term?[] LoweringRule(GraphBuilder b, Node node);

/// <summary>
/// Spells the gradient operators (domain <see cref="OpTable.GradientDomain"/>) with operators that the stock runtime
/// has.
/// </summary>
internal static class Lower
{
    private static readonly FrozenDictionary<string, LoweringRule> Rules = new[]
    {
        ActivationLowering.Rules,
        ConvolutionLowering.Rules,
        PoolingLowering.Rules,
        NormalizationLowering.Rules,
        QuantizationLowering.Rules,
        ReluFusion.Rules,
        RecurrentLowering.Rules,
    }
        .SelectMany(r => r)
        .ToFrozenDictionary(r => r.OpType, r => r.Rule, StringComparer.Ordinal);

    /// <summary>Replaces every gradient operator in the graph and in its subgraphs.</summary>
    public static void Apply(Graph graph)
    {
        graph.Prune();
        ReluFusion.Apply(graph);
        foreach (var inner in graph.Nodes.SelectMany(n => n.Attributes.Graphs).Where(HasGradientOperators))
        {
            Apply(inner);
        }

        var builder = new GraphBuilder(graph);
        foreach (var node in graph.Nodes.ToArray())
        {
            var rule = node.Domain == OpTable.GradientDomain ? Rules[node.OpType] : null;
            builder.Before = node;
            builder.Origin = rule is null ? $"lowering {node}" : node.Origin;
            builder.Prefix = $"{(node.Name.Length > 0 ? node.Name : node.Outputs[0].Name)}/";
            if (KernelCalls.Append(builder, node, b => Body(b, node, rule)))
            {
                graph.Remove(node);
                continue;
            }

            if (rule is null)
            {
                continue;
            }

            var results = rule(builder, node);
            for (var i = 0; i < results.Length; i++)
            {
                if (results[i] is { } result)
                {
                    (result.V.Shape, result.V.Type) = (node.Outputs[i].Shape, node.Outputs[i].Type);
                    node.Outputs[i].ReplaceAllUses(result);
                }
            }

            graph.Remove(node);
        }

        graph.Prune();
    }

    private static bool HasGradientOperators(Graph graph) =>
        graph.Nodes.Any(n => n.Domain == OpTable.GradientDomain || n.Attributes.Graphs.Any(HasGradientOperators));

    /// <summary>
    /// Emits what a kernel's function does: the spelling of a gradient operator, or the operator itself.
    /// </summary>
    private static Value[] Body(GraphBuilder b, Node node, LoweringRule? rule) =>
        rule is null
            ?
            [
                .. b.Node(
                    node.OpType,
                    node.Domain,
                    [.. node.Inputs],
                    node.Outputs.Count,
                    [.. node.Attributes.All]
                ).Outputs,
            ]
            : [.. rule(b, node).Select(r => r!.Value.V)];
}
