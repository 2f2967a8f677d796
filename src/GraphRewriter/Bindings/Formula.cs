using System.Globalization;
using System.Text.RegularExpressions;

namespace MacOnnx.GraphRewriter.Bindings;

/// <summary>
/// How a scalar follows from hyper-parameters and the step: <c>learning_rate / (1 - beta1 ^ step)</c>.
/// </summary>
/// <remarks>
/// Numbers, names, parentheses, + - * / and ^ (binding tightest, to the right), in double precision. Names are those of
/// <see cref="Hyperparameters"/> in snake case, and <c>step</c> (updates applied, from 1), <c>update</c> (1 where the
/// statistics are updated, else 0), <c>refresh</c> (1 where preconditioners are refreshed, else 0) and
/// <c>loss_count</c> (what the step's loss is the mean over).
/// </remarks>
public sealed partial class Formula
{
    private const int MaxLength = 1000;

    private Formula() { }

    /// <summary>Reads a formula.</summary>
    /// <param name="text">The text, at most 1,000 characters.</param>
    /// <returns>Computes the formula, given the value of each name.</returns>
    /// <exception cref="FormatException">The text is not a formula.</exception>
    public static Func<Func<string, double>, double> Parse(string text) =>
        Read<Func<Func<string, double>, double>>(
            text,
            number => _ => number,
            name => v => v(name),
            (operation, a, b) =>
                operation switch
                {
                    '+' => v => a(v) + b(v),
                    '-' => v => a(v) - b(v),
                    '*' => v => a(v) * b(v),
                    '/' => v => a(v) / b(v),
                    _ => v => Math.Pow(a(v), b(v)),
                }
        );

    /// <summary>Reads a formula in other terms than numbers.</summary>
    /// <param name="text">The text, at most 1,000 characters.</param>
    /// <param name="number">Gives a number.</param>
    /// <param name="name">Gives what a name stands for.</param>
    /// <param name="apply">Applies one of + - * / ^.</param>
    /// <exception cref="FormatException">The text is not a formula.</exception>
    internal static T Read<T>(string text, Func<double, T> number, Func<string, T> name, Func<char, T, T, T> apply)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text.Length <= MaxLength
            ? new Reader<T>(text, number, name, apply).Read()
            : throw new FormatException($"The formula has {text.Length} characters, more than {MaxLength}.");
    }

    /// <summary>Puts formulas in the place of names.</summary>
    /// <param name="text">The formula.</param>
    /// <param name="formulas">What stands for each name; other names stay.</param>
    internal static string Substitute(string text, IReadOnlyDictionary<string, string> formulas) =>
        Names().Replace(text, m => formulas.TryGetValue(m.Value, out var formula) ? $"({formula})" : m.Value);

    /// <summary>Whether a text is a formula.</summary>
    /// <param name="text">The text.</param>
    public static bool IsValid(string? text)
    {
        try
        {
            return text is not null && Parse(text) is not null;
        }
        catch (FormatException)
        {
            return false;
        }
    }

    /// <summary>The letters of a number such as 1e-8 are no name.</summary>
    [GeneratedRegex(@"(?<![\w.])[A-Za-z_]\w*", RegexOptions.CultureInvariant)]
    private static partial Regex Names();

    /// <summary>Reads one text.</summary>
    private sealed class Reader<T>(string text, Func<double, T> number, Func<string, T> name, Func<char, T, T, T> apply)
    {
        private int _at;

        public T Read()
        {
            var result = Sum();
            return Peek() == '\0' ? result : throw Bad();
        }

        private T Sum()
        {
            var left = Product();
            while (Peek() is '+' or '-')
            {
                left = apply(text[_at++], left, Product());
            }

            return left;
        }

        private T Product()
        {
            var left = Power();
            while (Peek() is '*' or '/')
            {
                left = apply(text[_at++], left, Power());
            }

            return left;
        }

        private T Power()
        {
            var left = Operand();
            if (Peek() != '^')
            {
                return left;
            }

            _at++;
            return apply('^', left, Power());
        }

        private T Operand()
        {
            var next = Peek();
            if (next == '-')
            {
                _at++;
                return apply('-', number(-0.0), Operand()); // -0 - x is -x for x = 0 too
            }

            if (next == '(')
            {
                _at++;
                var inner = Sum();
                return Peek() == ')' && _at++ >= 0 ? inner : throw Bad();
            }

            var start = _at;
            while (_at < text.Length && (char.IsAsciiLetterOrDigit(text[_at]) || text[_at] is '_' or '.'))
            {
                _at++;
            }

            var word = text[start.._at];
            if (word.Length > 0 && !char.IsAsciiDigit(word[0]))
            {
                return name(word);
            }

            return double.TryParse(word, NumberStyles.Float, CultureInfo.InvariantCulture, out var value)
                ? number(value)
                : throw Bad();
        }

        private char Peek()
        {
            while (_at < text.Length && text[_at] == ' ')
            {
                _at++;
            }

            return _at < text.Length ? text[_at] : '\0';
        }

        private FormatException Bad() => new($"'{text}' is not a formula (position {_at + 1}).");
    }
}
