using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Loss;
using MacOnnx.GraphRewriter.Lowering;
using MacOnnx.GraphRewriter.Optimizer;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter;

/// <summary>
/// The stages from a model to the graphs that train it, in order. Stages never call each other; only this does.
/// </summary>
internal sealed class Pipeline
{
    private readonly ModelProto _model;
    private readonly RewriteOptions _options;
    private readonly string _path;
    private readonly HashSet<string> _constantNodes;
    private List<SlicedWeight> _sliced = [];

    private Pipeline(ModelProto model, RewriteOptions options, string path)
    {
        (_model, _options, _path) = (model, options, path);
        _constantNodes = model
            .Graph.Node.Where(n => n.OpType == "Constant")
            .SelectMany(n => n.Output)
            .ToHashSet(StringComparer.Ordinal);
    }

    /// <summary>Gets the graph of forward pass, loss, backward pass and statistics.</summary>
    public Graph Training { get; private set; } = null!;

    /// <summary>Gets the graph of forward pass and loss in inference mode.</summary>
    public Graph Evaluation { get; private set; } = null!;

    /// <summary>Gets the graph that updates parameters and running statistics.</summary>
    public Graph Update { get; private set; } = null!;

    /// <summary>Gets the graph that updates MAC's statistics; without nodes for other optimizers.</summary>
    public Graph Curvature { get; private set; } = null!;

    public LossTerms Loss { get; private set; } = null!;

    public LossTerms EvaluationLoss { get; private set; } = null!;

    public List<Parameter> Parameters { get; private set; } = null!;

    public List<Layer> Layers { get; private set; } = [];

    /// <summary>Gets the parameters and running statistics: the constants that became graph inputs.</summary>
    public List<(Value Value, Tensor Tensor)> Weights { get; } = [];

    public List<StateTensor> States { get; } = [];

    /// <summary>Gets the layer that the exact second moment of its input preconditions; null for none.</summary>
    public Layer? Exact { get; private set; }

    /// <summary>Gets the graph of that second moment; null for none.</summary>
    public Graph? Moment { get; private set; }

    /// <summary>
    /// Gets the training graph's outputs that the optimizer and curvature graphs read, beside the gradients.
    /// </summary>
    public List<Value> Statistics { get; } = [];

    /// <summary>Gets the running statistics that training-mode batch normalizations update.</summary>
    public IReadOnlyList<BatchStatistic> RunningStatistics { get; private set; } = [];

    /// <summary>Gets the attention layers.</summary>
    public IReadOnlyList<Attention> Attention { get; private set; } = [];

    /// <summary>Gets what looks like attention, and why it is not treated as such.</summary>
    public IReadOnlyList<(Node Softmax, string Reason)> AlmostAttention { get; private set; } = [];

    /// <summary>Gets the pairs of weights that the model shared and its exporter stored twice.</summary>
    public IReadOnlyList<(string Embedding, string Head)> TiedCopies { get; private set; } = [];

    public IReadOnlyList<Node> WithoutGradient { get; private set; } = [];

    /// <summary>Gets the names of the model's own outputs.</summary>
    public IEnumerable<string> OutputNames => _model.Graph.Output.Select(o => o.Name);

    public IEnumerable<Parameter> Trained => Parameters.Where(p => p.Trains);

    /// <summary>Runs the stages.</summary>
    /// <param name="model">The model, normalized by <see cref="ModelReader.Normalize"/>.</param>
    /// <param name="options">The options.</param>
    /// <param name="path">The model file: messages name it, and external data are beside it.</param>
    /// <param name="inspectOnly">Whether to stop once it is known what will be done, or what cannot be.</param>
    public static Pipeline Run(ModelProto model, RewriteOptions options, string path, bool inspectOnly = false)
    {
        var pipeline = new Pipeline(model, options, path);
        pipeline.Understand();
        if (!inspectOnly || pipeline.WithoutGradient.Count == 0)
        {
            pipeline.BuildTraining();
            pipeline.BuildUpdates();
        }

        if (!inspectOnly)
        {
            pipeline.BuildEvaluation();
        }

        return pipeline;
    }

    private Graph Import()
    {
        var graph = GraphImporter.Import(_model, _path);
        InputDimensions.Name(graph, _options.Dimensions, _path);
        return graph;
    }

