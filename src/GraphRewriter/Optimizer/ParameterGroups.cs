using System.Globalization;
using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// Gives the formulas of a parameter's scalars, as groups and the decay of rates by layers change them.
/// </summary>
/// <remarks>
/// A group is names in formulas that stand for others: where it says 0.1 * learning_rate, the step size
/// learning_rate / (1 - beta1 ^ step) becomes (0.1 * learning_rate) / (1 - beta1 ^ step). So schedules and overrides of
/// hyper-parameters act on groups too.
/// </remarks>
internal sealed class ParameterGroups
{
    private readonly (Regex Pattern, ParameterGroup Group)[] _groups;
    private readonly IReadOnlyDictionary<Parameter, int> _levels;
    private readonly float _layerDecay;
    private readonly IReadOnlyDictionary<string, IReadOnlyDictionary<string, string>>? _kept;

    /// <summary>Reads the groups.</summary>
    /// <param name="options">The options.</param>
    /// <param name="plan">The parameters.</param>
    /// <param name="kept">The optimizer that is kept from a file; null for none.</param>
    /// <exception cref="MacOnnxException">A pattern cannot be read (MAC0301) or matches nothing (MAC0303).</exception>
    public ParameterGroups(RewriteOptions options, Plan plan, KeptOptimizer? kept)
    {
        _groups = [.. options.Groups.Select(g => (ParameterFinder.Pattern(g.Pattern, "RewriteOptions.Groups")!, g))];
        (_levels, _layerDecay, _kept) = (plan.Levels, options.LayerDecay, kept?.Formulas);
        if (_groups.FirstOrDefault(g => !plan.Trained.Any(p => g.Pattern.IsMatch(p.Name))).Group is { } unused)
        {
            throw new MacOnnxException(
                "MAC0303",
                $"{nameof(RewriteOptions)}.{nameof(RewriteOptions.Groups)}",
                $"No trained parameter's name matches '{unused.Pattern}'.",
                "'maconnx inspect' lists the names."
            );
        }
    }

    /// <summary>Gives a formula with the names that stand for others in a parameter's groups.</summary>
    /// <remarks>Where several groups match, the last one that changes a name counts.</remarks>
    public string Formula(Parameter parameter, string formula)
    {
        var own = _kept?.GetValueOrDefault(parameter.Name) ?? new Dictionary<string, string>();
        var changes = new Dictionary<string, string>(own, StringComparer.Ordinal);
        foreach (var (_, group) in _groups.Where(g => g.Pattern.IsMatch(parameter.Name)))
        {
            foreach (var (name, change) in group.Formulas)
            {
                changes[name] = change;
            }
        }

        if (_layerDecay != 1 && _levels.GetValueOrDefault(parameter) is var level and > 0)
        {
            var rate = changes.GetValueOrDefault("learning_rate", "learning_rate");
            changes["learning_rate"] = string.Create(
                CultureInfo.InvariantCulture,
                $"({rate}) * {_layerDecay} ^ {level}"
            );
        }

        return Bindings.Formula.Substitute(formula, changes);
    }
}
