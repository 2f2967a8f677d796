namespace MacOnnx.GraphRewriter.Diagnostics;

/// <summary>
/// A use of an operator that has no gradient although the operator has one. Never reaches users: it becomes part of a
/// message about all obstacles of a model.
/// </summary>
/// <param name="id">The id of the message where it is the only obstacle.</param>
/// <param name="where">The node.</param>
/// <param name="what">Where no gradient is known, as the end of a sentence.</param>
/// <param name="hint">What to do, one sentence.</param>
internal sealed class UnsupportedUseException(string id, string where, string what, string hint) : Exception(what)
{
    public string Id { get; } = id;

    public string Where { get; } = where;

    public string What { get; } = what;

    public string Hint { get; } = hint;

    /// <summary>Gets what is wrong and what to do, as part of a sentence.</summary>
    public string Reason => $"{What}: {char.ToLowerInvariant(Hint[0])}{Hint[1..].TrimEnd('.')}";
}
