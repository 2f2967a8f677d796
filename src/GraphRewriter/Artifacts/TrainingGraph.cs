using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>
/// A training graph of ONNX Runtime, understood: parameters are initializers, accumulators are gone, and the forward
/// part ends in the loss.
/// </summary>
/// <remarks>
/// Names follow the contract of <c>onnxruntime.training</c> 1.13 to 1.19: a parameter P has the gradient P_grad and the
/// accumulation buffer P_grad.accumulation.buffer, and a value V the gradient V_grad. Names are looked up, never taken
/// apart.
/// </remarks>
internal sealed class TrainingGraph
{
    private const string GradientSuffix = "_grad";
    private const string BufferSuffix = ".accumulation.buffer";

    /// <summary>Operators that a training graph may have and that become nothing here, each with the reason.</summary>
    private static readonly Dictionary<string, string> Refused = new(StringComparer.Ordinal)
    {
        ["YieldOp"] = "hands outputs to PyTorch and takes their gradients from it: the file has no loss",
        ["ATen"] = "calls PyTorch's library",
        ["PythonOp"] = "calls Python",
        ["PythonOpGrad"] = "calls Python",
        ["TritonOp"] = "calls a Triton kernel",
        ["Send"] = "sends to another process",
        ["Recv"] = "receives from another process",
        ["BroadcastGradientArgs"] = "computes the axes of a sum while training runs",
    };

    private TrainingGraph(
        ModelProto whole,
        ModelProto forward,
        Dictionary<string, string> gradients,
        Dictionary<string, DeclaredKind> kinds
    ) => (Whole, Forward, Gradients, Kinds) = (whole, forward, gradients, kinds);

    /// <summary>Gets the graph: its outputs are those of the forward part, then the gradients.</summary>
    public ModelProto Whole { get; }

    /// <summary>Gets the forward part; its first output is the loss.</summary>
    public ModelProto Forward { get; }

    /// <summary>Gets the gradient's name for each parameter that has one.</summary>
    public IReadOnlyDictionary<string, string> Gradients { get; }

    /// <summary>Gets what is known of initializers.</summary>
    public IReadOnlyDictionary<string, DeclaredKind> Kinds { get; }

    /// <summary>Gets where gradients come from.</summary>
    public GradientSource Source(string path, bool rebuilds) =>
        rebuilds ? new RuleGradients() : new FileGradients(Whole, Gradients, path);

    /// <summary>Whether only training graphs have an operator.</summary>
    public static bool IsTrainingOperator(NodeProto node) =>
        node is { Domain: "com.microsoft", OpType: "InPlaceAccumulatorV2" or "InPlaceAccumulator" }
        || (GradientOperators.Find(node.Domain, node.OpType) is not null && node.OpType != "Scale")
        || Refused.ContainsKey(node.OpType);

    /// <summary>Understands the training graph of artifacts.</summary>
    /// <param name="artifacts">The artifacts.</param>
    /// <param name="rebuilds">Whether only the forward part is needed.</param>
    /// <exception cref="MacOnnxException">Operators are not known (MAC0801), or there is no loss or no parameter
    /// (MAC0804, MAC0805).</exception>
    public static TrainingGraph Make(TrainingArtifacts artifacts, bool rebuilds)
    {
        var (model, path) = (artifacts.Training.Clone(), artifacts.Path);
        if (!rebuilds)
        {
            RequireKnown(model, path);
        }

        var kinds = WithParameters(model, artifacts.Checkpoint, path);
        var accumulators = Accumulators(model.Graph);
        var gradients = GradientsOf(model.Graph, accumulators);
        Require(
            gradients.Count > 0 || rebuilds,
            "MAC0804",
            path,
            "The graph accumulates no parameter's gradient.",
            "Give the checkpoint that belongs to it."
        );
        foreach (var name in model.Graph.Initializer.Select(i => i.Name))
        {
            if (!kinds.ContainsKey(name))
            {
                kinds[name] = gradients.ContainsKey(name) ? DeclaredKind.Parameter : DeclaredKind.ConstantTensor;
            }
        }

        Remove(model.Graph, accumulators);
        FixDimensions(model.Graph);
        Standardize(model.Graph);
        var forward = model.Clone();
        var outputs = ForwardOutputs(model.Graph, gradients.Values);
        Require(outputs.Count > 0, "MAC0804", path, "The graph has no output that is a loss.", "Generate it again.");
        Keep(forward, outputs);
        Keep(model, [.. outputs, .. gradients.Values.Select(g => new ValueInfoProto { Name = g })]);
        if (rebuilds)
        {
            RequireKnown(forward, path);
        }

        foreach (var (part, file) in new[] { (model, path), (forward, path) })
        {
            ModelReader.Normalize(part, file);
        }

        return new(model, forward, gradients, kinds);
    }

