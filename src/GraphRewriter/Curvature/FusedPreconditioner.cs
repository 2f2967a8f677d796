using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Optimizer;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>Preconditions the weight gradients of dense layers while they are computed.</summary>
/// <remarks>
/// G = dY^T X for a batch of rows X, so G + c p^T = [dY; c]^T [X; p]: one more row in the product that is computed anyway, and
/// c = -dY^T (X p) / (rho + |p|^2) costs two passes over the rows instead of three over the weight. It needs p before the backward pass:
/// in the steps that refresh p the scale is 0, the gradients come out as they are, and the optimizer graph preconditions them. Layers over
/// tokens have more rows than weights and are left to the optimizer graph.
/// </remarks>
internal static class FusedPreconditioner
{
    /// <summary>Rewrites the gradients of the layers that profit, in the training graph; marks those layers.</summary>
    /// <returns>What the squares of the gradients lack of the squares before preconditioning, a scalar; null where nothing was done.</returns>
    public static Term? Apply(Graph graph, IReadOnlyList<Layer> layers)
    {
        var b = new GraphBuilder(graph);
        Term? damping = null, lacking = null;
        foreach (var layer in layers)
        {
            if (layer.Kind != "dense" || layer.HasChoice || layer.Weight.Gradient?.Producer is not { } product || !IsProductOfRows(product, layer))
            {
                continue;
            }

            damping ??= new(b, b.Input("damping", ElementType.Float, Shape.Scalar));
            (b.Origin, b.Prefix) = ($"mac {layer.Node}", $"{layer.Weight.Name}/mac/");
            var (p, scale) = CurvatureGraph.Inputs(b, layer, DepthwiseMode.PerGroup);
            var (x, dY) = (new Term(b, layer.Input), new Term(b, product.Inputs[layer.OutputFirst ? 0 : 1]!));
            var along = x.Op("MatMul", p.Reshape(layer.In, 1)).Reshape(-1).Op("MatMul", dY);
            var bias = layer.Bias?.Gradient is { } given ? new Term(b, given) : (Term?)null;
            var total = bias is { } db ? along.Op("Sum", layer.Bias!.Value.Rank == 1 ? db : db.Reshape(-1)) : along;
            var c = total * scale.Reshape(1);
            var row = c.Unsqueeze(0);
            Value[] factors = [Joined(layer.OutputFirst ? dY : x, layer.OutputFirst ? row : p), Joined(layer.OutputFirst ? x : dY, layer.OutputFirst ? p : row)];
            layer.Weight.Gradient = Stamped(b.Op("Gemm", factors, Int("transA", 1)), layer.Weight.Value);
            if (bias is { } gradient)
            {
                layer.Bias!.Gradient = Stamped(gradient + (layer.Bias.Value.Rank == 1 ? c : c.ReshapeTo(layer.Bias.Value)), layer.Bias.Value);
            }

            // G = G' - c p^T gives |G|^2 = |G'|^2 + (rho |c|^2 - c total), bias included.
            layer.IsFused = true;
            var missing = c.Op("MatMul", (c * damping.Value) - total);
            lacking = lacking is { } sum ? sum + missing : missing;
        }

        return lacking;

        Value Joined(Term rows, Term row) => b.Op("Concat", [rows.V, row.V], Int("axis", 0));
    }

    private static bool IsProductOfRows(Node product, Layer layer) =>
        product.Is("Gemm") && product.Attributes.Int("transA", 0) == 1 && product.Attributes.Int("transB", 0) == 0 && product.Inputs.Count == 2
        && product.Attributes.Float("alpha", 1) == 1 && ReferenceEquals(product.Inputs[layer.OutputFirst ? 1 : 0], layer.Input);

    private static Value Stamped(Value gradient, Value like)
    {
        (gradient.Shape, gradient.Type) = (like.Shape, like.Type);
        return gradient;
    }
}
