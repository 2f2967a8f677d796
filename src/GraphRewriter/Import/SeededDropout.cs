using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Spells training-mode dropout so that its mask is a function of a seed that the runtime gives with every step.
/// </summary>
/// <remarks>
/// ONNX Runtime's own operator draws from a stream that starts anew with every session: a resumed run would not repeat
/// an uninterrupted
/// one. Here element k of the mask comes from the high bits of h = q(C q(A k + s)), q(z) = z^2 + z in 64-bit integers:
/// the
/// quadratic maps mix well in the high bits, and need only operators that every provider has.
/// </remarks>
internal static class SeededDropout
{
    private const long A = unchecked((long)0x9E3779B97F4A7C15);
    private const long C = unchecked((long)0xD1342543DE82EF95);
    private const float DefaultRatio = 0.5f;

    /// <summary>
    /// Replaces every Dropout of the graph and of the branches of its Ifs; those in the body of a loop stay.
    /// </summary>
    /// <returns>The graph input for the seed, an int64 scalar; null where there is no dropout.</returns>
    public static Value? Apply(Graph graph)
    {
        Value? seed = null;
        var number = 0L;
        foreach (var node in InBranches(graph).ToArray())
        {
            var b = new GraphBuilder(node.Graph!)
            {
                Before = node,
                Origin = $"dropout {node}",
                Prefix = $"{node.Outputs[0].Name}/",
            };
            seed ??= new GraphBuilder(graph).Input(graph.FreshName("dropout_seed"), ElementType.Int64, Shape.Scalar);
            var x = new Term(b, node.Inputs[0]!);
            var ratio = node.Input(1) is { } given
                ? new Term(b, given).Op("Cast", Attr.Int("to", (long)ElementType.Float))
                : new Term(b, b.Scalar(DefaultRatio, ElementType.Float));
            var kept = Uniform(b, x, new Term(b, seed) + new Term(b, b.Int64(number++ * C)))
                .Op("GreaterOrEqual", ratio)
                .Op("Reshape", x.Op("Shape"));
            var scaled = kept.Op("Cast", Attr.Int("to", (long)ElementType.Float)) / (1 - ratio);
            b.Assign(node.Outputs[0], x * scaled.Op("CastLike", x));
            if (node.Outputs.ElementAtOrDefault(1) is { Name.Length: > 0 } mask)
            {
                b.Assign(mask, kept);
            }

            node.Graph!.Remove(node);
        }

        return seed;
    }

    private static IEnumerable<Node> InBranches(Graph graph) =>
        graph.Nodes.SelectMany(n =>
            n.Is("Dropout") ? [n]
            : n.Is("If") ? n.Attributes.Graphs.SelectMany(InBranches)
            : (IEnumerable<Node>)[]
        );

    /// <summary>Gives a number from 0 to 1 for every element of x, in one axis.</summary>
    private static Term Uniform(GraphBuilder b, Term x, Term seed)
    {
        var k = new Term(b, b.Op("Range", [b.Int64(0), x.Op("Size").V, b.Int64(1)]));
        var h = Quadratic((Quadratic((k * new Term(b, b.Int64(A))) + seed) * new Term(b, b.Int64(C))) + seed);
        return (h.Cast(ElementType.Float) * Math.Pow(2, -64)) + 0.5;
    }

    private static Term Quadratic(Term z) => (z * z) + z;
}
