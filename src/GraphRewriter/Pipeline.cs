using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Loss;
using MacOnnx.GraphRewriter.Lowering;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Optimizer;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter;

/// <summary>The passes from a model to the graphs that train it, in order.</summary>
internal static class Pipeline
{
    private static readonly Pass[] Understand =
    [
        OnTraining("import", Facts.None, Facts.Forward, c => c.Training = Named(c.Source.Import(c), c)),
        OnTraining("fused-operators", Facts.Forward, Facts.None, c => FusedOperators.Apply(c.Training, c.Refused)),
        OnTraining("modes", Facts.Forward, Facts.None, c => Modes.ForTraining(c.Training, c.Options.BatchNorm)),
        // Masks must be functions of a seed before shapes are inferred: the nodes that make them have shapes too.
        OnTraining("dropout", Facts.Forward, Facts.None, c => c.DropoutSeed = SeededDropout.Apply(c.Training)),
        OnTraining(
            "batch-statistics",
            Facts.Forward,
            Facts.None,
            c => c.BatchStatistics = BatchStatistics.Prepare(c.Training)
        ),
        OnTraining("shapes", Facts.Forward, Facts.Shapes, c => InferShapes(c.Training, c)),
        OnTraining("attention-expansion", Facts.Shapes, Facts.None, ExpandAttention),
        OnTraining("straight-through", Facts.Shapes, Facts.None, c => StraightThrough.Apply(c.Training, c.Refused)),
        OnTraining("gelu-fusion", Facts.Shapes, Facts.None, c => GeluFusion.Apply(c.Training, v => !c.MayTrain(v))),
        OnTraining("loss", Facts.Shapes, Facts.Loss, AppendLoss),
        OnTraining("plan", Facts.Shapes | Facts.Loss, Facts.Plan, MakePlan),
    ];

    private static readonly Pass[] Differentiation =
    [
        // Rules must not see a parameter's first values: it is an input before anything is differentiated.
        OnTraining("parameter-inputs", Facts.Plan, Facts.ParameterInputs, ParametersToInputs),
        OnTraining("backward", Facts.ParameterInputs, Facts.Gradients, Differentiate),
    ];

    private static readonly Pass[] Train =
    [
        OnTraining("statistics", Facts.Gradients, Facts.Statistics, AppendStatistics),
        OnTraining("outputs", Facts.Statistics, Facts.Bound, SetOutputs),
        OnTraining("frozen-batch-norm", Facts.Bound, Facts.None, c => FrozenBatchNorm.Apply(c.Training)),
        OnTraining("lowering", Facts.Bound, Facts.Lowered, c => Lower.Apply(c.Training)),
        OnTraining("output-names", Facts.Lowered, Facts.None, c => c.BoundTraining.Finish()),
        new("curvature-graph", Facts.Statistics, Facts.None, BuildCurvature, c => c.Curvature.Graph),
        new("optimizer-graph", Facts.Bound, Facts.Updates, BuildUpdate, c => c.Update.Graph),
        new("diagnostics-graph", Facts.Updates, Facts.None, BuildDiagnostics, c => c.Diagnostics?.Graph.Graph),
        new("accumulation-graph", Facts.Updates, Facts.None, BuildAccumulation, c => c.Accumulation.Graph),
    ];

    private static readonly Pass[] Evaluate =
    [
        new("second-moment-graph", Facts.Updates, Facts.None, BuildSecondMoment, c => c.SecondMoment?.Graph),
        new("evaluation-graph", Facts.Updates, Facts.Evaluation, BuildEvaluation, c => c.Evaluation.Graph),
    ];

    /// <summary>Gets the names of the passes, in order.</summary>
    public static IEnumerable<string> PassNames =>
        Understand.Concat(Differentiation).Concat(Train).Concat(Evaluate).Select(p => p.Name);

