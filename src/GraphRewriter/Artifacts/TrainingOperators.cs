using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>The operators that only ONNX Runtime's training builds have, but for those that compute gradients:
/// <see cref="GradientOperators"/>.</summary>
internal static class TrainingOperators
{
    /// <summary>The most nodes of an operator that a message names.</summary>
    private const int MostNamed = 5;

    /// <summary>The operator that hands a module's outputs to PyTorch, and takes their gradients from it.</summary>
    public const string Yield = "YieldOp";

    /// <summary>Operators that a training graph may have and that become nothing here, each with the reason.</summary>
    private static readonly Dictionary<string, string> Refused = new(StringComparer.Ordinal)
    {
        ["PythonOp"] = "it calls Python",
        ["PythonOpGrad"] = "it calls Python",
        ["TritonOp"] = "it calls a Triton kernel",
        ["Send"] = "it sends to another process",
        ["Recv"] = "it receives from another process",
        ["RecordEvent"] = "it orders processes",
        ["WaitEvent"] = "it orders processes",
    };

    /// <summary>Forward operators of training builds that <see cref="Standardize"/> spells.</summary>
    private static readonly string[] Forward =
    [
        "ATen",
        "BatchNormInternal",
        "BiasDropout",
        "BitmaskBiasDropout",
        "BitmaskDropout",
        "BroadcastGradientArgs",
        "ConcatTraining",
        "ReduceSumTraining",
        "SoftmaxCrossEntropyLossInternal",
        "SplitTraining",
        "ZeroGradient",
    ];

    /// <summary>Whether only training graphs have a node's operator.</summary>
    public static bool AreOnly(NodeProto node) =>
        node is { Domain: "com.microsoft", OpType: "InPlaceAccumulatorV2" or "InPlaceAccumulator" or Yield }
        || (GradientOperators.Find(node.Domain, node.OpType) is not null && node.OpType != "Scale")
        || (node.Domain.Length > 0 && Forward.Contains(node.OpType))
        || Refused.ContainsKey(node.OpType);

    /// <summary>
    /// Spells the forward operators of training builds with standard ones, and has gradient operators name the output
    /// of their forward node where they read what no standard operator gives.
    /// </summary>
    public static void Standardize(GraphProto graph)
    {
        var producers = ParameterUpdates.Producers(graph);
        var read = graph.Node.SelectMany(n => n.Input).ToHashSet(StringComparer.Ordinal);
        var nodes = graph.Node.ToArray();
        graph.Node.Clear();
        foreach (var node in nodes)
        {
            var spelling = new Spelling(node);
            switch (node.OpType)
            {
                case "BatchNormalizationGrad" when producers.GetValueOrDefault(node.Input[3]) is { } norm:
                    node.Input[3] = norm.Output[0];
                    node.Input.RemoveAt(4);
                    break;
                case "MaxPoolGrad" when producers.GetValueOrDefault(node.Input[1]) is { } pool:
                    node.Input[1] = pool.Output[0];
                    break;
                case "AveragePoolGrad" when node.Input.Count == 1 && AveragePool(nodes, node) is { } pool:
                    node.Input.Add(pool.Output[0]);
                    break;
                case "BatchNormInternal":
                    (node.OpType, node.Domain) = ("BatchNormalization", "");
                    Trim(node, 3);
                    break;
                case "MaxPool" when node.Output.Count > 1 && !read.Contains(node.Output[1]):
                    Trim(node, 1);
                    break;
                case "BitmaskDropout":
                    // What unpacks the mask is spelt to read a plain one.
                    (node.OpType, node.Domain) = ("Dropout", "");
                    break;
                case "BitmaskDropoutGrad":
                    node.OpType = "DropoutGrad";
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
                case "ZeroGradient":
                    spelling.Assign(0, "Sub", [node.Input[0], node.Input[0]]);
                    break;
                case "ConcatTraining":
                    Concat(spelling);
                    break;
                case "SoftmaxCrossEntropyLossInternal":
                    CrossEntropy(spelling);
                    break;
                case "BroadcastGradientArgs":
                    ReducedAxes(spelling);
                    break;
                case "BiasDropout" or "BitmaskBiasDropout":
                    BiasDropout(spelling);
                    break;
                case "ATen":
                    Embedding(spelling);
                    break;
            }

            graph.Node.AddRange(spelling.Nodes.Count > 0 ? spelling.Nodes : [node]);
        }
    }

