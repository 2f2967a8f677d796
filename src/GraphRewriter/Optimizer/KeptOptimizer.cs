namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>An optimizer that was read from a file, to be kept.</summary>
/// <param name="Rule">Its update.</param>
/// <param name="Apply">Puts its numbers in the place of others.</param>
/// <param name="Formulas">For parameters that have numbers of their own, the formulas of these.</param>
/// <param name="Description">What it is, for reports.</param>
internal sealed record KeptOptimizer(
    UpdateRule Rule,
    Func<Hyperparameters, Hyperparameters> Apply,
    IReadOnlyDictionary<string, IReadOnlyDictionary<string, string>> Formulas,
    string Description
);