    /// <summary>Runs the passes.</summary>
    /// <param name="context">The model and the options.</param>
    /// <param name="inspectOnly">Whether to stop once it is known what will be done, or what cannot be.</param>
    /// <param name="dumpFolder">Where to write the graph after each pass; null for nowhere.</param>
    public static RewriteContext Run(RewriteContext context, bool inspectOnly = false, string? dumpFolder = null)
    {
        var runner = new PassRunner(context, dumpFolder);
        runner.Run(Understand);
        runner.Run(Differentiation);
        if (context.Obstacles.Count == 0)
        {
            runner.Run(Train);
        }
        else if (!inspectOnly)
        {
            throw Obstacle.Error(context.Obstacles, context.TrainedNames(), context.Path);
        }

        if (!inspectOnly)
        {
            runner.Run(Evaluate);
        }

        return context;
    }

    private static Pass OnTraining(string name, Facts requires, Facts ensures, Action<RewriteContext> run) =>
        new(name, requires, ensures, run, c => c.Training);

    private static Graph Named(Graph graph, RewriteContext c)
    {
        graph.ConfigureSession = c.Options.ConfigureSession;
        RecurrentLayout.Apply(graph);
        while (StaticControlFlow.Apply(graph)) { }

        InputDimensions.Name(graph, c.Options.Dimensions, c.Path);
        return graph;
    }

    /// <summary>
    /// Padding is made explicit twice: before, because ONNX Runtime refuses some of it; after, because some of it
    /// depends on sizes.
    /// </summary>
    private static void InferShapes(Graph graph, RewriteContext c)
    {
        do
        {
            ExplicitPads.Apply(graph);
            ShapeInference.Apply(graph, c.Path, c.MayTrain);
        } while (StaticControlFlow.Apply(graph)); // shapes decide conditions, trips and lengths

        ExplicitPads.Apply(graph);
        SoftmaxAxis.Apply(graph);
    }

    private static void ExpandAttention(RewriteContext c)
    {
        if (AttentionExpansion.Apply(c.Training, c.Refused))
        {
            ShapeInference.Apply(c.Training, c.Path, c.MayTrain);
        }
    }

    private static void AppendLoss(RewriteContext c)
    {
        c.Constants = c.Training.Constants().ToHashSet();
        c.Loss = Losses.Append(c.Training, c.Options, c.Path);
    }

    private static void MakePlan(RewriteContext c)
    {
        c.Plan = Plan.Make(c.Training, c.Loss.Source, c.Constants, c.Facts, c.Options);
        if (!c.Plan.Trained.Any())
        {
            throw new MacOnnxException(
                "MAC0302",
                c.Path,
                "Nothing is left to train.",
                Dequantization.HasQuantizedWeights(c.Training)
                    ? "Weights are stored as integers: RewriteOptions.Dequantize makes float weights of them."
                    : "See 'maconnx inspect' for the reasons, and RewriteOptions.Trainable and RewriteOptions.Frozen."
            );
        }
    }

    private static void ParametersToInputs(RewriteContext c)
    {
        c.BoundTraining = new BoundGraph(PackageFiles.Training, c.Training, c.Buffers);
        c.ParameterInputs = ParameterInputs.Make(c.BoundTraining, c.Plan.Kept);
        if (c.DropoutSeed is { } seed)
        {
            var buffer = c.Buffers.Single(BufferRole.DropoutSeed, "dropout_seed", ElementType.Int64);
            c.BoundTraining.Bind(seed, buffer);
        }
    }

    private static void Differentiate(RewriteContext c)
    {
        var seed = c.Loss.SourceGradient;
        if (c.Source.TakesSeed && c.Plan.Trained.Any(p => p.Value.Type == ElementType.Float16))
        {
            // Gradients of float16 underflow below 6e-8: the loss is scaled up, the parameters' gradients down again.
            var scale = c.BoundTraining.Read(c.Buffers.Single(BufferRole.LossScale, "loss_scale"));
            c.LossScale = scale;
            seed = Losses.Scaled(c.Training, seed, scale);
        }

        Value[] wanted = [.. c.Plan.Trained.Select(p => c.ParameterInputs[p])];
        c.Gradients = c.Source.Append(c, seed, wanted);
    }

    private static void AppendStatistics(RewriteContext c)
    {
        var measured = c.Options.Diagnostics ? DiagnosticsGraph.Statistics(c.Plan.Blocks) : [];
        Statistic[] statistics = [.. c.Plan.Blocks.SelectMany(b => b.Statistics), .. measured];
        c.Training.Outputs.Clear();
        c.Statistics = StatisticsEmitter.Append(c.BoundTraining, statistics, (b, v) => Unscaled(c, b, c.Gradients[v]));
    }

