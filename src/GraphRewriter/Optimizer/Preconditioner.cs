using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// MAC's step in the optimizer graph: G' = G + c p^T, c = -G p / (rho + |p|^2), G = [dW | db] and p with a final 1
/// where there is a bias.
/// </summary>
/// <param name="Layer">The layer.</param>
/// <param name="P">The mean inputs in use, [vectors, inputs]: one for each group, or one for all units of a matrix, or
/// two to choose from.</param>
/// <param name="Scale">-1 / (rho + |p|^2), [vectors, 1].</param>
internal sealed record Preconditioner(Layer Layer, Value P, Value Scale)
{
    /// <summary>
    /// Gets the mean input of each unit by its number, -1 for none; null where one serves all, or one each group.
    /// </summary>
    public long[]? VectorOfUnit =>
        HasChoice && Layer.Masks().ToArray() is var masks
            ? [.. Enumerable.Range(0, (int)Layer.Out).Select(u => (long)Array.FindIndex(masks, m => m[u]))]
            : null;

    private bool IsMatrix => Layer.Groups == 1;

    private bool HasChoice => Layer.HasChoice;

    /// <summary>Adds c p^T to a sum that holds the weight's gradient once.</summary>
    /// <param name="b">Where to emit.</param>
    /// <param name="sum">The sum, of the weight's shape.</param>
    /// <param name="weight">The weight's gradient.</param>
    /// <param name="bias">The bias's gradient; null without a bias.</param>
    /// <returns>The sum plus c p^T, and c in the bias's shape, to be added to a sum that holds the bias's
    /// gradient.</returns>
    public (Value Sum, Value? Bias) Apply(GraphBuilder b, Value sum, Value weight, Value? bias)
    {
        var (p, scale) = (new Term(b, P), new Term(b, Scale));
        var (g, db) = (new Term(b, weight), bias is null ? (Term?)null : new Term(b, bias));
        if (IsMatrix && !Layer.OutputFirst)
        {
            var row = Chosen(Plus(p.Op("MatMul", g), db, 1, Layer.Out) * scale);
            return (
                b.Op("Gemm", [p.V, row.V, sum], Int("transA", 1)),
                db is null ? null : Joined(row, 0).ReshapeTo(Layer.Bias!.Value)
            );
        }

        // [groups, outputs of a group, inputs]; one group is a plain matrix.
        var groups = p.V.KnownShape[0].Size;
        long[] shared = IsMatrix ? [] : [groups];
        long[] rows = IsMatrix ? [Layer.Out] : [Layer.Groups, Layer.Out / Layer.Groups];
        var dot = As(g, [.. rows, Layer.In])
            .Op("MatMul", HasChoice ? p.Transpose(1, 0) : As(p, [.. shared, Layer.In, 1]));
        var c = Chosen(
            Plus(dot, db, [.. rows, 1])
                * (
                    HasChoice ? scale.Reshape(1, -1)
                    : IsMatrix ? scale
                    : scale.Reshape(groups, 1, 1)
                )
        );
        var matrix = As(new Term(b, sum), [.. rows, Layer.In]);
        var result = IsMatrix
            ? new Term(b, b.Op("Gemm", [c.V, p.V, matrix.V]))
            : matrix + (c * p.Reshape(groups, 1, Layer.In));
        return (
            As(result, [.. Layer.Weight.Value.KnownShape.Dims.Select(d => d.Size)]),
            db is null ? null : Joined(c, 1).ReshapeTo(Layer.Bias!.Value)
        );
    }

    /// <summary>
    /// Adds to a matrix-vector product. ONNX Runtime would fuse Add into a Gemm, which is three times slower for one
    /// column; it leaves Sum alone.
    /// </summary>
    private static Term Plus(Term product, Term? other, params ReadOnlySpan<long> dims) =>
        other is { } term ? product.Op("Sum", term.Reshape(dims)) : product;

    /// <summary>Keeps, of a c for every mean input, the one of each unit.</summary>
    private Term Chosen(Term c) => HasChoice ? c * new Term(c.B, c.B.Constant(Choice())) : c;

    /// <summary>
    /// Gives 1 where a unit takes a mean input and 0 elsewhere, [units, vectors], or transposed where the weight is.
    /// </summary>
    private Tensor Choice()
    {
        var masks = Layer.Masks().ToArray();
        return Layer.OutputFirst
            ? Ir.Tensor.From<float>(
                [Layer.Out, masks.Length],
                [.. Enumerable.Range(0, (int)Layer.Out).SelectMany(u => masks.Select(m => m[u] ? 1f : 0f))]
            )
            : Ir.Tensor.From<float>([masks.Length, Layer.Out], [.. masks.SelectMany(m => m.Select(u => u ? 1f : 0f))]);
    }

    private Term Joined(Term c, long vectors) => HasChoice ? c.Sum([vectors], keepDims: false) : c;

    private Term As(Term term, params ReadOnlySpan<long> dims)
    {
        var same =
            Layer.Kind == "dense" && IsMatrix && dims.Length == 2 && dims[1] == Layer.In && !ReferenceEquals(term.V, P);
        return same ? term : term.Reshape(dims);
    }
}
