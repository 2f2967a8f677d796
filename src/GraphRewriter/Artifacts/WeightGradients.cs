using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>
/// Checks the layers that were found on the forward part against the products that compute their weights' gradients in
/// a file's own backward part: gradients of outputs times the layer's input.
/// </summary>
/// <param name="backward">The nodes of the backward part.</param>
/// <param name="seeds">The values that it starts from.</param>
internal sealed class WeightGradients(IReadOnlySet<Node> backward, IReadOnlySet<Value> seeds)
{
    private static readonly string[] Layouts =
    [
        "Identity",
        "Reshape",
        "Transpose",
        "Cast",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Expand",
    ];

    /// <summary>Says of each layer whose input is not what the gradient is a product with what it is instead.</summary>
    /// <param name="layers">The layers.</param>
    /// <param name="gradients">The gradient of a weight; null for none.</param>
    public IEnumerable<string> Differences(IEnumerable<Layer> layers, Func<Parameter, Value?> gradients)
    {
        foreach (var layer in layers.Where(l => l is DenseLayer or ConvolutionLayer))
        {
            if (gradients(layer.Weight) is not { } gradient)
            {
                continue;
            }

            var expected = Root(layer.Input);
            var found = Factors(gradient).ToHashSet();
            if (!found.SetEquals([expected]))
            {
                yield return $"'{layer.Weight.Name}' is applied to '{expected.Name}', but its gradient in the graph is "
                    + (
                        found.Count == 0
                            ? "no product with a value of the forward part."
                            : $"a product with {string.Join(", ", found.Select(f => $"'{f.Name}'"))}."
                    );
            }
        }
    }

    /// <summary>Gives the values of the forward part that a gradient is a product with.</summary>
    private IEnumerable<Value> Factors(Value gradient)
    {
        var (seen, left) = (new HashSet<Value>(), new Stack<Value>([gradient]));
        while (left.TryPop(out var value))
        {
            var root = Root(value);
            if (!seen.Add(root) || root.Producer is not { } node)
            {
                continue;
            }

            switch (node.OpType)
            {
                case "Sum" or "Add":
                    foreach (var input in node.Inputs.OfType<Value>())
                    {
                        left.Push(input);
                    }

                    break;
                case "Gemm" or "MatMul" or "FusedMatMul":
                    foreach (var factor in node.Inputs.Take(2).Select(i => Root(i!)).Where(IsForward))
                    {
                        yield return factor;
                    }

                    break;
                case "ConvGrad" or "ConvTransposeGrad":
                    yield return Root(node.Inputs[1]!);
                    break;
            }
        }
    }

    private bool IsForward(Value value) =>
        !seeds.Contains(value) && (value.Producer is null || !backward.Contains(value.Producer));

    /// <summary>Gives what a value is but for its layout.</summary>
    private static Value Root(Value value)
    {
        while (value.Producer is { } node && Layouts.Contains(node.OpType) && node.Inputs[0] is { } input)
        {
            value = input;
        }

        return value;
    }
}
