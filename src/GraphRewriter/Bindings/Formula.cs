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

    private readonly string _text;
    private int _at;

    private Formula(string text) => _text = text;

    /// <summary>Reads a formula.</summary>
    /// <param name="text">The text, at most 1,000 characters.</param>
    /// <returns>Computes the formula, given the value of each name.</returns>
    /// <exception cref="FormatException">The text is not a formula.</exception>
    public static Func<Func<string, double>, double> Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (text.Length > MaxLength)
        {
            throw new FormatException($"The formula has {text.Length} characters, more than {MaxLength}.");
        }

        var formula = new Formula(text);
        var result = formula.Sum();
        return formula.Peek() == '\0' ? result : throw formula.Bad();
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

    private Func<Func<string, double>, double> Sum()
    {
        var left = Product();
        while (Peek() is '+' or '-')
        {
            var (isSum, first, second) = (_text[_at++] == '+', left, Product());
            left = isSum ? v => first(v) + second(v) : v => first(v) - second(v);
        }

        return left;
    }

    private Func<Func<string, double>, double> Product()
    {
        var left = Power();
        while (Peek() is '*' or '/')
        {
            var (isProduct, first, second) = (_text[_at++] == '*', left, Power());
            left = isProduct ? v => first(v) * second(v) : v => first(v) / second(v);
        }

        return left;
    }

    private Func<Func<string, double>, double> Power()
    {
        var first = Operand();
        if (Peek() != '^')
        {
            return first;
        }

        _at++;
        var second = Power();
        return v => Math.Pow(first(v), second(v));
    }

    private Func<Func<string, double>, double> Operand()
    {
        var next = Peek();
        if (next == '-')
        {
            _at++;
            var negated = Operand();
            return v => -negated(v);
        }

        if (next == '(')
        {
            _at++;
            var inner = Sum();
            return Peek() == ')' && _at++ >= 0 ? inner : throw Bad();
        }

        var start = _at;
        while (_at < _text.Length && (char.IsAsciiLetterOrDigit(_text[_at]) || _text[_at] is '_' or '.'))
        {
            _at++;
        }

        var word = _text[start.._at];
        if (word.Length > 0 && !char.IsAsciiDigit(word[0]))
        {
            return v => v(word);
        }

        return double.TryParse(word, NumberStyles.Float, CultureInfo.InvariantCulture, out var number)
            ? _ => number
            : throw Bad();
    }

    private char Peek()
    {
        while (_at < _text.Length && _text[_at] == ' ')
        {
            _at++;
        }

        return _at < _text.Length ? _text[_at] : '\0';
    }

    /// <summary>The letters of a number such as 1e-8 are no name.</summary>
    [GeneratedRegex(@"(?<![\w.])[A-Za-z_]\w*", RegexOptions.CultureInvariant)]
    private static partial Regex Names();

    private FormatException Bad() => new($"'{_text}' is not a formula (position {_at + 1}).");
}
