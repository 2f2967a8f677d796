using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>
/// Joins a batch normalization in training mode with the Relu that alone reads it, and their gradients likewise: a
/// kernel then saves a pass over the activations each way.
/// </summary>
internal static class ReluFusion
{
    public static IEnumerable<(string OpType, LoweringRule Rule)> Rules { get; } =
    [("BatchNormRelu", Forward), ("BatchNormReluGrad", Backward)];

    public static void Apply(Graph graph)
    {
        var readers = graph.Readers();
        var outputs = graph.Outputs.ToHashSet();
        foreach (var node in graph.Nodes.ToArray())
        {
            var (first, second, inputs) = node switch
            {
                { OpType: "BatchNormalization" }
                    when node.Is(node.OpType)
                        && node.Attributes.Int("training_mode", 0) == 1
                        && node.Outputs.Count == 3
                        && OnlyReader(node.Outputs[0]) is { OpType: "Relu" } relu => (node, relu, node.Inputs),
                { Domain: OpTable.GradientDomain, OpType: "BatchNormGrad" }
                    when node.Inputs[0] is { Producer: { OpType: "ReluGrad" } relu } dY && OnlyReader(dY) is not null =>
                    (relu, node, [relu.Inputs[0], .. node.Inputs.Skip(1), relu.Inputs[1]]),
                _ => (null!, null!, null!),
            };
            if (first is null)
            {
                continue;
            }

            var isForward = ReferenceEquals(first, node);
            var joined = new Node(
                isForward ? "BatchNormRelu" : "BatchNormReluGrad",
                OpTable.GradientDomain,
                second.Name.Length > 0 ? second.Name : second.Outputs[0].Name,
                inputs,
                node.Attributes.All,
                isForward ? [second.Outputs[0], .. node.Outputs.Skip(1)] : node.Outputs
            )
            {
                Origin = isForward ? $"lowering {second}" : node.Origin,
            };
            if (!KernelCalls.TakesNormalization(joined))
            {
                continue;
            }

            graph.Replace(node, joined);
            graph.Remove(isForward ? second : first);
        }

        Node? OnlyReader(Value value) =>
            !outputs.Contains(value) && readers[value].Count() == 1 ? readers[value].Single() : null;
    }

    private static Term?[] Forward(GraphBuilder b, Node node)
    {
        var normalization = b.Node("BatchNormalization", "", [.. node.Inputs], 3, [.. node.Attributes.All]);
        return
        [
            new Term(b, normalization.Outputs[0]).Relu(),
            .. normalization.Outputs.Skip(1).Select(o => (Term?)new Term(b, o)),
        ];
    }

    private static Term?[] Backward(GraphBuilder b, Node node) =>
        NormalizationLowering.BatchNorm(
            b,
            node,
            ActivationLowering.Relu(new(b, node.Inputs[0]!), new(b, node.Inputs[5]!))
        );
}
