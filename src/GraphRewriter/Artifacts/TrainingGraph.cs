using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>
/// A training graph, understood: parameters are initializers, accumulators and updates are gone, and the forward part
/// ends in the loss, or in the outputs of the module whose loss is elsewhere.
/// </summary>
/// <remarks>
/// Names follow the contract of <c>onnxruntime.training</c> 1.13 to 1.19: a parameter P has the gradient P_grad and the
/// accumulation buffer P_grad.accumulation.buffer, and a value V the gradient V_grad. Names are looked up, never taken
/// apart. Where the graph updates its parameters itself, the updates say what they are and which their gradients.
/// </remarks>
internal sealed class TrainingGraph
{
    /// <summary>What is added to a value's name for its gradient.</summary>
    public const string GradientSuffix = "_grad";

    private const string BufferSuffix = ".accumulation.buffer";

    private TrainingGraph(ModelProto whole, ModelProto forward) => (Whole, Forward) = (whole, forward);

    /// <summary>Gets the graph: its outputs are those of the forward part, then the gradients.</summary>
    public ModelProto Whole { get; }

    /// <summary>Gets the forward part; its first output is the loss where <see cref="HasLoss"/>.</summary>
    public ModelProto Forward { get; }

    /// <summary>Gets the gradient's name for each parameter that has one.</summary>
    public required IReadOnlyDictionary<string, string> Gradients { get; init; }

    /// <summary>Gets, for outputs of the forward part, the values that the backward part reads as their
    /// gradients.</summary>
    public required IReadOnlyDictionary<string, string> Seeds { get; init; }

    /// <summary>Gets what is known of initializers.</summary>
    public required IReadOnlyDictionary<string, DeclaredKind> Kinds { get; init; }

    /// <summary>Gets whether the graph computes the loss.</summary>
    public required bool HasLoss { get; init; }

    /// <summary>Gets whether the graph updates its parameters itself.</summary>
    public bool IsWhole { get; private init; }

    /// <summary>Gets the optimizer's state that the graph holds; null where it is that of the start.</summary>
    public OrtOptimizerGroup? State { get; private init; }

    /// <summary>Gets where gradients come from.</summary>
    public GradientSource Source(string path, bool rebuilds) =>
        rebuilds ? new RuleGradients() : new FileGradients(Whole, Gradients, Seeds, path);

    /// <summary>Whether a graph holds more than a forward pass: operators of training builds, or updates of its own
    /// initializers.</summary>
    public static bool IsTraining(GraphProto graph) =>
        graph.Node.Any(TrainingOperators.AreOnly) || ParameterUpdates.Find(graph).Length > 0;

    /// <summary>Understands a training graph.</summary>
    /// <param name="artifacts">The artifacts.</param>
    /// <param name="rebuilds">Whether only the forward part is needed.</param>
    /// <exception cref="MacOnnxException">Operators are not known (MAC0801), or there is no loss or no parameter
    /// (MAC0804, MAC0805).</exception>
    public static TrainingGraph Make(TrainingArtifacts artifacts, bool rebuilds)
    {
        var (model, path) = (artifacts.Training.Clone(), artifacts.Path);
        var graph = model.Graph;
        if (!rebuilds)
        {
            TrainingOperators.RequireKnown(model, path);
        }

        var kinds = WithParameters(model, artifacts.Checkpoint, path);
        var accumulators = Accumulators(graph);
        var updates = Updates(graph, path);
        var state = updates.Length > 0 ? OptimizerModel.StateOf(graph, updates) : null;
        var gradients = updates.Length > 0 ? GradientsOf(graph, updates, path) : GradientsOf(graph, accumulators);
        Require(
            gradients.Count > 0 || rebuilds,
            "MAC0804",
            path,
            "The graph computes no parameter's gradient.",
            "Give the checkpoint that belongs to it."
        );
        foreach (var name in graph.Initializer.Select(i => i.Name))
        {
            if (!kinds.ContainsKey(name))
            {
                kinds[name] = gradients.ContainsKey(name) ? DeclaredKind.Parameter : DeclaredKind.ConstantTensor;
            }
        }

        Remove(graph, accumulators);
        TrainingOperators.FixDimensions(graph);
        TrainingOperators.Standardize(graph);
        var module = ModuleOutputs(graph);
        var outputs = module?.Outputs ?? ForwardOutputs(graph, gradients.Values);
        Require(outputs.Count > 0, "MAC0804", path, "The graph has no output that is a loss.", "Generate it again.");
        var forward = model.Clone();
        GraphParts.Keep(forward, outputs);
        GraphParts.Keep(model, [.. outputs, .. gradients.Values.Select(g => new ValueInfoProto { Name = g })]);
        if (rebuilds)
        {
            TrainingOperators.RequireKnown(forward, path);
        }

        ModelReader.Normalize(model, path);
        ModelReader.Normalize(forward, path);
        return new(model, forward)
        {
            Gradients = gradients,
            Seeds = module?.Seeds ?? Seeded(graph, outputs),
            Kinds = kinds,
            HasLoss = module is null || IsLoss(graph, outputs[0]),
            IsWhole = updates.Length > 0,
            State = state,
        };
    }

