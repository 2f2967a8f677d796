using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>The global l2 norm of gradients: one number that also tells whether any of them is not finite.</summary>
internal static class GradientNorm
{
    /// <summary>Appends the norm.</summary>
    public static Term Append(GraphBuilder b, IEnumerable<Term> gradients)
    {
        Term? total = null;
        foreach (var gradient in gradients)
        {
            Value flat = gradient.Cast(ElementType.Float);
            var square = new Term(
                b,
                FunctionCall.Append(
                    b,
                    "SquaredNorm",
                    [flat],
                    [],
                    inner => [inner.Op("ReduceSumSquare", [flat], Int("keepdims", 0))]
                )[0]
            );
            total = total is { } sum ? sum + square : square;
        }

        return (total ?? new Term(b, b.Scalar(0, ElementType.Float))).Sqrt();
    }
}
