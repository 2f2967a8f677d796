namespace MacOnnx.GraphRewriter.Diagnostics;

/// <summary>
/// Something the user can fix: a model, a file or an option. The message is one line that says where, what and what to
/// do.
/// </summary>
public sealed class MacOnnxException : Exception
{
    /// <summary>Initializes a new instance of the <see cref="MacOnnxException"/> class.</summary>
    /// <param name="diagnostic">What is wrong.</param>
    /// <param name="innerException">The cause, if another exception.</param>
    public MacOnnxException(Diagnostic diagnostic, Exception? innerException = null)
        : base((diagnostic ?? throw new ArgumentNullException(nameof(diagnostic))).ToString(), innerException) =>
        Diagnostic = diagnostic;

    /// <summary>Initializes a new instance of the <see cref="MacOnnxException"/> class.</summary>
    /// <param name="id">A stable id.</param>
    /// <param name="where">The file, node, value or option.</param>
    /// <param name="what">What is wrong, one sentence.</param>
    /// <param name="hint">What to do, one sentence.</param>
    /// <param name="innerException">The cause, if another exception.</param>
    public MacOnnxException(string id, string where, string what, string hint, Exception? innerException = null)
        : this(new Diagnostic(id, where, what, hint), innerException) { }

    /// <summary>Gets what is wrong.</summary>
    public Diagnostic Diagnostic { get; }
}