    /// <summary>Understands the evaluation graph: the same parameters, in inference mode.</summary>
    public static ModelProto Evaluation(TrainingArtifacts artifacts)
    {
        var (original, path) = artifacts.Evaluation!.Value;
        var model = original.Clone();
        WithParameters(model, artifacts.Checkpoint, path);
        FixDimensions(model.Graph);
        Standardize(model.Graph);
        RequireKnown(model, path);
        ModelReader.Normalize(model, path);
        return model;
    }

    /// <summary>Gives the part of the evaluation graph, else of the training graph, that computes some values, for
    /// inference.</summary>
    /// <exception cref="MacOnnxException">There is no such value (MAC0201).</exception>
    public static ModelProto Inference(TrainingArtifacts artifacts, IReadOnlyCollection<string> outputs)
    {
        var (original, path) = artifacts.Evaluation ?? (artifacts.Training, artifacts.Path);
        var model = original.Clone();
        var known = model.Graph.Node.SelectMany(n => n.Output).ToHashSet(StringComparer.Ordinal);
        foreach (var output in outputs)
        {
            Require(
                known.Contains(output),
                "MAC0201",
                path,
                $"Nothing computes '{output}'.",
                "Name a value of the graph."
            );
        }

        WithParameters(model, artifacts.Checkpoint, path);
        Standardize(model.Graph);
        var declared = model.Graph.ValueInfo.Concat(model.Graph.Output).ToLookup(v => v.Name, StringComparer.Ordinal);
        Keep(model, [.. outputs.Select(o => declared[o].FirstOrDefault() ?? new ValueInfoProto { Name = o })]);
        Modes.ForInference(model);
        return model;
    }

    /// <summary>Gives the nodes that accumulate gradients.</summary>
    public static NodeProto[] Accumulators(GraphProto graph) =>
        [.. graph.Node.Where(n => n is { OpType: "InPlaceAccumulatorV2" or "InPlaceAccumulator", Input.Count: >= 2 })];

    /// <summary>Gives the inputs that only accumulators read.</summary>
    public static HashSet<string> AccumulatorInputs(GraphProto graph)
    {
        var accumulators = Accumulators(graph);
        var read = accumulators.SelectMany(a => a.Input).ToHashSet(StringComparer.Ordinal);
        read.ExceptWith(graph.Node.Except(accumulators).SelectMany(n => n.Input));
        return read;
    }

    /// <summary>
    /// Gives the part of a graph that predicts: what comes before the nodes that depend on the target, which is an
    /// input that no parameter is applied to, not even indirectly.
    /// </summary>
    public static ModelProto Prediction(ModelProto model)
    {
        var part = model.Clone();
        var graph = part.Graph;
        var parameters = graph.Initializer.Select(i => i.Name).ToHashSet(StringComparer.Ordinal);
        var after = new HashSet<string>(StringComparer.Ordinal);
        foreach (var input in graph.Input.Select(i => i.Name).Where(i => !parameters.Contains(i)))
        {
            var dependents = Dependents(graph, [input]);
            if (
                !graph.Node.Any(n =>
                    n.Output.Any(dependents.Contains) && n.Input.Any(i => parameters.Contains(i) && IsWeight(graph, i))
                )
            )
            {
                after.UnionWith(dependents);
            }
        }

        var read = graph
            .Node.Where(n => n.Output.Any(after.Contains))
            .SelectMany(n => n.Input)
            .ToHashSet(StringComparer.Ordinal);
        var predictions = graph
            .Node.SelectMany(n => n.Output)
            .Where(o => read.Contains(o) && !after.Contains(o))
            .Select(o => new ValueInfoProto { Name = o })
            .ToList();
        if (predictions.Count > 0)
        {
            Keep(part, predictions);
        }

        return part;
    }

