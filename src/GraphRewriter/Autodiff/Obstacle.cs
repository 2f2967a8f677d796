using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Autodiff;

/// <summary>A node between parameters and loss that gradients do not pass.</summary>
/// <param name="Node">The node.</param>
/// <param name="Reason">Why, and what to do, as part of a sentence; empty for an operator that is not known.</param>
/// <param name="Use">The use that has no gradient; null where the operator has none.</param>
/// <param name="CutOff">The wanted values that reach the loss through the node, in the order wanted.</param>
internal sealed record Obstacle(Node Node, string Reason, UnsupportedUseException? Use, IReadOnlyList<Value> CutOff)
{
    private const int MostNodes = 3;
    private const int MostParameters = 5;
    private const int MostPrefixes = 4;

    /// <summary>Gives one error that names every obstacle, the parameters behind it and what to do.</summary>
    /// <param name="obstacles">The obstacles, one or more.</param>
    /// <param name="wanted">The names of all values whose gradients are wanted.</param>
    /// <param name="model">The model.</param>
    public static MacOnnxException Error(
        IReadOnlyList<Obstacle> obstacles,
        IReadOnlyDictionary<Value, string> wanted,
        string model
    )
    {
        var cutOff = obstacles.SelectMany(o => o.CutOff).ToHashSet();
        var hint = Hint(
            [.. wanted.Where(w => cutOff.Contains(w.Key)).Select(w => w.Value)],
            [.. wanted.Where(w => !cutOff.Contains(w.Key)).Select(w => w.Value)]
        );
        if (obstacles is [{ Use: { } only }])
        {
            return new(only.Id, only.Where, $"No gradient is known where {only.What}.", $"{only.Hint} {hint}", only);
        }

        var groups = obstacles
            .GroupBy(o => (o.Node.QualifiedOp, o.Reason))
            .Select(g =>
                $"{g.Key.QualifiedOp} ({Some(g.Select(o => NameOf(o.Node)), MostNodes)}{Because(g.Key.Reason)}"
                + $"; cuts off {Some(g.SelectMany(o => o.CutOff).Distinct().Select(v => wanted[v]), MostParameters)})"
            );
        return new("MAC0101", model, $"No gradient is known for {string.Join(", ", groups)}.", hint);

        static string Because(string reason) => reason.Length > 0 ? $": {reason}" : "";
    }

    /// <summary>Gives a node's name as messages show it.</summary>
    public static string NameOf(Node node) => node.Name.Length > 0 ? node.Name : node.Outputs[0].Name;

    /// <summary>Joins names: all of them, or the first ones and how many there are.</summary>
    private static string Some(IEnumerable<string> names, int most)
    {
        string[] all = [.. names];
        return all.Length <= most
            ? string.Join(", ", all)
            : $"{string.Join(", ", all.Take(most))} and {all.Length - most} more";
    }

    private static string Hint(IReadOnlyList<string> cutOff, IReadOnlyList<string> others)
    {
        if (others.Count == 0)
        {
            return "No parameter is left that could train without.";
        }

        string[] prefixes = [.. cutOff.Select(c => Prefix(c, others)).Distinct(StringComparer.Ordinal)];
        return prefixes.Length > MostPrefixes
            ? "Freeze what is cut off with RewriteOptions.Frozen ('maconnx inspect' lists it)."
            : $"Freeze what is cut off with RewriteOptions.Frozen '^({string.Join('|', prefixes)})'.";
    }

    /// <summary>
    /// Gives the pattern of the shortest path of modules that a name starts with and no other one does.
    /// </summary>
    private static string Prefix(string name, IReadOnlyList<string> others)
    {
        for (var end = 1; end < name.Length; end++)
        {
            if (name[end - 1] is '.' or '/' && !others.Any(o => o.StartsWith(name[..end], StringComparison.Ordinal)))
            {
                return Regex.Escape(name[..end]);
            }
        }

        return $"{Regex.Escape(name)}$";
    }
}