    private void Understand()
    {
        Training = Import();
        FusedActivations.Apply(Training);
        Modes.ForTraining(Training, _options.BatchNorm);
        SeededDropout.Apply(Training);
        RunningStatistics = BatchStatistics.Prepare(Training);
        InferShapes(Training);
        if (AttentionExpansion.Apply(Training))
        {
            ShapeInference.Apply(Training, _path);
        }

        GeluFusion.Apply(Training);
        var constants = Training.Constants().ToHashSet();
        Loss = Losses.Append(Training, _options, _path);
        Parameters =
        [
            .. ParameterFinder
                .Find(
                    Training,
                    Loss.Source,
                    _constantNodes,
                    _model.Graph.Initializer.Select(i => i.Name).ToHashSet(StringComparer.Ordinal),
                    _options
                )
                .Where(p => constants.Contains(p.Value)),
        ];
        (Attention, AlmostAttention) = AttentionFinder.Find(Training, Parameters);
        ParameterFinder.Settle(Parameters, Attention, _options);
        _sliced = SlicedWeight.Find(Training, Parameters);
        TiedCopies = [.. ParameterFinder.TiedCopies(Parameters)];
        WithoutGradient = Backward.WithoutRule(Training, Loss.Source, Trained.Select(p => p.Value));
    }

    /// <summary>
    /// Padding is made explicit twice: before, because ONNX Runtime refuses some of it; after, because some of it
    /// depends on sizes.
    /// </summary>
    private void InferShapes(Graph graph)
    {
        ExplicitPads.Apply(graph);
        ShapeInference.Apply(graph, _path);
        ExplicitPads.Apply(graph);
        SoftmaxAxis.Apply(graph);
    }

    private void BuildTraining()
    {
        var gradients = Backward.Differentiate(
            Training,
            Loss.Source,
            Loss.SourceGradient,
            Trained.Select(p => p.Value),
            _path
        );
        foreach (var parameter in Trained.ToArray())
        {
            if (gradients.TryGetValue(parameter.Value, out var gradient))
            {
                parameter.Gradient = gradient;
            }
            else
            {
                (parameter.Trains, parameter.Fixed, parameter.Reason) = (
                    false,
                    "constant",
                    "No gradient flows back to it."
                );
            }
        }

        if (_options.Optimizer == OptimizerKind.Mac)
        {
            Layers = LayerFinder.Find(Training, Parameters, _sliced);
            TakeExactLayer();
            ValueRows.Assign(Attention, Layers, _options.ValueStatistic);
        }

        Statistics.AddRange(TrainingGraph.AppendStatistics(Training, Layers, _options.Depthwise));
        Statistics.AddRange(RunningStatistics.SelectMany(r => new[] { r.BatchMean, r.BatchVariance }));
        Parameter[] trained = [.. Trained];
        if (trained.Length == 0)
        {
            throw new MacOnnxException(
                "MAC0302",
                _path,
                "Nothing is left to train.",
                "See 'maconnx inspect' for the reasons, and --trainable and --frozen."
            );
        }

        Weights.AddRange(
            TrainingGraph.ConstantsToInputs(
                Training,
                Parameters.Where(p => p.Trains || p.Fixed is "frozen" or "statistic").Select(p => p.Name)
            )
        );
        TrainingGraph.SetOutputs(Training, Loss.Value, trained, Statistics);
        FrozenBatchNorm.Apply(Training);
        Lower.Apply(Training);
        TrainingGraph.NameGradients(Training, trained);
    }

    /// <summary>Sets the first layer apart where its exact curvature is asked for.</summary>
    private void TakeExactLayer()
    {
        if (_options.FirstLayer == FirstLayerMode.Full && Layers is [{ Groups: 1, Slices.Count: 0 } first, ..])
        {
            first.IsExact = true;
            first.Weight.Reason = "Preconditioned by the exact second moment of its input.";
            Exact = first;
            Layers.RemoveAt(0);
        }
    }

    private void BuildUpdates()
    {
        States.AddRange(
            Weights.Select(w => new StateTensor(w.Value.Name, w.Value.Type, w.Tensor.Dims, StateOrigin.Model))
        );
        Update = UpdateGraph.Build([.. Trained], RunningStatistics, _options, States);
        Curvature = CurvatureGraph.Build(Layers, _options, States);
    }

    private Graph ImportForEvaluation()
    {
        var graph = Import();
        Modes.ForEvaluation(graph);
        InferShapes(graph);
        return graph;
    }

    private void BuildEvaluation()
    {
        Moment = Exact is null ? null : SecondMoment.Build(ImportForEvaluation(), Exact);
        Evaluation = ImportForEvaluation();
        EvaluationLoss = Losses.Append(Evaluation, _options, _path);
        TrainingGraph.ConstantsToInputs(Evaluation, Weights.Select(w => w.Value.Name));
        foreach (
            var output in new[]
            {
                EvaluationLoss.Value,
                EvaluationLoss.Count,
                EvaluationLoss.Correct,
                EvaluationLoss.Labeled,
            }.OfType<Value>()
        )
        {
            if (!Evaluation.Outputs.Contains(output))
            {
                Evaluation.Outputs.Add(output);
            }
        }

        Evaluation.Prune();
    }
}
