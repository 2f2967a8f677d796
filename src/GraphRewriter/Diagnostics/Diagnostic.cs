namespace MacOnnx.GraphRewriter.Diagnostics;

/// <summary>One finding: a stable id, where, what, and what to do about it.</summary>
/// <param name="Id">A stable id, such as <c>MAC0101</c>, never reused; <c>docs/diagnostics.md</c> lists them.</param>
/// <param name="Where">The file, node, value or option.</param>
/// <param name="What">What is wrong, one sentence.</param>
/// <param name="Hint">What the user can do, one sentence.</param>
public sealed record Diagnostic(string Id, string Where, string What, string Hint)
{
    /// <summary>
    /// Gives the finding as one line; control characters, which names in a damaged file may have, are left out.
    /// </summary>
    public override string ToString() =>
        string.Concat($"{Where}: {What} {Hint} [{Id}]".Select(c => char.IsControl(c) ? ' ' : c));
}
