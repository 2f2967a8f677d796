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
    }
        .SelectMany(r => r)
        .ToFrozenDictionary(r => r.OpType, r => r.Rule, StringComparer.Ordinal);

    /// <summary>
    /// Whether a runtime may have a kernel for a gradient operator: it is then spelled inside a function of the same
    /// name.
    /// </summary>
    private static bool HasKernel(Node node) =>
        node.Outputs[0].Type == ElementType.Float
        && node.OpType switch
        {
            "ReluGrad" or "GeluGrad" => true,
            "SoftmaxGrad" => node.Attributes.Int("axis", -1) == node.Outputs[0].Rank - 1,
            "LayerNormGrad" => node.Inputs.All(i => i is { Type: ElementType.Float }),
            "MaxPoolGrad" => Windows.Of(node).Rank <= 2,
            _ => false,
        };

    /// <summary>Replaces every gradient operator in the graph.</summary>
    public static void Apply(Graph graph)
    {
        graph.Prune();
        var builder = new GraphBuilder(graph);
        foreach (var node in graph.Nodes.Where(n => n.Domain == OpTable.GradientDomain))
        {
            builder.Before = node;
            (builder.Origin, builder.Prefix) = (node.Origin, node.Name + "/");
            var results = HasKernel(node)
                ?
                [
                    .. FunctionCall
                        .Append(
                            builder,
                            node.OpType,
                            [.. node.Inputs.OfType<Value>()],
                            [.. node.Attributes.All],
                            b => [.. Rules[node.OpType](b, node).Select(r => r!.Value.V)]
                        )
                        .Select(v => (Term?)new Term(builder, v)),
                ]
                : Rules[node.OpType](builder, node);
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
}
