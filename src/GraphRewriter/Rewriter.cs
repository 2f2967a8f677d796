using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Optimizer;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter;

/// <summary>Turns an ONNX forward model into graphs that train it.</summary>
public static class Rewriter
{
    /// <summary>What a group of parameters may have of its own.</summary>
    private static readonly string[] Groupable =
    [
        "learning_rate",
        "weight_decay",
        "momentum",
        "beta1",
        "beta2",
        "epsilon",
    ];

    /// <summary>Gets every operator that the rewriter knows, by domain and name.</summary>
    public static IReadOnlyList<OperatorInfo> Operators =>
        [
            .. OpTable
                .All.Values.Where(rule => rule.Domain != OpTable.GradientDomain)
                .Select(rule => rule.Describe())
                .OrderBy(o => o.Domain, StringComparer.Ordinal)
                .ThenBy(o => o.Name, StringComparer.Ordinal),
        ];

    /// <summary>Adds an operator to the table: one of a domain of your own, say, with its gradient.</summary>
    /// <remarks>
    /// Holds for all models that this process rewrites from then on. ONNX Runtime must know the operator too: see
    /// <see cref="RewriteOptions.ConfigureSession"/> and <c>configure</c> of the training session.
    /// </remarks>
    /// <param name="rule">The operator.</param>
    /// <exception cref="ArgumentException">The operator is in the table already, or in a domain of this
    /// library.</exception>
    public static void Add(OpRule rule)
    {
        ArgumentNullException.ThrowIfNull(rule);
        OpTable.Add(rule);
    }

    /// <summary>
    /// Says what would be done with a model; never fails for operators without a gradient, but lists them, nor for a
    /// cross entropy that does not fit.
    /// </summary>
    /// <param name="path">The ONNX file, or the folder of training artifacts.</param>
    /// <param name="options">How it would be rewritten.</param>
    /// <exception cref="MacOnnxException">The file cannot be read, or is not a model that ONNX Runtime
    /// loads.</exception>
    public static RewriteReport Inspect(string path, RewriteOptions? options = null)
    {
        options ??= new();
        if (TrainingArtifacts.AreIn(path))
        {
            return Inspect(TrainingArtifacts.ReadFolder(path), options);
        }

        var model = ModelReader.Read(path);
        return TrainingGraph.IsTraining(model.Graph)
            ? Inspect(new TrainingArtifacts(path, model), options)
            : Checked(path, options, () => InspectUnchecked(model, path, options));
    }

    /// <summary>Rewrites a model, or training artifacts as <see cref="Rewrite(TrainingArtifacts, RewriteOptions?,
    /// string?)"/> does.</summary>
    /// <param name="path">The ONNX file, or the folder of artifacts.</param>
    /// <param name="options">How to rewrite it.</param>
    /// <param name="dumpFolder">The folder that receives the graph after each pass as text; null for none.</param>
    /// <returns>The package and what was understood.</returns>
    /// <exception cref="MacOnnxException">The file cannot be read, the model cannot be differentiated, or an option
    /// does not fit it.</exception>
    public static (TrainingPackage Package, RewriteReport Report) Rewrite(
        string path,
        RewriteOptions? options = null,
        string? dumpFolder = null
    )
    {
        options ??= new();
        Check(options);
        if (TrainingArtifacts.AreIn(path))
        {
            return Rewrite(TrainingArtifacts.ReadFolder(path), options, dumpFolder);
        }

        var model = ModelReader.Read(path);
        if (TrainingGraph.IsTraining(model.Graph))
        {
            return Rewrite(new TrainingArtifacts(path, model), options, dumpFolder);
        }

        RequireNoKept(options, path);
        return Checked(path, options, () => Rewrite(model, path, options, dumpFolder));
    }

