using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Einstein sums: each operand receives the sum of the output's gradient with the other operands.</summary>
internal static class Einsum
{
    public static IEnumerable<OpRule> Rules { get; } = [new("Einsum", Gradient)];

    private static Term?[] Gradient(GradientContext g)
    {
        var (terms, output) = Parse(g.Node);
        if (terms.Any(t => t.Distinct().Count() < t.Length))
        {
            throw g.Unsupported(
                $"an index is repeated inside one operand ('{g.Text("equation", "")}')",
                "Take the diagonal before the Einsum."
            );
        }

        var result = new Term?[terms.Length];
        for (var i = 0; i < terms.Length; i++)
        {
            if (!g.Needs(i))
            {
                continue;
            }

            var own = terms[i];
            var others = Enumerable.Range(0, terms.Length).Where(k => k != i).ToArray();
            foreach (var (axis, label) in own.Index())
            {
                if (
                    g.ShapeX(i)[axis] is { IsStatic: true, Size: 1 }
                    && others.Any(k =>
                        terms[k].Contains(label, StringComparison.Ordinal)
                        && !g.ShapeX(k)[terms[k].IndexOf(label, StringComparison.Ordinal)].SameAs(1)
                    )
                )
                {
                    throw g.Unsupported(
                        $"operand {i} is repeated along '{label}'",
                        "Give both operands the same dimensions."
                    );
                }
            }

            // An index of this operand alone was summed away: every element along it receives the same.
            var sources = output + string.Concat(others.Select(k => terms[k]));
            var found = string.Concat(own.Where(sources.Contains));
            var equation = $"{string.Join(',', others.Select(k => terms[k]).Prepend(output))}->{found}";
            var gradient = g.Op("Einsum", [g.DY().V, .. others.Select(k => g.X(k).V)], Attr.Text("equation", equation));
            result[i] =
                found == own
                    ? gradient
                    : gradient
                        .Unsqueeze([.. Axes(own, c => !found.Contains(c, StringComparison.Ordinal))])
                        .Op("Expand", g.X(i).ShapeVector());
        }

        return result;
    }

    private static IEnumerable<long> Axes(string term, Func<char, bool> which) =>
        term.Index().Where(p => which(p.Item)).Select(p => (long)p.Index);

    /// <summary>Gives one letter an axis for each operand and for the output.</summary>
    public static (string[] Terms, string Output) Parse(Node node)
    {
        var equation = node.Attributes.Text("equation", "").Replace(" ", "", StringComparison.Ordinal);
        var sides = equation.Split("->");
        var terms = sides[0].Split(',');
        var free = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
            .Where(c => !equation.Contains(c, StringComparison.Ordinal))
            .ToArray();

        // "..." stands for the axes without a letter, the same number in every operand that has it.
        var hidden = terms
            .Select((t, i) => t.Contains("...", StringComparison.Ordinal) ? node.Inputs[i]!.Rank - (t.Length - 3) : 0)
            .Max();
        var dots = new string(free.AsSpan(0, hidden));
        var full = terms.Select(t => t.Replace("...", dots, StringComparison.Ordinal)).ToArray();
        var output =
            sides.Length == 2
                ? sides[1].Replace("...", dots, StringComparison.Ordinal)
                : dots
                    + string.Concat(
                        terms
                            .SelectMany(t => t)
                            .Where(char.IsAsciiLetter)
                            .GroupBy(c => c)
                            .Where(c => c.Count() == 1)
                            .Select(c => c.Key)
                            .Order()
                    );
        return (full, output);
    }
}