    /// <summary>Concat, and the length of each input.</summary>
    private static void Concat(Spelling s)
    {
        var axis = s.Integer("axis", 0);
        s.Assign(0, "Concat", s.Node.Input, Attr.Int("axis", axis));
        var part =
            axis == -1 ? new[] { Attr.Int("start", axis) } : [Attr.Int("start", axis), Attr.Int("end", axis + 1)];
        s.Assign(1, "Concat", s.Node.Input.Select(i => s.Op("Shape", [i], part)), Attr.Int("axis", 0));
    }

    /// <summary>The label that is ignored is an input there: here it becomes one of its own.</summary>
    private static void CrossEntropy(Spelling s)
    {
        const long ignored = long.MinValue / 2;
        var (labels, attributes) = (
            s.Node.Input[1],
            new List<Attr> { Attr.Text("reduction", s.Text("reduction", "mean")) }
        );
        if (s.In(3) is { } label)
        {
            labels = s.Op("Cast", [labels], Attr.Int("to", (long)ElementType.Int64));
            var isIgnored = s.Op("Equal", [labels, s.Op("Cast", [label], Attr.Int("to", (long)ElementType.Int64))]);
            labels = s.Op("Where", [isIgnored, s.Ints(ignored), labels]);
            attributes.Add(Attr.Int("ignore_index", ignored));
        }

        string[] inputs = [s.Node.Input[0], labels, .. s.In(2) is { } weights ? new[] { weights } : []];
        if (s.Integer("output_type", 0) is not 0 and var type)
        {
            var results = s.Results("SoftmaxCrossEntropyLoss", inputs, s.Node.Output.Count, [.. attributes]);
            for (var i = 0; i < results.Length; i++)
            {
                s.Assign(i, "Cast", [results[i]], Attr.Int("to", type));
            }
        }
        else
        {
            s.AssignAll("SoftmaxCrossEntropyLoss", inputs, [.. attributes]);
        }
    }

    /// <summary>
    /// Gives the axes over which two shapes' gradients are summed: where, right-aligned and filled up with ones, they
    /// differ and have a 1.
    /// </summary>
    private static void ReducedAxes(Spelling s)
    {
        var ranks = s.Node.Input.Take(2).Select(i => s.Op("Shape", [i])).ToArray();
        var rank = s.Op("Max", ranks);
        var one = s.Ints(1);
        string[] shapes =
        [
            .. s
                .Node.Input.Take(2)
                .Zip(
                    ranks,
                    (shape, own) =>
                        s.Op("Concat", [s.Op("Expand", [one, s.Op("Sub", [rank, own])]), shape], Attr.Int("axis", 0))
                ),
        ];
        var differ = s.Op("Not", [s.Op("Equal", shapes)]);
        for (var i = 0; i < 2; i++)
        {
            var axes = s.Op("NonZero", [s.Op("And", [differ, s.Op("Equal", [shapes[i], one])])]);
            s.Assign(i, "Squeeze", [axes, s.Ints(0)]);
        }
    }

    /// <summary>dropout(x + bias) + residual.</summary>
    private static void BiasDropout(Spelling s)
    {
        List<string> inputs = [s.Op("Add", [s.Node.Input[0], s.Node.Input[1]]), s.In(3) ?? "", s.In(4) ?? ""];
        if (s.In(2) is not { } residual)
        {
            s.AssignAll("Dropout", inputs);
            return;
        }

        var results = s.Results("Dropout", inputs, 2);
        s.Assign(0, "Add", [results[0], residual]);
        s.Assign(1, "Identity", [results[1]]);
    }