    private static Term Unscaled(RewriteContext c, GraphBuilder b, Value gradient) =>
        c.LossScale is { } scale ? Losses.Unscaled(b, gradient, scale) : new(b, gradient);

    private static void SetOutputs(RewriteContext c)
    {
        var outputs = new TrainingOutputs(c.BoundTraining);
        outputs.WriteLoss(BufferRole.Loss, c.Loss.Value, BufferRole.LossCount, c.Loss.Count);
        var scaled = c.Plan.Trained.Select(p => (Parameter: p, Gradient: c.Gradients[c.ParameterInputs[p]]));
        c.GradientBuffers = outputs.WriteGradients(
            scaled.Select(p =>
            {
                var b = new GraphBuilder(c.Training) { Origin = "loss scale", Prefix = $"{p.Gradient.Name}/" };
                return (p.Parameter, Unscaled(c, b, p.Gradient).V);
            })
        );
        c.RunningStatistics = outputs.WriteBatchStatistics(c.BatchStatistics, c.Plan.Kept);
    }

    private static void BuildCurvature(RewriteContext c)
    {
        foreach (var block in c.Plan.Blocks)
        {
            block.Declare(c.Buffers);
        }

        c.Curvature = CurvatureGraph.Build(c.Plan.Blocks, c.Statistics, c.Buffers);
    }

    private static void BuildUpdate(RewriteContext c) =>
        (c.Update, c.Average) = UpdateGraph.Build(
            c.Plan,
            c.GradientBuffers,
            c.RunningStatistics,
            c.Options,
            c.Buffers,
            c.Kept
        );

    private static void BuildDiagnostics(RewriteContext c)
    {
        if (c.Options.Diagnostics)
        {
            c.Diagnostics = DiagnosticsGraph.Build(c.Plan.Blocks, c.Statistics, c.GradientBuffers, c.Buffers);
        }
    }

    private static void BuildAccumulation(RewriteContext c) =>
        c.Accumulation = AccumulationGraph.Build(
            c.Buffers,
            c.Plan.Blocks.SelectMany(b => b.Statistics).ToDictionary(s => c.Statistics[s.Name], s => s.Degree),
            c.Kept is null ? null : c.RunningStatistics
        );

    /// <summary>Imports the model once more, in inference mode.</summary>
    /// <param name="c">The context.</param>
    /// <param name="model">The model.</param>
    /// <param name="prepare">What else is done before shapes are inferred, as in the training graph.</param>
    private static Graph ImportForEvaluation(RewriteContext c, ModelProto model, Action<Graph>? prepare = null)
    {
        var graph = Named(GraphImporter.Import(model, c.Path), c);
        prepare?.Invoke(graph);
        Modes.ForEvaluation(graph);
        InferShapes(graph, c);
        return graph;
    }

    private static void BuildSecondMoment(RewriteContext c)
    {
        if (c.Plan.Blocks.OfType<FoofBlock>().FirstOrDefault(b => b.IsExact) is not { } block)
        {
            return;
        }

        var graph = ImportForEvaluation(c, c.Model, g => FusedOperators.Apply(g, []));
        c.SecondMoment = block.BuildDataPass(graph, c.Buffers);
    }

    private static void BuildEvaluation(RewriteContext c)
    {
        var graph = ImportForEvaluation(c, c.EvaluationModel ?? c.Model);
        var loss = Losses.Append(graph, c.Options, c.Path);
        var g = c.Evaluation = new BoundGraph(PackageFiles.Evaluation, graph, c.Buffers);
        ParameterInputs.MakeByName(g, c.Plan.Kept);
        var outputs = new TrainingOutputs(g);
        outputs.WriteLoss(BufferRole.EvaluationLoss, loss.Value, BufferRole.EvaluationCount, loss.Count);
        outputs.WriteNumber(BufferRole.Correct, loss.Correct, "correct");
        outputs.WriteNumber(BufferRole.Labeled, loss.Labeled, "labeled");
        g.Finish();
        graph.Prune();
    }
}
