using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Replaces operators that stand for several by those, whose gradients and layers are known. What needs no shapes is
/// here; attention is in <see cref="AttentionExpansion"/>.
/// </summary>
internal static class FusedOperators
{
    /// <summary>What ONNX adds to the standard deviation in MeanVarianceNormalization.</summary>
    private const double MeanVarianceEpsilon = 1e-9;

    /// <summary>Replaces every such node; leaves those of a kind that cannot be replaced.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="refused">Receives those that are left, each with the reason.</param>
    public static void Apply(Graph graph, Dictionary<Node, UnsupportedUseException> refused) =>
        GraphBuilder.Expand(graph, node => Rule(node) is { } rule ? b => rule(b, node) : null, refused);

    private static Action<GraphBuilder, Node>? Rule(Node node) =>
        (node.Domain, node.OpType) switch
        {
            ("com.microsoft", "FusedConv" or "FusedGemm") => FusedActivations.Expand,
            ("com.microsoft", "EmbedLayerNormalization") => EmbedLayerNormalization,
            ("", "MeanVarianceNormalization") => MeanVarianceNormalization,
            ("", "STFT") => ShortTimeFourier,
            _ => null,
        };

    /// <summary>
    /// The sum of embeddings of words, positions and perhaps segments, normalized. Outputs: it, the number of words of
    /// each sample, the sum.
    /// </summary>
    private static void EmbedLayerNormalization(GraphBuilder b, Node node)
    {
        var ids = new Term(b, node.Inputs[0]!);
        var positions = node.Input(8) is { } given ? new Term(b, given) : Positions();
        var sum = Rows(2, ids) + Rows(3, positions);
        sum = node.Input(1) is { } segments ? sum + Rows(4, new(b, segments)) : sum;
        var epsilon = node.Attributes.Float("epsilon", 1e-12f);
        b.Assign(
            node.Outputs[0],
            b.Op("LayerNormalization", [sum, node.Inputs[5], node.Inputs[6]], Float("epsilon", epsilon))
        );
        if (node.Outputs.Count > 1 && node.Outputs[1].Name.Length > 0)
        {
            var counted = node.Input(7) is { } mask ? new Term(b, mask) : ids * 0;
            b.Assign(node.Outputs[1], counted.Cast(ElementType.Int32).Sum([1], keepDims: false));
        }

        if (node.Outputs.Count > 2 && node.Outputs[2].Name.Length > 0)
        {
            b.Assign(node.Outputs[2], sum);
        }

        Term Rows(int table, Term indices) => new(b, b.Op("Gather", [node.Inputs[table], indices]));

        Term Positions()
        {
            var count = ids.Op("Shape", Int("start", 1), Int("end", 2)).Squeeze(0);
            return new Term(b, b.Op("Range", [b.Int64(0), count, b.Int64(1)])).Unsqueeze(0);
        }
    }

    /// <summary>(x - mean) / (sqrt(mean(x^2) - mean^2) + 1e-9) over axes.</summary>
    private static void MeanVarianceNormalization(GraphBuilder b, Node node)
    {
        var x = new Term(b, node.Inputs[0]!);
        var axes = node.Attributes.Ints("axes") ?? [0, 2, 3];
        var centered = x - x.Mean(axes);
        var deviation = (centered * centered).Mean(axes).Sqrt();
        b.Assign(node.Outputs[0], centered / (deviation + MeanVarianceEpsilon));
    }

    /// <summary>
    /// The discrete Fourier transform of frames: signal [batch, time, 1 or 2], step, window, length of a frame.
    /// </summary>
    private static void ShortTimeFourier(GraphBuilder b, Node node)
    {
        var signal = new Term(b, node.Inputs[0]!);
        var window = node.Input(2) is { } given ? new Term(b, given) : (Term?)null;
        var length = node.Input(3) is { } frame
            ? new Term(b, frame)
            : window!.Value.Op("Shape", Int("start", 0), Int("end", 1)).Squeeze(0);
        length = length.Cast(ElementType.Int64);
        var time = signal.Op("Shape", Int("start", 1), Int("end", 2)).Squeeze(0);
        var (zero, one) = (b.Int64(0), b.Int64(1));
        var step = new Term(b, node.Inputs[1]!).Cast(ElementType.Int64);
        var starts = new Term(b, b.Op("Range", [zero, (time - length) + new Term(b, one), step]));
        var places = starts.Unsqueeze(1) + new Term(b, b.Op("Range", [zero, length, one]));

        // [batch, frames, length, 1 or 2]
        var frames = signal.Op("Gather", places, Int("axis", 1));
        frames = window is { } w ? frames * w.Unsqueeze(1) : frames;
        b.Assign(
            node.Outputs[0],
            b.Op(
                "DFT",
                [frames, null, b.Int64(2)],
                Int("onesided", node.Attributes.Int("onesided", 1)),
                Int("inverse", 0)
            )
        );
    }
}
