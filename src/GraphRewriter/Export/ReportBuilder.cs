using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>Says what a rewrite understood.</summary>
internal static class ReportBuilder
{
    /// <summary>Gives what was understood of a model.</summary>
    /// <param name="context">What the passes left.</param>
    /// <param name="model">The model that was imported.</param>
    /// <param name="path">Its file.</param>
    /// <param name="opset">The operator set that the file was written in.</param>
    /// <param name="split">The initializers that several parameters shared.</param>
    public static RewriteReport Of(
        RewriteContext context,
        ModelProto model,
        string path,
        long opset,
        IReadOnlyList<SplitInitializer> split
    )
    {
        var trained = context.TrainedNames();
        return new(
            path,
            opset,
            model.Graph.Node.Count,
            [.. context.Plan.Parameters.Select(context.Plan.Report)],
            [
                .. context
                    .Obstacles.GroupBy(o => (o.Node.QualifiedOp, o.Reason))
                    .Select(g => new OperatorReport(
                        g.Key.QualifiedOp,
                        [.. g.Select(o => Obstacle.NameOf(o.Node))],
                        g.Key.Reason,
                        [.. g.SelectMany(o => o.CutOff).Distinct().Select(v => trained[v])]
                    )),
            ],
            [.. context.Plan.Attention.Select(a => a.Report())],
            context.Buffers.All.Where(b => b.Role is BufferRole.State or BufferRole.HostResult).Sum(b => b.Bytes),
            [.. Notes(context, model, split)]
        );
    }

    private static IEnumerable<string> Notes(
        RewriteContext context,
        ModelProto model,
        IReadOnlyList<SplitInitializer> split
    )
    {
        if (split.Count > 0)
        {
            var list = string.Join(", ", split.Select(s => $"'{s.Name}' for {s.Parameters}"));
            yield return $"The exporter stored equal parameters of untrained layers once: {list}. They "
                + $"train separately.";
        }

        var norms = model.Graph.Node.Count(n => n.OpType == "BatchNormalization");
        if (norms > 0 && context.BatchStatistics.Count == 0)
        {
            yield return $"{norms} batch normalizations run in inference mode: their statistics stay fixed "
                + $"(RewriteOptions.BatchNorm changes that).";
        }
        else if (norms == 0 && model.Graph.Node.Count(n => n.OpType == "Conv") > 1)
        {
            yield return "There is no batch normalization: if the network had any, its exporter merged "
                + "them into the convolutions.";
        }

        foreach (var (embedding, head) in context.Plan.TiedCopies)
        {
            yield return $"'{embedding}' and '{head}' hold the same numbers: the model shared one weight "
                + $"that its exporter stored twice. They train separately; a training-mode export keeps "
                + $"them one.";
        }

        if (Dequantization.HasQuantizedWeights(context.Training))
        {
            yield return "Some weights are stored as integers and do not train "
                + "(RewriteOptions.Dequantize changes that).";
        }

        if (context.Training.Nodes.Any(n => n.OpType == Quantization.RoundTrip))
        {
            yield return "Quantized activations pass gradients straight through, zero where they saturate.";
        }

        foreach (var (softmax, reason) in context.Plan.NearMisses)
        {
            yield return $"{softmax} looks like attention, but {reason}.";
        }

        if (context.Loss.ClassAxis is { Axis: var axis } && context.Loss.Source.Rank > 2)
        {
            yield return $"The class axis of '{context.Loss.Source.Name}' {context.Loss.Source.Shape} is "
                + $"{axis} (RewriteOptions.ClassAxis changes that).";
        }
    }
}
