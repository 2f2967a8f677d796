using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Loss;

/// <summary>A loss in a graph, with what the other stages need of it.</summary>
/// <param name="Value">The loss, a scalar.</param>
/// <param name="Source">The value that differentiation starts from: the model output that feeds the loss.</param>
/// <param name="SourceGradient">The gradient of the loss with respect to <paramref name="Source"/>.</param>
/// <param name="Target">The graph input that holds the target; null where the model itself computes the loss.</param>
/// <param name="Count">The number of elements that the mean is over, a scalar; null where that is not known.</param>
/// <param name="Correct">The number of samples whose most probable class is the label, a scalar; null for other
/// losses.</param>
/// <param name="Labeled">The number of samples that are not ignored, a scalar; null for other losses.</param>
/// <param name="ClassAxis">The class axis of the logits, and the number of classes; null for other losses.</param>
internal sealed record LossTerms(
    Value Value,
    Value Source,
    Value SourceGradient,
    Value? Target,
    Value? Count,
    Value? Correct,
    Value? Labeled,
    (int Axis, Dim Classes)? ClassAxis
);

/// <summary>
/// Appends a loss to a graph. Each loss emits its own gradient with respect to the model's output: that is cheaper and
/// stabler than differentiating it.
/// </summary>
internal static class Losses
{
    public static LossTerms Append(Graph graph, RewriteOptions options, string path)
    {
        var source = Source(graph, options, path);
        var builder = new GraphBuilder(graph) { Origin = $"loss {options.Loss}", Prefix = "loss/" };
        var terms = options.Loss switch
        {
            LossKind.Output => ModelOutput(builder, source, path),
            LossKind.CrossEntropy => CrossEntropy(builder, source, options, path),
            var kind => Elementwise(builder, source, kind, options, path),
        };
        (terms.SourceGradient.Shape, terms.SourceGradient.Type) = (source.Shape, source.Type);
        return terms;
    }

    /// <summary>
    /// Multiplies the gradient that differentiation starts from with the loss scale, before it is float16.
    /// </summary>
    public static Value Scaled(Graph graph, Value gradient, Value scale)
    {
        var b = new GraphBuilder(graph) { Origin = "loss scale", Prefix = "loss/" };
        var wide = gradient.Producer is { OpType: "Cast" } cast ? cast.Inputs[0]! : gradient;
        var scaled = (new Term(b, wide).Cast(ElementType.Float) * new Term(b, scale)).Cast(gradient.Type);
        scaled.V.Shape = gradient.Shape;
        return scaled;
    }

    /// <summary>Divides a float gradient by the loss scale.</summary>
    public static Value Unscaled(Graph graph, Value gradient, Value scale)
    {
        var b = new GraphBuilder(graph) { Origin = "loss scale", Prefix = $"{gradient.Name}/" };
        var unscaled = new Term(b, gradient).Cast(ElementType.Float) / new Term(b, scale);
        unscaled.V.Shape = gradient.Shape;
        return unscaled;
    }

    private static Value Source(Graph graph, RewriteOptions options, string path)
    {
        if (options.LossInput is null)
        {
            return graph.Outputs.Count > 0
                ? graph.Outputs[0]
                : throw new MacOnnxException("MAC0201", path, "The model has no output.", "Export it with an output.");
        }

        return graph
                .Outputs.Concat(graph.Nodes.SelectMany(n => n.Outputs))
                .FirstOrDefault(o => o.Name == options.LossInput)
            ?? throw new MacOnnxException(
                "MAC0201",
                path,
                $"There is no output '{options.LossInput}'.",
                $"RewriteOptions.LossInput takes one of: {string.Join(", ", graph.Outputs.Select(o => o.Name))}."
            );
    }

    private static LossTerms ModelOutput(GraphBuilder b, Value source, string path)
    {
        if (source.KnownShape.Dims.Any(d => d is not { IsStatic: true, Size: 1 }))
        {
            throw new MacOnnxException(
                "MAC0202",
                path,
                $"The output '{source.Name}' has the shape {source.Shape}: a loss is one number.",
                "Choose the output that is the loss with RewriteOptions.LossInput, or a loss with RewriteOptions.Loss."
            );
        }

        return new(
            source,
            source,
            b.Constant(GraphBuilder.ScalarTensor(1, source.Type, [.. source.KnownShape.Dims.Select(_ => 1L)])),
            null,
            null,
            null,
            null,
            null
        );
    }

    private static LossTerms Elementwise(
        GraphBuilder b,
        Value source,
        LossKind kind,
        RewriteOptions options,
        string path
    )
    {
        var target = Target(b, options, ElementType.Float, source.KnownShape, path);
        Term x = Float(b, source),
            t = new(b, target);
        var d = x - t;
        var (loss, slope) = kind switch
        {
            LossKind.Mse => (d * d, d * 2),
            LossKind.L1 => (d.Abs(), d.Op("Sign")),
            LossKind.Huber => Huber(d),
            _ => (x.Relu() - (x * t) + (1 + (-x.Abs()).Exp()).Log(), x.Sigmoid() - t),
        };
        var count = new Term(b, b.Op("Size", [source])).Cast(ElementType.Float);
        return new(
            loss.Op("ReduceMean", Int("keepdims", 0)),
            source,
            (slope / count).Cast(source.Type),
            target,
            count,
            null,
            null,
            null
        );
    }

