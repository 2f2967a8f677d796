using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Optimizer;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter;

/// <summary>Turns an ONNX forward model into graphs that train it.</summary>
public static class Rewriter
{
    /// <summary>
    /// Says what would be done with a model; never fails for operators without a gradient, but lists them, nor for a
    /// cross entropy that does not fit.
    /// </summary>
    /// <param name="path">The ONNX file.</param>
    /// <param name="options">How it would be rewritten.</param>
    /// <exception cref="MacOnnxException">The file cannot be read, or is no model that ONNX Runtime loads.</exception>
    public static RewriteReport Inspect(string path, RewriteOptions? options = null) =>
        Checked(path, () => InspectUnchecked(path, options ?? new()));

    /// <summary>Rewrites a model.</summary>
    /// <param name="path">The ONNX file.</param>
    /// <param name="options">How to rewrite it.</param>
    /// <returns>The package and what was understood.</returns>
    /// <exception cref="MacOnnxException">The file cannot be read, the model cannot be differentiated, or an option
    /// does not fit it.</exception>
    public static (TrainingPackage Package, RewriteReport Report) Rewrite(string path, RewriteOptions? options = null)
    {
        options ??= new();
        Check(options);
        return Checked(path, () => Rewrite(ModelReader.Read(path), path, options));
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
        Check(options);
        return Rewrite(
            InferenceModel.WithWeights(package.ForwardModel.Span, package.Weights),
            package.Manifest.Model,
            options
        );
    }