    /// <summary>Rewrites training artifacts of ONNX Runtime: the gradients that the training graph computes itself are
    /// kept, unless <see cref="RewriteOptions.RebuildsBackward"/> says otherwise.</summary>
    /// <param name="artifacts">The artifacts.</param>
    /// <param name="options">How to rewrite them. The loss is the training graph's.</param>
    /// <param name="dumpFolder">The folder that receives the graph after each pass as text; null for none.</param>
    /// <returns>The package and what was understood.</returns>
    /// <exception cref="MacOnnxException">Operators are not known, files do not fit each other, or an option does not
    /// fit them.</exception>
    public static (TrainingPackage Package, RewriteReport Report) Rewrite(
        TrainingArtifacts artifacts,
        RewriteOptions? options = null,
        string? dumpFolder = null
    )
    {
        ArgumentNullException.ThrowIfNull(artifacts);
        options ??= new();
        Check(options);
        return Checked(
            artifacts.Path,
            options,
            () =>
            {
                var (context, model) = Run(artifacts, options, inspectOnly: false, dumpFolder);
                var forward = GraphParts.Prediction(context.EvaluationModel ?? context.Model);
                Modes.ForInference(forward);
                return PackageBuilder.Build(context, forward, Report(artifacts, context, model));
            },
            isForward: false
        );
    }

    /// <summary>Says what would be done with training artifacts.</summary>
    /// <param name="artifacts">The artifacts.</param>
    /// <param name="options">How they would be rewritten.</param>
    /// <inheritdoc cref="Rewrite(TrainingArtifacts, RewriteOptions?, string?)" path="/exception"/>
    public static RewriteReport Inspect(TrainingArtifacts artifacts, RewriteOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(artifacts);
        options ??= new();
        return Checked(
            artifacts.Path,
            options,
            () =>
            {
                var (context, model) = Run(artifacts, options, inspectOnly: true, null);
                return Report(artifacts, context, model);
            },
            isForward: false
        );
    }

    /// <summary>Rewrites the model of a package again, from its starting weights.</summary>
    /// <param name="package">The package.</param>
    /// <param name="options">How to rewrite it now.</param>
    /// <returns>The new package and what was understood.</returns>
    /// <exception cref="MacOnnxException">An option does not fit the model.</exception>
    public static (TrainingPackage Package, RewriteReport Report) Rewrite(
        TrainingPackage package,
        RewriteOptions options
    )
    {
        ArgumentNullException.ThrowIfNull(package);
        Check(options);
        RequireNoKept(package.Manifest.Options, package.Manifest.Model);
        try
        {
            var model = InferenceModel.WithWeights(package.ForwardModel.Span, package.Weights);
            return Rewrite(model, package.Manifest.Model, options);
        }
        catch (Exception e) when (e is not (MacOnnxException or OutOfMemoryException))
        {
            // The package is not one that Save wrote: its model was rewritten before.
            throw new MacOnnxException(
                "MAC0403",
                PackageFiles.Forward,
                $"The package's model cannot be rewritten: {InputFile.Reason(e)}.",
                "Rewrite the original model again.",
                e
            );
        }
    }