    /// <summary>d^2/2 up to |d| = 1, |d| - 1/2 beyond; the slope is d limited to [-1, 1].</summary>
    private static (Term Loss, Term Slope) Huber(Term d)
    {
        var limited = d.Op("Clip", d.Scalar(-1), d.Scalar(1));
        return (limited * (d - (limited * 0.5)), limited);
    }

    /// <summary>
    /// The target distribution q of a sample with label y is w_y ((1-s) at y) + w_c s/C, zero where y is ignored; the
    /// loss is
    /// -sum q log p / sum w_y and its gradient (p sum_c q - q) / sum w_y, with p the softmax, s the smoothing, w the
    /// class weights.
    /// </summary>
    private static LossTerms CrossEntropy(GraphBuilder b, Value source, RewriteOptions options, string path)
    {
        var shape = source.KnownShape;
        if (shape.Rank < 2)
        {
            throw new MacOnnxException(
                "MAC0203",
                path,
                $"The output '{source.Name}' has the shape {shape}: cross entropy needs a class axis beside the batch.",
                "Choose another loss with RewriteOptions.Loss, or another output with RewriteOptions.LossInput."
            );
        }

        var axis =
            options.ClassAxis is { } chosen ? shape.Axis(chosen)
            : (shape.Rank >= 4 && shape[1].IsStatic) || !shape[-1].IsStatic ? 1
            : shape.Rank - 1;
        if (axis < 0 || axis >= shape.Rank || !shape[axis].IsStatic)
        {
            throw new MacOnnxException(
                "MAC0204",
                path,
                $"The class axis {options.ClassAxis ?? axis} of '{source.Name}', shape {shape}, is not one "
                    + $"with a fixed size.",
                "Give the axis with RewriteOptions.ClassAxis."
            );
        }

        var classes = shape[axis].Size;
        var target = Target(b, options, ElementType.Int64, new Shape(shape.Dims.RemoveAt(axis)), path);
        var logits = Float(b, source);
        var targets = new Term(b, target);
        long ignored = options.IgnoreIndex;
        if (ignored >= 0 && ignored < classes)
        {
            // A class that is ignored must not match either: its samples get a label that is not a class.
            targets = targets.Scalar(-1).Where(targets.Op("Equal", b.Int64(ignored)), targets);
            ignored = -1;
        }

        var labels = targets.Unsqueeze(axis);
        var broadcast = new long[shape.Rank];
        Array.Fill(broadcast, 1);
        broadcast[axis] = classes;
        var indices = b.Constant(
            Ir.Tensor.From<long>(broadcast, [.. Enumerable.Range(0, (int)classes).Select(i => (long)i)])
        );
        var logProbabilities = logits.Op("LogSoftmax", Int("axis", axis));
        var oneHot = labels.Op("Equal", indices).AsNumber(ElementType.Float);
        var counted = new Term(b, b.Op("Not", [labels.Op("Equal", b.Int64(ignored)).V])).AsNumber(ElementType.Float);
        var probabilities = logProbabilities.Exp();

        var weights = options.ClassWeights is { } given ? ClassWeights(b, given, broadcast, path) : (Term?)null;
        var q = weights is { } w ? oneHot * w : oneHot;
        var labeled = counted.Op("ReduceSum", Int("keepdims", 0));
        var count = weights is null ? labeled : q.Op("ReduceSum", Int("keepdims", 0));
        var total = AtLeastOne(count, weights is null);
        if (options.LabelSmoothing > 0)
        {
            var even = weights is { } scale
                ? scale * (options.LabelSmoothing / classes)
                : counted.Scalar(options.LabelSmoothing / classes);
            q = (q * (1 - options.LabelSmoothing)) + (counted * even);
        }

        var loss = -((q * logProbabilities).Op("ReduceSum", Int("keepdims", 0)) / total);
        var mass = weights is null ? counted : q.Sum([axis]);
        var gradient = ((probabilities * mass) - q) / total;
        var best = logits.Op("ArgMax", Int("axis", axis), Int("keepdims", 0));
        var correct = best.Op("Equal", targets).AsNumber(ElementType.Float).Op("ReduceSum", Int("keepdims", 0));
        return new(loss, source, gradient.Cast(source.Type), target, count, correct, labeled, (axis, shape[axis]));
    }

    private static Term ClassWeights(GraphBuilder b, IReadOnlyList<float> weights, long[] shape, string path)
    {
        if (weights.Count != shape.Max() || weights.Any(w => !float.IsFinite(w) || w < 0))
        {
            throw new MacOnnxException(
                "MAC0205",
                path,
                $"{weights.Count} class weights are given for {shape.Max()} classes.",
                "Give one weight of 0 or more for each class."
            );
        }

        return new(b, b.Constant(Ir.Tensor.From<float>(shape, [.. weights])));
    }

    /// <summary>
    /// Keeps a batch in which every sample is ignored from dividing by zero: its loss and gradient are zero.
    /// </summary>
    private static Term AtLeastOne(Term total, bool isCount) => total.Op("Max", total.Scalar(isCount ? 1 : 1e-12));

    private static Term Float(GraphBuilder b, Value value) => new Term(b, value).Cast(ElementType.Float);

    private static Value Target(GraphBuilder b, RewriteOptions options, ElementType type, Shape shape, string path)
    {
        if (b.Graph.Inputs.Any(i => i.Name == options.TargetName))
        {
            throw new MacOnnxException(
                "MAC0206",
                path,
                $"The model has an input '{options.TargetName}' already.",
                "Name the target with RewriteOptions.TargetName."
            );
        }

        return b.Input(options.TargetName, type, shape);
    }
}
