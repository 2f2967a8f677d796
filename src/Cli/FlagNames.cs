using System.Text.RegularExpressions;

namespace MacOnnx.Cli;

/// <summary>Turns the property names of the library's messages into the options of the command line.</summary>
internal static partial class FlagNames
{
    /// <summary>The options that are not called as their property is.</summary>
    private static readonly Dictionary<string, string> Others = new(StringComparer.Ordinal)
    {
        ["AccumulationSteps"] = "--accumulate",
        ["Dimensions"] = "--dim",
        ["Groups"] = "--group",
        ["OutputFolder"] = "-o",
        ["RebuildsBackward"] = "--rebuild-backward",
        ["Selection"] = "--select",
        ["Shuffle"] = "--no-shuffle",
        ["ValidationFraction"] = "--validation-split",
    };

    /// <summary>Gives a message with <c>--max-steps</c> for <c>TrainerOptions.MaxSteps</c>, and so on.</summary>
    public static string Apply(string message) => Property().Replace(message, m => Flag(m.Groups[1].Value));

    /// <summary>Gives the option of a property: <c>--max-steps</c> for <c>MaxSteps</c>.</summary>
    public static string Flag(string property) =>
        Others.TryGetValue(property, out var flag)
            ? flag
            : "-"
                + string.Concat(
                    property.Select(c => char.IsAsciiLetterUpper(c) ? $"-{char.ToLowerInvariant(c)}" : $"{c}")
                );

    [GeneratedRegex(@"\b(?:TrainerOptions|RewriteOptions|ComparisonOptions|Hyperparameters)\.(\w+)")]
    private static partial Regex Property();
}
