using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// Says what is added to the scores of attention, by computing it: for inputs of ones it shows what the model itself
/// hides.
/// </summary>
internal static class AttentionMask
{
    /// <summary>
    /// What is added to hidden scores is below this in all exporters (-100 in Swin, -10,000 and less elsewhere).
    /// </summary>
    private const double Hidden = -50;

    /// <summary>Describes an operand that is added to scores, or the condition that selects them.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="mask">The operand.</param>
    /// <param name="keepsWhere">For a condition, whether it is true where scores are kept.</param>
    /// <returns>What <see cref="AttentionReport.Mask"/> says; null for a constant that changes nothing.</returns>
    public static string? Describe(Graph graph, Value mask, bool keepsWhere)
    {
        var (tensor, inputs) = Evaluate(graph, mask);
        if (tensor is null)
        {
            return inputs.Any(i => !i.Type.IsFloatingPoint()) ? "padding" : "additive";
        }

        double[] added =
            tensor.Type == ElementType.Bool
                ? [.. tensor.Span<bool>().ToArray().Select(b => b == keepsWhere ? 0 : double.NegativeInfinity)]
            : tensor.Type.IsFloatingPoint() ? tensor.ToDouble()
            : [.. tensor.ToInt64().Select(v => (double)v)];
        var isMask = added.All(v => v == 0 || v <= Hidden || double.IsNaN(v));
        if (isMask && IsCausal(tensor.Dims.AsSpan(), added))
        {
            return "causal";
        }

        if (inputs.Count > 0)
        {
            return inputs.All(i => i.Type.IsFloatingPoint()) ? "additive" : "padding";
        }

        var perWindow = Changes(tensor.Dims.AsSpan(), added);
        return isMask
            ? added.All(v => v == 0)
                ? null
                : perWindow
                    ? "shifted windows"
                    : "additive"
            : perWindow
                ? "relative position bias"
                : "additive";
    }

    /// <summary>
    /// Whether exactly the keys after the query are hidden, the last query seeing every key, or the first query only
    /// the first.
    /// </summary>
    private static bool IsCausal(ReadOnlySpan<long> dims, double[] added)
    {
        if (dims.Length < 2 || dims[^1] < 2 || dims[^2] < 2)
        {
            return false;
        }

        var (queries, keys) = (dims[^2], dims[^1]);
        return new[] { 0, keys - queries }.Any(offset =>
            offset >= 0 && added.Index().All(a => a.Item != 0 == (a.Index % keys > (a.Index / keys % queries) + offset))
        );
    }

    /// <summary>Whether the matrices of queries and keys differ along a leading axis.</summary>
    private static bool Changes(ReadOnlySpan<long> dims, double[] added)
    {
        var matrix = dims.Length < 2 ? added.Length : (int)(dims[^1] * dims[^2]);
        return matrix > 0 && added.Index().Any(a => a.Item != added[a.Index % matrix]);
    }

    /// <summary>
    /// Computes a value from constants, shapes, and ones for the graph's inputs; also gives the inputs it depends on.
    /// </summary>
    private static (Tensor? Value, HashSet<Value> Inputs) Evaluate(Graph graph, Value value)
    {
        var needed = new HashSet<Value> { value };
        var nodes = new List<Node>();
        var known = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        for (var i = graph.Nodes.Count - 1; i >= 0; i--)
        {
            var node = graph.Nodes[i];
            if (!node.Outputs.Any(needed.Contains))
            {
                continue;
            }

            if (
                (node.Is("Shape") || node.Is("Size"))
                && node.Inputs[0]!.Shape is { } shape
                && shape.Dims.All(d => d.IsKnown)
            )
            {
                known[node.Outputs[0].Name] = ShapeEvaluation.ShapeOf(node, d => d.First);
                continue;
            }

            nodes.Add(node);
            needed.UnionWith(node.Reads);
        }

        nodes.Reverse();
        var inputs = new HashSet<Value>();
        inputs.UnionWith(needed.Where(v => v.Producer is null && v.Constant is null));
        try
        {
            foreach (var leaf in needed.Where(v => v.Producer is null))
            {
                known[leaf.Name] = leaf.Constant ?? Ones(leaf);
            }

            return (
                nodes.Count == 0 ? known[value.Name] : SubgraphRun.Run(graph, nodes, known, [value.Name])[0],
                inputs
            );
        }
        catch (Exception e) when (e is OnnxRuntimeException or InvalidOperationException)
        {
            return (null, inputs);
        }
    }

    private static Tensor Ones(Value input)
    {
        var dims = input.KnownShape.Dims.Select(d => d.First).ToArray();
        var value = input.Type.IsFloatingPoint() ? 0 : 1;
        return new Tensor(input.Type, [.. dims], GraphBuilder.Filled(value, input.Type, Tensor.CountOf(dims)).Data);
    }
}
