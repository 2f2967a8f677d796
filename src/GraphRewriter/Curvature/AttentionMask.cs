using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;

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
        var inputs = new HashSet<Value>();
        var tensor = ShapeEvaluation.Evaluate(graph, value, d => d.First, v => inputs.Add(v) ? Ones(v) : null);
        return (tensor, inputs);
    }

    /// <summary>Gives ones, of a floating-point type zeros; null for types of which there are none.</summary>
    private static Tensor? Ones(Value input)
    {
        if (
            !input.Type.IsFloatingPoint()
            && input.Type is not (ElementType.Int64 or ElementType.Int32 or ElementType.Bool)
        )
        {
            return null;
        }

        var dims = input.KnownShape.Dims.Select(d => d.First).ToArray();
        var value = input.Type.IsFloatingPoint() ? 0 : 1;
        return new Tensor(input.Type, [.. dims], GraphBuilder.Filled(value, input.Type, Tensor.CountOf(dims)).Data);
    }
}