    /// <summary>Understands the evaluation graph: the same parameters, in inference mode.</summary>
    public static ModelProto Evaluation(TrainingArtifacts artifacts)
    {
        var (original, path) = artifacts.Evaluation!.Value;
        var model = original.Clone();
        WithParameters(model, artifacts.Checkpoint, path);
        TrainingOperators.FixDimensions(model.Graph);
        TrainingOperators.Standardize(model.Graph);
        TrainingOperators.RequireKnown(model, path);
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
        TrainingOperators.Standardize(model.Graph);
        var declared = model.Graph.ValueInfo.Concat(model.Graph.Output).ToLookup(v => v.Name, StringComparer.Ordinal);
        GraphParts.Keep(
            model,
            [.. outputs.Select(o => declared[o].FirstOrDefault() ?? new ValueInfoProto { Name = o })]
        );
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

    /// <summary>
    /// Gives the graph's own updates. Copies of less precision that the forward part reads become casts of the
    /// parameters.
    /// </summary>
    private static ParameterUpdate[] Updates(GraphProto graph, string path)
    {
        var updates = ParameterUpdates.Find(graph);
        var initializers = graph.Initializer.ToDictionary(i => i.Name, StringComparer.Ordinal);
        foreach (var update in updates)
        {
            Require(
                update is { Weight: { } weight, Gradient: not null } && initializers.ContainsKey(weight),
                "MAC0804",
                path,
                $"{update.Node.OpType} updates '{update.Weight}', which has no value or no gradient in the graph.",
                "Give the checkpoint that belongs to it."
            );
            if (update.Copy is { } copy && initializers.TryGetValue(copy, out var rounded))
            {
                graph.Initializer.Remove(rounded);
                graph.Node.Insert(0, GraphParts.Cast(update.Weight!, copy, (ElementType)rounded.DataType));
            }
        }

        return updates;
    }

    /// <summary>Gives the gradient of each parameter that the graph updates: one batch's, without loss scale.</summary>
    private static Dictionary<string, string> GradientsOf(GraphProto graph, ParameterUpdate[] updates, string path)
    {
        var accumulated = Accumulators(graph)
            .SelectMany(a => a.Output.Select(o => (Sum: o, Gradient: a.Input[1])))
            .DistinctBy(a => a.Sum)
            .ToDictionary(a => a.Sum, a => a.Gradient, StringComparer.Ordinal);
        var gradients = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var update in updates)
        {
            var gradient = accumulated.GetValueOrDefault(update.Gradient!, update.Gradient!);
            if (update.LossScale is { } scale)
            {
                Require(
                    ParameterUpdates.NumberOf(graph, scale) is not null,
                    "MAC0804",
                    path,
                    $"Gradients are multiplied by '{scale}', which is not a constant.",
                    "Make it an initializer of 1."
                );
                gradient = GraphParts.Quotient(graph, gradient, scale);
            }

            gradients.TryAdd(update.Weight!, gradient);
        }

        return gradients;
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

        GraphParts.RemoveWhere(graph.Input, i => read.Contains(i.Name));
        GraphParts.RemoveWhere(graph.Output, o => written.Contains(o.Name));
    }

    /// <summary>
    /// Gives the outputs that depend neither on a gradient nor on what backward starts from, the gradient of the loss;
    /// those of one number first.
    /// </summary>
    private static List<ValueInfoProto> ForwardOutputs(GraphProto graph, IEnumerable<string> gradients)
    {
        var backward = GraphParts.Dependents(
            graph,
            graph.Output.Select(o => o.Name + GradientSuffix).Concat(gradients)
        );
        return [.. graph.Output.Where(o => !backward.Contains(o.Name)).OrderByDescending(ParameterUpdates.IsNumber)];
    }

    /// <summary>Gives the constants that backward starts from, by outputs.</summary>
    private static Dictionary<string, string> Seeded(GraphProto graph, IEnumerable<ValueInfoProto> outputs)
    {
        var constants = graph.Initializer.Select(i => i.Name).ToHashSet(StringComparer.Ordinal);
        return outputs
            .Select(o => o.Name)
            .Where(o => constants.Contains(o + GradientSuffix))
            .ToDictionary(o => o, o => o + GradientSuffix, StringComparer.Ordinal);
    }

    private static bool IsLoss(GraphProto graph, ValueInfoProto output)
    {
        var producers = ParameterUpdates.Producers(graph);
        var node = producers.GetValueOrDefault(output.Name);
        for (var n = 0; node is { OpType: "Identity" or "Cast", Input.Count: 1 } && n < graph.Node.Count; n++)
        {
            node = producers.GetValueOrDefault(node.Input[0]);
        }

        return ParameterUpdates.IsNumber(output) || node?.OpType == "SoftmaxCrossEntropyLoss";
    }

    /// <summary>
    /// Removes the node that hands outputs to PyTorch and takes their gradients from it: the gradients become inputs.
    /// </summary>
    /// <returns>The outputs, and for those with a gradient its name; null where there is no such node.</returns>
    private static (List<ValueInfoProto> Outputs, Dictionary<string, string> Seeds)? ModuleOutputs(GraphProto graph)
    {
        if (graph.Node.FirstOrDefault(n => n.OpType == TrainingOperators.Yield) is not { } node)
        {
            return null;
        }

        graph.Node.Remove(node);
        var plain = node.Attribute.FirstOrDefault(a => a.Name == "non_differentiable_outputs")?.Ints ?? [];
        var seeds = node
            .Input.Where((_, i) => !plain.Contains(i))
            .Zip(node.Output)
            .Where(s => s.Second.Length > 0)
            .DistinctBy(s => s.First)
            .ToDictionary(s => s.First, s => s.Second, StringComparer.Ordinal);
        graph.Input.AddRange(seeds.Values.Select(s => DeclarationFormat.ToProto(s, ElementType.Float, [])));
        var declared = graph.ValueInfo.Concat(graph.Output).ToLookup(v => v.Name, StringComparer.Ordinal);
        var outputs = node
            .Input.Distinct()
            .Select(i => declared[i].FirstOrDefault() ?? new ValueInfoProto { Name = i });
        return ([.. outputs], seeds);
    }

    private static void Require(bool holds, string id, string where, string what, string hint)
    {
        if (!holds)
        {
            throw new MacOnnxException(id, where, what, hint);
        }
    }
}
