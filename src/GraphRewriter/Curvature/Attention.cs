using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>Which output units of which layer are an operand of attention.</summary>
/// <param name="Node">The node that multiplies with the weight.</param>
/// <param name="Weight">The weight.</param>
/// <param name="Units">Whether each output unit of the layer reaches the operand.</param>
internal sealed record Projection(Node Node, Parameter Weight, ImmutableArray<bool> Units)
{
    /// <summary>Gets whether every unit reaches the operand.</summary>
    public bool IsWhole => Units.All(u => u);

    public AttentionProjectionReport Report() => new(Weight.Name, IsWhole ? [] : [.. Ranges()]);

    private IEnumerable<UnitRange> Ranges()
    {
        for (var first = 0; first < Units.Length; first++)
        {
            if (Units[first])
            {
                var end = first;
                while (end < Units.Length && Units[end])
                {
                    end++;
                }

                yield return new(first, end);
                first = end;
            }
        }
    }
}

/// <summary>An attention layer.</summary>
/// <param name="Softmax">The softmax over the keys.</param>
/// <param name="Heads">The number of query heads.</param>
/// <param name="Mask">What is added to the scores or hides some of them, as <see cref="AttentionReport.Mask"/>.</param>
/// <param name="Query">The queries' projection.</param>
/// <param name="Key">The keys' projection.</param>
/// <param name="Value">The values' projection.</param>
/// <param name="Tokens">How probabilities and rows of the values' layer belong together; null where that is not
/// known.</param>
/// <param name="NoTokens">Why it is not known; empty where it is.</param>
/// <param name="Tables">Constants that multiply queries and keys alike: rotary tables and scales.</param>
/// <param name="Masks">Constants added to the scores that change nothing.</param>
internal sealed record Attention(
    Node Softmax,
    long Heads,
    string? Mask,
    Projection Query,
    Projection Key,
    Projection Value,
    TokenLayout? Tokens,
    string NoTokens,
    HashSet<Value> Tables,
    Value[] Masks
)
{
    public AttentionReport Report() => new(Heads, Mask, Query.Report(), Key.Report(), Value.Report());
}
