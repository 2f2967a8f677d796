using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Numerics;

namespace MacOnnx.Cli;

/// <summary>Makes options whose value is null unless it was given, with errors that fit on one line.</summary>
internal static class Options
{
    /// <summary>Makes an option for a finite number; of integer types, for a whole one.</summary>
    public static Option<T?> Number<T>(string name, string description, string help)
        where T : struct, INumber<T> =>
        Parsed<T>(
            name,
            description,
            help,
            default(T) is float or double ? "a number" : "a whole number in its range",
            text =>
                T.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var value) && T.IsFinite(value)
                    ? value
                    : null
        );

    public static Option<T?> Choice<T>(string name, string description, params (string Text, T Value)[] choices)
        where T : struct =>
        Parsed<T>(
            name,
            description,
            string.Join('|', choices.Select(c => c.Text)),
            $"one of {string.Join(", ", choices.Select(c => c.Text))}",
            text => choices.Where(c => c.Text == text).Select(c => (T?)c.Value).FirstOrDefault()
        );

    public static Option<string?> Text(string name, string description, string help) =>
        new(name) { Description = description, HelpName = help };

    public static Option<bool> Switch(string name, string description) => new(name) { Description = description };

    /// <summary>Makes an option from a parser that gives null for texts that it does not take.</summary>
    public static Option<T?> Parsed<T>(
        string name,
        string description,
        string help,
        string wanted,
        Func<string, T?> parse
    )
        where T : struct =>
        new(name)
        {
            Description = description,
            HelpName = help,
            CustomParser = result => Parse(result, name, wanted, parse),
        };

    /// <summary>Makes the option <c>--json</c>.</summary>
    public static Option<bool> Json() => Switch("--json", "Write one JSON object, for machines.");

    /// <summary>Makes the option <c>-o</c>.</summary>
    public static Option<string?> Output(string description, string help) =>
        new("--output", "-o") { Description = description, HelpName = help };

    /// <summary>Makes the option <c>--threads</c>.</summary>
    public static Option<int?> Threads() =>
        Number<int>("--threads", "Threads of ONNX Runtime; by default one for each core.", "N");

    private static T? Parse<T>(ArgumentResult result, string name, string wanted, Func<string, T?> parse)
        where T : struct
    {
        var text = result.Tokens[^1].Value;
        var value = parse(text);
        if (value is null)
        {
            result.AddError($"{name}: '{text}' is not {wanted}.");
        }

        return value;
    }
}