    /// <summary>Checks that numbers are in their ranges.</summary>
    /// <param name="options">The options.</param>
    /// <exception cref="MacOnnxException">One is not (MAC0303); names its property.</exception>
    public static void Check(RewriteOptions options)
    {
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

    private static RewriteReport InspectUnchecked(string path, RewriteOptions options)
    {
        var model = ModelReader.Read(path);
        var opset = Opset(model);
        ModelReader.Normalize(model, path);
        try
        {
            return Report(Pipeline.Run(model, options, path, inspectOnly: true), model, path, opset);
        }
        catch (MacOnnxException e)
            when (e.Diagnostic.Id == "MAC0203" || (e.Diagnostic.Id == "MAC0204" && options.ClassAxis is null))
        {
            // The loss does not fit the output. What a report says does not depend on it, so any that fits will do.
            var report = Report(
                Pipeline.Run(model, options with { Loss = LossKind.Mse }, path, inspectOnly: true),
                model,
                path,
                opset
            );
            return report with { Notes = report.Notes.Add($"{e.Diagnostic.What} {e.Diagnostic.Hint}") };
        }
    }

    /// <summary>
    /// Stages take it that nodes are as their operators want them, which ONNX Runtime checks, but not before the first
    /// stages have run.
    /// Where one fails, ONNX Runtime says whether the model is at fault.
    /// </summary>
    private static T Checked<T>(string path, Func<T> rewrite)
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
                "Fix its dynamic dimensions with --dim NAME=SIZE.",
                e
            );
        }
        catch (Exception e) when (e is not (MacOnnxException or OutOfMemoryException))
        {
            ShapeInference.Check(path);
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
        RewriteOptions options
    )
    {
        var model = original.Clone();
        ModelReader.Normalize(model, path);
        var pipeline = Pipeline.Run(model, options, path);
        var report = Report(pipeline, model, path, Opset(original));
        var weights = pipeline.Weights.ToDictionary(w => w.Value.Name, w => w.Tensor, StringComparer.Ordinal);
        var models = new Dictionary<string, byte[]>(StringComparer.Ordinal)
        {
            ["training_model.onnx"] = ModelWriter.ToBytes(pipeline.Training),
            ["optimizer_model.onnx"] = ModelWriter.ToBytes(pipeline.Update),
            ["curvature_model.onnx"] =
                pipeline.Curvature.Nodes.Count > 0 ? ModelWriter.ToBytes(pipeline.Curvature) : [],
            ["first_layer_model.onnx"] = pipeline.Moment is { } moment ? ModelWriter.ToBytes(moment) : [],
            ["eval_model.onnx"] = ModelWriter.ToBytes(pipeline.Evaluation),
            ["forward_model.onnx"] = InferenceModel.WithoutWeights(
                original,
                path,
                weights.Keys.ToHashSet(StringComparer.Ordinal)
            ),
        };
        return (new TrainingPackage(ManifestOf(pipeline, options, path, report), weights, models), report);
    }

    private static long Opset(ModelProto model) =>
        model.OpsetImport.Where(o => o.Domain is "" or "ai.onnx").Max(o => o.Version);

    private static RewriteReport Report(Pipeline pipeline, ModelProto model, string path, long opset) =>
        new(
            path,
            opset,
            model.Graph.Node.Count,
            [.. pipeline.Parameters.Select(p => p.Report())],
            [
                .. pipeline
                    .WithoutGradient.GroupBy(n => n.QualifiedOp, StringComparer.Ordinal)
                    .Select(g => new OperatorReport(
                        g.Key,
                        [.. g.Select(n => n.Name.Length > 0 ? n.Name : n.Outputs[0].Name)]
                    )),
            ],
            [.. pipeline.Attention.Select(a => a.Report())],
            pipeline.States.Where(s => s.Origin == StateOrigin.Zeros).Sum(s => s.Bytes),
            [.. Notes(pipeline, model)]
        );

    private static IEnumerable<string> Notes(Pipeline pipeline, ModelProto model)
    {
        var norms = model.Graph.Node.Count(n => n.OpType == "BatchNormalization");
        if (norms > 0 && pipeline.RunningStatistics.Count == 0)
        {
            yield return $"{norms} batch normalizations run in inference mode: their statistics stay fixed (--batch-norm train changes that).";
        }
        else if (norms == 0 && model.Graph.Node.Count(n => n.OpType == "Conv") > 1)
        {
            yield return "There is no batch normalization: if the network had any, its exporter merged them into the convolutions.";
        }

        foreach (var (embedding, head) in pipeline.TiedCopies)
        {
            yield return $"'{embedding}' and '{head}' hold the same numbers: the model shared one weight that its exporter stored twice. They train apart; a training-mode export keeps them one.";
        }

        foreach (var (softmax, reason) in pipeline.AlmostAttention)
        {
            yield return $"{softmax} looks like attention, but {reason}.";
        }

        if (pipeline.Loss.ClassAxis is { Axis: var axis } && pipeline.Loss.Source.Rank > 2)
        {
            yield return $"The class axis of '{pipeline.Loss.Source.Name}' {pipeline.Loss.Source.Shape} is {axis} (--class-axis changes that).";
        }
    }

    private static Manifest ManifestOf(Pipeline pipeline, RewriteOptions options, string path, RewriteReport report)
    {
        var training = pipeline.Training;
        var weights = pipeline.Weights.Select(w => w.Value).ToHashSet();
        var inputs = training.Inputs.Where(i => !weights.Contains(i) && training.Declarations.ContainsKey(i.Name));
        return new Manifest
        {
            Model = Path.GetFileName(path),
            Options = options,
            Inputs =
            [
                .. inputs.Select(i => new TensorInfo(
                    i.Name,
                    i.Type,
                    [.. ShapeInference.Dimensions(training, i).Select(d => d.HasDimParam ? -1 : d.DimValue)]
                )),
            ],
            Target = pipeline.Loss.Target is { } target ? Info(target) : null,
            Classes = pipeline.Loss.ClassAxis?.Classes.Size,
            ClassAxis = pipeline.Loss.ClassAxis?.Axis,
            Logits = pipeline.Loss.ClassAxis is null ? null : Info(pipeline.Loss.Source),
            Loss = pipeline.Loss.Value.Name,
            EvaluationLoss = pipeline.EvaluationLoss.Value.Name,
            Count = pipeline.EvaluationLoss.Count?.Name,
            Correct = pipeline.EvaluationLoss.Correct?.Name,
            Labeled = pipeline.EvaluationLoss.Labeled?.Name,
            Outputs = [.. pipeline.OutputNames],
            Trained = [.. pipeline.Trained.Select(p => p.Name)],
            States = [.. pipeline.States],
            Statistics = [.. pipeline.Statistics.Select(Info)],
            Exact = pipeline.Exact is { } exact
                ? new ExactLayer(TrainingNames.SecondMoment(exact), TrainingNames.Inverse(exact), exact.MomentSize)
                : null,
            Parameters = report.Parameters,
        };
    }

    private static TensorInfo Info(Value value) =>
        new(value.Name, value.Type, [.. value.KnownShape.Dims.Select(d => d.IsStatic ? d.Size : -1)]);
}