    /// <summary>Checks that numbers are in their ranges.</summary>
    /// <param name="options">The options.</param>
    /// <exception cref="MacOnnxException">One is not (MAC0303); names its property.</exception>
    public static void Check(RewriteOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        var h = options.Hyperparameters;
        Require(
            h.LearningRate >= 0 && float.IsFinite(h.LearningRate),
            nameof(h.LearningRate),
            h.LearningRate,
            "0 or more"
        );
        Require(h.Momentum is >= 0 and < 1, nameof(h.Momentum), h.Momentum, "0 or more and less than 1");
        Require(h.WeightDecay >= 0 && float.IsFinite(h.WeightDecay), nameof(h.WeightDecay), h.WeightDecay, "0 or more");
        Require(h.Damping > 0 && float.IsFinite(h.Damping), nameof(h.Damping), h.Damping, "more than 0");
        Require(h.StatDecay is >= 0 and < 1, nameof(h.StatDecay), h.StatDecay, "0 or more and less than 1");
        Require(h.StatEvery >= 1, nameof(h.StatEvery), h.StatEvery, "1 or more");
        Require(h.RefreshEvery >= 1, nameof(h.RefreshEvery), h.RefreshEvery, "1 or more");
        Require(
            h.MaxGradientNorm >= 0 && float.IsFinite(h.MaxGradientNorm),
            nameof(h.MaxGradientNorm),
            h.MaxGradientNorm,
            "0 or more"
        );
        Require(h.LossScale >= 0 && float.IsFinite(h.LossScale), nameof(h.LossScale), h.LossScale, "0 or more");
        Require(h.Beta1 is >= 0 and < 1, nameof(h.Beta1), h.Beta1, "0 or more and less than 1");
        Require(h.Beta2 is >= 0 and < 1, nameof(h.Beta2), h.Beta2, "0 or more and less than 1");
        Require(h.Epsilon > 0 && float.IsFinite(h.Epsilon), nameof(h.Epsilon), h.Epsilon, "more than 0");
        Require(
            options.LabelSmoothing is >= 0 and < 1,
            nameof(options.LabelSmoothing),
            options.LabelSmoothing,
            "0 or more and less than 1",
            nameof(RewriteOptions)
        );

        Require(h.Ema is >= 0 and < 1, nameof(h.Ema), h.Ema, "0 or more and less than 1");
        Require(
            options.LayerDecay is > 0 and <= 1,
            nameof(options.LayerDecay),
            options.LayerDecay,
            "more than 0 and at most 1",
            nameof(RewriteOptions)
        );
        foreach (var (name, formula) in options.Groups.SelectMany(g => g.Formulas))
        {
            if (Groupable.Contains(name) && Evaluate(formula) is >= 0 and < double.PositiveInfinity)
            {
                continue;
            }

            throw new MacOnnxException(
                "MAC0303",
                $"{nameof(RewriteOptions)}.{nameof(RewriteOptions.Groups)}",
                $"'{name} = {formula}' gives no hyper-parameter of an update a number of 0 or more.",
                $"Set {string.Join(", ", Groupable)} by numbers or formulas of them."
            );
        }

        double? Evaluate(string formula)
        {
            try
            {
                return Formula.Parse(formula)(n => Groupable.Contains(n) ? h.Named(n)!.Value : double.NaN);
            }
            catch (FormatException)
            {
                return null;
            }
        }

        static void Require(
            bool holds,
            string property,
            float value,
            string range,
            string options = nameof(RewriteOptions.Hyperparameters)
        )
        {
            if (!holds)
            {
                throw new MacOnnxException(
                    "MAC0303",
                    $"{options}.{property}",
                    FormattableString.Invariant($"{value} is out of range."),
                    $"Give a number of {range}."
                );
            }
        }
    }

    private static RewriteReport InspectUnchecked(ModelProto model, string path, RewriteOptions options)
    {
        Dequantize(model, options);
        var opset = Opset(model);
        var split = SharedInitializers.Split(model);
        ModelReader.Normalize(model, path);
        try
        {
            return ReportBuilder.Of(Run(model, options), model, path, opset, split);
        }
        catch (MacOnnxException e)
            when (e.Diagnostic.Id == "MAC0203" || (e.Diagnostic.Id == "MAC0204" && options.ClassAxis is null))
        {
            // The loss does not fit the output. What a report says does not depend on it, so any that fits will do.
            var report = ReportBuilder.Of(Run(model, options with { Loss = LossKind.Mse }), model, path, opset, split);
            return report with { Notes = report.Notes.Add($"{e.Diagnostic.What} {e.Diagnostic.Hint}") };
        }

        RewriteContext Run(ModelProto read, RewriteOptions chosen) =>
            Pipeline.Run(new(read, chosen, path), inspectOnly: true);
    }

    /// <summary>
    /// Stages take it that nodes are as their operators require, which ONNX Runtime checks, but not before the first
    /// stages have run.
    /// Where one fails, ONNX Runtime says whether the model is at fault.
    /// </summary>
    /// <param name="path">The model.</param>
    /// <param name="options">How ONNX Runtime is set up.</param>
    /// <param name="rewrite">Does the work.</param>
    /// <param name="isForward">Whether ONNX Runtime can load the model: a training graph it cannot.</param>
    private static T Checked<T>(string path, RewriteOptions options, Func<T> rewrite, bool isForward = true)
    {
        try
        {
            return rewrite();
        }
        catch (OpenDimensionException e)
        {
            throw new MacOnnxException(
                "MAC0107",
                path,
                "The model leaves a size open that must be known to rewrite it.",
                "Fix its dynamic dimensions with RewriteOptions.Dimensions (NAME=SIZE).",
                e
            );
        }
        catch (Exception e) when (e is not (MacOnnxException or OutOfMemoryException))
        {
            if (!isForward)
            {
                throw new MacOnnxException(
                    "MAC0808",
                    path,
                    $"The training graph was not understood ({e.GetType().Name}: {InputFile.Reason(e)}).",
                    "Generate it again, or rewrite the forward model that it was made from.",
                    e
                );
            }

            ShapeInference.Check(path, options.ConfigureSession);
            throw new MacOnnxException(
                "MAC0504",
                path,
                $"Rewriting failed ({e.GetType().Name}: {e.Message}).",
                "ONNX Runtime loads the model, so this program is at fault: please report it with the model.",
                e
            );
        }
    }

