using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>The operators that only ONNX Runtime's training builds have, but for those that compute gradients:
/// <see cref="GradientOperators"/>.</summary>
internal static class TrainingOperators
{
    /// <summary>The operator that hands a module's outputs to PyTorch, and takes their gradients from it.</summary>
    public const string Yield = "YieldOp";

    /// <summary>Operators that a training graph may have and that become nothing here, each with the reason.</summary>
    private static readonly Dictionary<string, string> Refused = new(StringComparer.Ordinal)
    {
        ["ATen"] = "calls PyTorch's library",
        ["PythonOp"] = "calls Python",
        ["PythonOpGrad"] = "calls Python",
        ["TritonOp"] = "calls a Triton kernel",
        ["Send"] = "sends to another process",
        ["Recv"] = "receives from another process",
        ["BroadcastGradientArgs"] = "computes the axes of a sum while training runs",
    };

    /// <summary>Whether only training graphs have a node's operator.</summary>
    public static bool AreOnly(NodeProto node) =>
        node is { Domain: "com.microsoft", OpType: "InPlaceAccumulatorV2" or "InPlaceAccumulator" or Yield }
        || (GradientOperators.Find(node.Domain, node.OpType) is not null && node.OpType != "Scale")
        || Refused.ContainsKey(node.OpType);

    /// <summary>
    /// Spells the forward operators of training builds with standard ones, and has gradient operators name the output
    /// of their forward node where they read what no standard operator gives.
    /// </summary>
    public static void Standardize(GraphProto graph)
    {
        var producers = graph
            .Node.SelectMany(n => n.Output.Where(o => o.Length > 0).Select(o => (o, n)))
            .DistinctBy(p => p.o)
            .ToDictionary(p => p.o, p => p.n, StringComparer.Ordinal);
        foreach (var node in graph.Node)
        {
            switch (node.OpType)
            {
                case "BatchNormalizationGrad" when producers.GetValueOrDefault(node.Input[3]) is { } norm:
                    node.Input[3] = norm.Output[0];
                    node.Input.RemoveAt(4);
                    break;
                case "MaxPoolGrad" when producers.GetValueOrDefault(node.Input[1]) is { } pool:
                    node.Input[1] = pool.Output[0];
                    break;
                case "AveragePoolGrad" when node.Input.Count == 1 && AveragePool(graph, node) is { } pool:
                    node.Input.Add(pool.Output[0]);
                    break;
                case "ConcatTraining" when IsSpelt(node):
                    (node.OpType, node.Domain) = ("Concat", "");
                    Trim(node, 1);
                    break;
                case "SoftmaxCrossEntropyLossInternal" when IsSpelt(node):
                    (node.OpType, node.Domain) = ("SoftmaxCrossEntropyLoss", "");
                    break;
                case "ReduceSumTraining":
                    (node.OpType, node.Domain) = ("ReduceSum", "");
                    break;
                case "SplitTraining":
                    (node.OpType, node.Domain) = ("Split", "");
                    break;
                case "PassThrough" or "View" when node.Input.Count == 1:
                    (node.OpType, node.Domain) = ("Identity", "");
                    break;
            }
        }

        var read = graph.Node.SelectMany(n => n.Input).ToHashSet(StringComparer.Ordinal);
        foreach (var node in graph.Node)
        {
            if (node.OpType == "BatchNormInternal")
            {
                (node.OpType, node.Domain) = ("BatchNormalization", "");
                Trim(node, 3);
            }
            else if (node.OpType == "MaxPool" && node.Output.Count > 1 && !read.Contains(node.Output[1]))
            {
                Trim(node, 1);
            }
        }
    }

    /// <summary>
    /// Gives dynamic dimensions of inputs the size that a weight fixes: exporters leave even features open.
    /// </summary>
    public static void FixDimensions(GraphProto graph)
    {
        var weights = graph.Initializer.ToDictionary(i => i.Name, i => i.Dims, StringComparer.Ordinal);
        var inputs = graph.Input.ToDictionary(i => i.Name, i => i.Type?.TensorType?.Shape, StringComparer.Ordinal);
        foreach (var node in graph.Node.Where(n => n.Input.Count > 1))
        {
            if (
                inputs.GetValueOrDefault(node.Input[0])?.Dim is { Count: > 1 } dims
                && weights.GetValueOrDefault(node.Input[1]) is { Count: > 1 } weight
            )
            {
                long Flag(string name, long fallback) =>
                    node.Attribute.FirstOrDefault(a => a.Name == name)?.I ?? fallback;
                var (axis, size) = node.OpType switch
                {
                    "Gemm" => (Flag("transA", 0) == 0 ? 1 : 0, weight[(int)Flag("transB", 0)]),
                    "MatMul" => (dims.Count - 1, weight[^2]),
                    "Conv" => (1, weight[1] * Flag("group", 1)),
                    _ => (-1, 0),
                };
                if (axis >= 0 && !dims[axis].HasDimValue)
                {
                    dims[axis] = new TensorShapeProto.Types.Dimension { DimValue = size };
                }
            }
        }
    }

    /// <summary>Whether an operator of training builds is one that <see cref="Standardize"/> spells.</summary>
    private static bool IsSpelt(NodeProto node) =>
        node.OpType is "ReduceSumTraining" or "SplitTraining" or "BatchNormInternal"
        || (node.OpType == "ConcatTraining" && node.Output.Skip(1).All(o => o.Length == 0))
        || (
            node.OpType == "SoftmaxCrossEntropyLossInternal"
            && node.Input.Count <= 3
            && node.Attribute.All(a => a.Name == "reduction")
        );

    /// <summary>An average pool is known by the gradient of its output, which has its name.</summary>
    private static NodeProto? AveragePool(GraphProto graph, NodeProto gradient)
    {
        var pools = graph.Node.Where(n => n.OpType == "AveragePool").ToArray();
        return pools.FirstOrDefault(p => p.Output[0] + TrainingGraph.GradientSuffix == gradient.Input[0])
            ?? (pools.Length == 1 ? pools[0] : null);
    }

    private static void Trim(NodeProto node, int outputs)
    {
        while (node.Output.Count > outputs)
        {
            node.Output.RemoveAt(node.Output.Count - 1);
        }
    }

    /// <summary>Names every operator of training builds that becomes nothing here.</summary>
    public static void RequireKnown(ModelProto model, string path)
    {
        var unknown = model
            .Graph.Node.Where(n =>
                Refused.ContainsKey(n.OpType)
                || (
                    !IsSpelt(n)
                    && GradientOperators.Find(n.Domain, n.OpType) is null
                    && n.Domain is "com.microsoft" or "ai.onnx" or ""
                    && (
                        n.OpType.EndsWith("Grad", StringComparison.Ordinal)
                        || n.OpType.EndsWith("Training", StringComparison.Ordinal)
                        || n.OpType.EndsWith("Internal", StringComparison.Ordinal)
                    )
                )
            )
            .GroupBy(n => n.OpType, StringComparer.Ordinal)
            .Select(g =>
                $"{g.Key} (node '{g.First().Name}'{(g.Count() > 1 ? $" and {g.Count() - 1} more" : "")}"
                + $"{(Refused.TryGetValue(g.Key, out var reason) ? $": it {reason}" : "")})"
            )
            .ToArray();
        if (unknown.Length > 0)
        {
            throw new MacOnnxException(
                "MAC0801",
                path,
                $"These operators of the training graph have no counterpart: {string.Join(", ", unknown)}.",
                "Rewrite the forward model that the graph was made from."
            );
        }
    }
}