    /// <summary>PyTorch's embedding, and its gradient, to which the rows of the padding index add nothing.</summary>
    private static void Embedding(Spelling s)
    {
        if (s.Text("operator", "") == "embedding")
        {
            s.Assign(0, "Gather", [s.Node.Input[0], s.Node.Input[1]]);
            return;
        }

        var (dY, indices, rows, padding) = (s.Node.Input[0], s.Node.Input[1], s.Node.Input[2], s.Node.Input[3]);
        var counts = s.Op("Not", [s.Op("Equal", [indices, padding])]);
        var factor = s.Op("CastLike", [s.Op("Unsqueeze", [counts, s.Ints(-1)]), dY]);
        var shape = s.Op(
            "Concat",
            [s.Op("Reshape", [rows, s.Ints(-1)]), s.Op("Shape", [dY], Attr.Int("start", -1))],
            Attr.Int("axis", 0)
        );
        s.Assign(0, "com.microsoft.GatherGrad", [shape, indices, s.Op("Mul", [dY, factor])]);
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

    /// <summary>An average pool is known by the gradient of its output, which has its name.</summary>
    private static NodeProto? AveragePool(NodeProto[] nodes, NodeProto gradient)
    {
        var pools = nodes.Where(n => n.OpType == "AveragePool").ToArray();
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

    /// <summary>Names every node of training builds that becomes nothing here, with the reason.</summary>
    public static void RequireKnown(ModelProto model, string path)
    {
        var unknown = model
            .Graph.Node.Select(n => (Node: n, Reason: ReasonAgainst(model.Graph, n)))
            .Where(n => n.Reason is not null)
            .GroupBy(n => (n.Node.OpType, n.Reason))
            .Select(g =>
                $"{g.Key.OpType} ({(g.Count() == 1 ? "node" : "nodes")} "
                + string.Join(", ", g.Take(MostNamed).Select(n => $"'{n.Node.Name}'"))
                + $"{(g.Count() > MostNamed ? $" and {g.Count() - MostNamed} more" : "")}: {g.Key.Reason})"
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

    /// <summary>Says why a node becomes nothing here; null where it becomes something.</summary>
    private static string? ReasonAgainst(GraphProto graph, NodeProto node)
    {
        if (Refused.TryGetValue(node.OpType, out var reason))
        {
            return reason;
        }

        if (node.OpType == "ATen")
        {
            var function = node.Attribute.FirstOrDefault(a => a.Name == "operator")?.S.ToStringUtf8();
            return function is not ("embedding" or "embedding_backward") ? $"it calls PyTorch's '{function}'"
                : node.Input.Skip(function == "embedding" ? 3 : 4).Any(i => !IsFalse(graph, i))
                    ? "it scales by frequency, or has sparse gradients"
                : null;
        }

        var isOfTraining =
            node.Domain is "com.microsoft" or "ai.onnx" or ""
            && (
                node.OpType.EndsWith("Grad", StringComparison.Ordinal)
                || node.OpType.EndsWith("Training", StringComparison.Ordinal)
                || node.OpType.EndsWith("Internal", StringComparison.Ordinal)
            );
        return !isOfTraining
            || Forward.Contains(node.OpType)
            || node.OpType == "BitmaskDropoutGrad"
            || GradientOperators.Find(node.Domain, node.OpType) is not null
                ? null
            : node.OpType.Contains("LSTM", StringComparison.Ordinal)
            || node.OpType.Contains("GRU", StringComparison.Ordinal)
                ? "gradients of recurrent layers are not known in this form"
            : "it is not in the table of docs/artifacts.md";
    }

    private static bool IsFalse(GraphProto graph, string name) =>
        ParameterUpdates.TensorOf(graph, name) is { Type: ElementType.Bool, ElementCount: 1 } flag
        && !flag.Span<bool>()[0];
}