    private static bool IsWeight(GraphProto graph, string name) =>
        graph.Initializer.First(i => i.Name == name) is { DataType: 1 or 10 or 16, Dims.Count: > 1 };

    /// <summary>Makes initializers of the parameters, with the checkpoint's values.</summary>
    private static Dictionary<string, DeclaredKind> WithParameters(
        ModelProto model,
        OrtCheckpointFile? checkpoint,
        string path
    )
    {
        var kinds = new Dictionary<string, DeclaredKind>(StringComparer.Ordinal);
        if (checkpoint is null)
        {
            return kinds;
        }

        Require(
            !checkpoint.IsNominal,
            "MAC0805",
            path,
            "The checkpoint is nominal: it holds names and no values.",
            "Give a checkpoint with values; in C#, fill it with OrtCheckpoint.FromBuffer."
        );
        var inputs = model.Graph.Input.ToDictionary(i => i.Name, StringComparer.Ordinal);
        foreach (var (name, tensor) in checkpoint.Parameters)
        {
            if (!inputs.TryGetValue(name, out var input))
            {
                continue;
            }

            var declared = input.Type?.TensorType;
            var dims = declared?.Shape?.Dim.Select(d => d.HasDimValue ? d.DimValue : -1).ToArray();
            Require(
                declared?.ElemType == (int)tensor.Type
                    && dims?.Length == tensor.Dims.Length
                    && dims.Zip(tensor.Dims, (d, t) => d < 0 || d == t).All(same => same),
                "MAC0406",
                name,
                $"The checkpoint has {tensor} where the graph has another type or shape.",
                "Use a checkpoint of this model."
            );
            model.Graph.Input.Remove(input);
            model.Graph.Initializer.Add(TensorFormat.ToProto(tensor, name));
            kinds[name] = checkpoint.Trainable.ContainsKey(name) ? DeclaredKind.Parameter : DeclaredKind.Frozen;
        }

        return kinds;
    }

    private static Dictionary<string, string> GradientsOf(GraphProto graph, NodeProto[] accumulators)
    {
        var parameters = graph.Initializer.Select(i => i.Name).ToDictionary(n => n + GradientSuffix);
        var buffers = parameters.ToDictionary(p => p.Key + BufferSuffix, p => p.Value, StringComparer.Ordinal);
        var accumulated = accumulators
            .Select(a =>
                (
                    Parameter: buffers.GetValueOrDefault(a.Input[0]) ?? parameters.GetValueOrDefault(a.Input[1]),
                    a.Input[1]
                )
            )
            .Where(g => g.Parameter is not null)
            .DistinctBy(g => g.Parameter)
            .ToDictionary(g => g.Parameter!, g => g.Item2, StringComparer.Ordinal);
        return accumulated.Count > 0
            ? accumulated
            : graph
                .Node.SelectMany(n => n.Output)
                .Where(parameters.ContainsKey)
                .Distinct(StringComparer.Ordinal)
                .ToDictionary(o => parameters[o], StringComparer.Ordinal);
    }

    /// <summary>Removes accumulators, and the inputs that only they read.</summary>
    private static void Remove(GraphProto graph, NodeProto[] accumulators)
    {
        var written = accumulators.SelectMany(a => a.Output).ToHashSet(StringComparer.Ordinal);
        var read = AccumulatorInputs(graph);
        foreach (var node in accumulators)
        {
            graph.Node.Remove(node);
        }

        RemoveWhere(graph.Input, i => read.Contains(i.Name));
        RemoveWhere(graph.Output, o => written.Contains(o.Name));
    }

