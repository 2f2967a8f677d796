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
        Activations.Rules,
        Convolution.Rules,
        Pooling.Rules,
        Normalization.Rules,
        ReluFusion.Rules,
    }
        .SelectMany(r => r)
        .ToFrozenDictionary(r => r.OpType, r => r.Rule, StringComparer.Ordinal);

    /// <summary>Replaces every gradient operator in the graph.</summary>
    public static void Apply(Graph graph)
    {
        graph.Prune();
        ReluFusion.Apply(graph);
        var old = graph.Nodes.ToArray();
        graph.Nodes.Clear();
        var builder = new GraphBuilder(graph);
        var replaced = new Dictionary<Value, Value>();
        foreach (var node in old)
        {
            for (var i = 0; i < node.Inputs.Count; i++)
            {
                if (node.Inputs[i] is { } input && replaced.TryGetValue(input, out var replacement))
                {
                    node.Inputs[i] = replacement;
                }
            }

            var rule = node.Domain == OpTable.GradientDomain ? Rules[node.OpType] : null;
            (builder.Origin, builder.Prefix) = (
                rule is null ? $"lowering {node}" : node.Origin,
                $"{(node.Name.Length > 0 ? node.Name : node.Outputs[0].Name)}/"
            );
            if (
                KernelCalls.Append(
                    builder,
                    node,
                    b =>
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
                            : [.. rule(b, node).Select(r => r!.Value.V)]
                )
                is not null
            )
            {
                continue;
            }

            if (rule is null)
            {
                graph.Nodes.Add(node);
                continue;
            }

            var results = rule(builder, node);
            for (var i = 0; i < results.Length; i++)
            {
                if (results[i] is { } result)
                {
                    (result.V.Shape, result.V.Type) = (node.Outputs[i].Shape, node.Outputs[i].Type);
                    replaced[node.Outputs[i]] = result;
                }
            }
        }

        foreach (var (from, to) in replaced)
        {
            for (var i = 0; i < graph.Outputs.Count; i++)
            {
                if (ReferenceEquals(graph.Outputs[i], from))
                {
                    graph.Outputs[i] = to;
                }
            }
        }

        graph.Prune();
    }
}
