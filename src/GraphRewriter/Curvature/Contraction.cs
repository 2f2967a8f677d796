using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// A product of two tensors summed over one axis, however it is spelled: one letter for each axis, as Einsum writes
/// them.
/// </summary>
/// <param name="Node">The node.</param>
/// <param name="Left">The letters of the first operand's axes.</param>
/// <param name="Right">The letters of the second operand's axes.</param>
/// <param name="Result">The letters of the result's axes.</param>
/// <param name="Summed">The letter that is summed over.</param>
internal sealed record Contraction(Node Node, string Left, string Right, string Result, char Summed)
{
    private const string Letters = "abcdefghijklmnopqrstuvwxyz";

    /// <summary>Reads a node as a contraction; null where it is none.</summary>
    public static Contraction? Of(Node node)
    {
        var shapes = node.Inputs.Take(2).Select(v => v?.Shape).OfType<Shape>().ToArray();
        if (shapes.Length < 2 || shapes.Any(s => s.Rank is < 2 or > 20))
        {
            return null;
        }

        if (node.Is("MatMul") || node is { OpType: "FusedMatMul", Domain: "com.microsoft" })
        {
            var batch = Letters[..(shapes.Max(s => s.Rank) - 2)];
            string Operand(int i, string matrix, string transposed) =>
                batch[^(shapes[i].Rank - 2)..]
                + (node.Attributes.Int(i == 0 ? "transA" : "transB", 0) != 0 ? transposed : matrix);
            return new(node, Operand(0, "XZ", "ZX"), Operand(1, "ZY", "YZ"), batch + "XY", 'Z');
        }

        if (node.Is("Einsum") && node.Inputs.Count == 2)
        {
            var (terms, result) = Einsum.Parse(node);
            var summed = terms[0].Intersect(terms[^1]).Except(result).ToArray();
            var isPlain =
                terms.Length == 2
                && summed.Length == 1
                && terms.Select((t, i) => t.Length == shapes[i].Rank && t.Distinct().Count() == t.Length).All(ok => ok);
            return isPlain && terms[0].Union(terms[1]).Except(result).Count() == 1
                ? new(node, terms[0], terms[1], result, summed[0])
                : null;
        }

        return null;
    }

    /// <summary>Gives the letters of an operand's axes.</summary>
    public string Operand(int input) => input == 0 ? Left : Right;

    /// <summary>Gives the summed axis of an operand.</summary>
    public int SummedAxis(int input) => Operand(input).IndexOf(Summed, StringComparison.Ordinal);
}
