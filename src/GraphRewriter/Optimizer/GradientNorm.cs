using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>The global l2 norm of gradients: one number that also tells whether any of them is not finite.</summary>
internal static class GradientNorm
{
    /// <summary>Appends the norm.</summary>
    /// <param name="b">The builder.</param>
    /// <param name="gradients">The gradients.</param>
    /// <param name="lacking">What the sum of their squares lacks, a scalar; null for nothing.</param>
    public static Term Append(GraphBuilder b, IEnumerable<Term> gradients, Value? lacking = null)
    {
        Term? total = lacking is null ? null : new(b, lacking);
        foreach (var gradient in gradients)
        {
            var flat = gradient.Cast(ElementType.Float);
            var square = flat.Op("ReduceSumSquare", Int("keepdims", 0));
            total = total is { } sum ? sum + square : square;
        }

        return (total ?? new Term(b, b.Scalar(0, ElementType.Float))).Sqrt();
    }
}