    /// <summary>
    /// Spells the forward operators of training builds with standard ones, and has gradient operators name the output
    /// of their forward node where they read what no standard operator gives.
    /// </summary>
    private static void Standardize(GraphProto graph)
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
    private static void FixDimensions(GraphProto graph)
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
        return pools.FirstOrDefault(p => p.Output[0] + GradientSuffix == gradient.Input[0])
            ?? (pools.Length == 1 ? pools[0] : null);
    }

    private static void Trim(NodeProto node, int outputs)
    {
        while (node.Output.Count > outputs)
        {
            node.Output.RemoveAt(node.Output.Count - 1);
        }
    }

    /// <summary>Gives the outputs that do not depend on the gradient that backward starts from: that of the
    /// loss.</summary>
    private static List<ValueInfoProto> ForwardOutputs(GraphProto graph, IEnumerable<string> gradients)
    {
        var seeds = graph.Output.Select(o => o.Name + GradientSuffix);
        var backward = Dependents(graph, seeds);
        backward.UnionWith(gradients);
        return [.. graph.Output.Where(o => !backward.Contains(o.Name))];
    }

    /// <summary>Gives the values that depend on some others.</summary>
    private static HashSet<string> Dependents(GraphProto graph, IEnumerable<string> values)
    {
        var dependents = values.ToHashSet(StringComparer.Ordinal);
        var before = -1;
        while (before != dependents.Count)
        {
            before = dependents.Count;
            foreach (var node in graph.Node.Where(n => n.Input.Any(i => i.Length > 0 && dependents.Contains(i))))
            {
                dependents.UnionWith(node.Output.Where(o => o.Length > 0));
            }
        }

        return dependents;
    }

    /// <summary>Keeps the nodes, initializers and operator sets that some outputs need.</summary>
    private static void Keep(ModelProto model, IReadOnlyList<ValueInfoProto> outputs)
    {
        var graph = model.Graph;
        var live = outputs.Select(o => o.Name).ToHashSet(StringComparer.Ordinal);
        var kept = new HashSet<NodeProto>(ReferenceEqualityComparer.Instance);
        var before = -1;
        while (before != kept.Count)
        {
            before = kept.Count;
            foreach (var node in graph.Node.Reverse().Where(n => !kept.Contains(n) && n.Output.Any(live.Contains)))
            {
                kept.Add(node);
                live.UnionWith(
                    node.Input.Concat(
                        node.Attribute.SelectMany(OpsetUpgrade.Subgraphs).SelectMany(GraphImporter.OuterNames)
                    )
                );
            }
        }

        RemoveWhere(graph.Node, n => !kept.Contains(n));
        RemoveWhere(graph.Initializer, i => !live.Contains(i.Name));
        RemoveWhere(graph.Input, i => !live.Contains(i.Name));
        graph.ValueInfo.Clear();
        graph.Output.Clear();
        graph.Output.AddRange(outputs.Select(o => o.Clone()));
        var domains = graph.Node.Select(n => n.Domain).Append("").Append("ai.onnx").ToHashSet(StringComparer.Ordinal);
        RemoveWhere(model.OpsetImport, o => !domains.Contains(o.Domain));
    }

    /// <summary>Names every operator of training builds that becomes nothing here.</summary>
    private static void RequireKnown(ModelProto model, string path)
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
        Require(
            unknown.Length == 0,
            "MAC0801",
            path,
            $"These operators of the training graph have no counterpart: {string.Join(", ", unknown)}.",
            "Rewrite the forward model that the graph was made from."
        );
    }

    private static void RemoveWhere<T>(Google.Protobuf.Collections.RepeatedField<T> list, Func<T, bool> condition)
    {
        var kept = list.Where(e => !condition(e)).ToArray();
        list.Clear();
        list.AddRange(kept);
    }

    private static void Require(bool holds, string id, string where, string what, string hint)
    {
        if (!holds)
        {
            throw new MacOnnxException(id, where, what, hint);
        }
    }
}