    private static (TrainingPackage Package, RewriteReport Report) Rewrite(
        ModelProto original,
        string path,
        RewriteOptions options,
        string? dumpFolder = null
    )
    {
        Dequantize(original, options);
        var split = SharedInitializers.Split(original);
        var model = original.Clone();
        ModelReader.Normalize(model, path);
        var context = Pipeline.Run(new(model, options, path), dumpFolder: dumpFolder);
        return PackageBuilder.Build(context, original, ReportBuilder.Of(context, model, path, Opset(original), split));
    }

    private static (RewriteContext Context, TrainingGraph Graph) Run(
        TrainingArtifacts artifacts,
        RewriteOptions options,
        bool inspectOnly,
        string? dumpFolder
    )
    {
        var graph = TrainingGraph.Make(artifacts, options.RebuildsBackward);
        var kept = options.Optimizer == OptimizerKind.Keep ? KeptOptimizer(artifacts, graph) : null;
        var chosen = options with
        {
            Loss = graph.HasLoss ? LossKind.Output : options.Loss,
            LossInput = graph.HasLoss ? null : options.LossInput,
            Hyperparameters = kept?.Apply(options.Hyperparameters) ?? options.Hyperparameters,
        };
        var source = graph.Source(artifacts.Path, options.RebuildsBackward);
        var context = new RewriteContext(graph.Forward, chosen, artifacts.Path, source, graph.Kinds)
        {
            Kept = kept,
            EvaluationModel = artifacts.Evaluation is null ? null : TrainingGraph.Evaluation(artifacts),
        };
        Pipeline.Run(context, inspectOnly, dumpFolder);
        var state = artifacts.Checkpoint?.Groups is [{ Step: > 0 } group] ? group : graph.State;
        if (kept is not null && !inspectOnly && state is not null)
        {
            context.Resume(state);
        }

        return (context, graph);
    }

    private static KeptOptimizer KeptOptimizer(TrainingArtifacts artifacts, TrainingGraph graph)
    {
        if (artifacts.Optimizer is var (model, path))
        {
            return OptimizerModel.Read(model.Graph, isWhole: false, path);
        }

        return graph.IsWhole
            ? OptimizerModel.Read(artifacts.Training.Graph, isWhole: true, artifacts.Path)
            : throw new MacOnnxException(
                "MAC0802",
                artifacts.Path,
                "There is no optimizer to keep.",
                "Give the optimizer graph too, or choose another optimizer: RewriteOptions.Optimizer."
            );
    }

    private static void RequireNoKept(RewriteOptions options, string where)
    {
        if (options.Optimizer == OptimizerKind.Keep || options.RebuildsBackward)
        {
            throw new MacOnnxException(
                "MAC0806",
                where,
                "An optimizer or a backward pass can be kept or rebuilt only where training artifacts are rewritten.",
                "Give the training graph of the artifacts."
            );
        }
    }

    private static RewriteReport Report(TrainingArtifacts artifacts, RewriteContext context, TrainingGraph graph)
    {
        var report = ReportBuilder.Of(context, graph.Forward, artifacts.Path, Opset(artifacts.Training), []);
        var notes = report.Notes.AddRange(context.Differences);
        return report with
        {
            Notes = context.Kept is { } kept ? notes.Add($"The optimizer is kept: {kept.Description}.") : notes,
        };
    }

    private static void Dequantize(ModelProto model, RewriteOptions options)
    {
        if (options.Dequantize)
        {
            Dequantization.Apply(model);
        }
    }

    private static long Opset(ModelProto model) =>
        model.OpsetImport.Where(o => o.Domain is "" or "ai.onnx").Max(o => o.Version);
}
