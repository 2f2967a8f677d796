using System.Globalization;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter;

/// <summary>Runs passes over a context, and checks what each requires and what each leaves.</summary>
/// <param name="context">What passes read and set.</param>
/// <param name="dumpFolder">Where to write the graph after each pass; null for nowhere.</param>
internal sealed class PassRunner(RewriteContext context, string? dumpFolder)
{
    private Facts _facts;
    private int _count;

    /// <summary>
    /// Gets or sets whether graphs are verified after each pass: in tests, and where MACONNX_DEBUG is 1.
    /// </summary>
    public static bool Verifies { get; set; } = Environment.GetEnvironmentVariable("MACONNX_DEBUG") == "1";

    public void Run(IEnumerable<Pass> passes)
    {
        foreach (var pass in passes)
        {
            if ((pass.Requires & ~_facts) is var missing and not Facts.None)
            {
                throw new InvalidOperationException($"The pass '{pass.Name}' requires {missing}.");
            }

            pass.Run(context);
            _facts |= pass.Ensures;
            if (pass.Shows(context) is { } graph)
            {
                Look(pass.Name, graph);
            }
        }
    }

    private string? FindFault(Graph graph) =>
        GraphVerifier.Find(graph, _facts.HasFlag(Facts.Shapes))
        ?? (_facts.HasFlag(Facts.Lowered) ? ShapeInference.FindFalseOutput(graph) : null);

    private void Look(string pass, Graph graph)
    {
        if (Verifies && FindFault(graph) is { } fault)
        {
            throw new InvalidOperationException($"After the pass '{pass}', {fault}.");
        }

        if (dumpFolder is not null)
        {
            var file = string.Create(CultureInfo.InvariantCulture, $"{++_count:D2}-{pass}.txt");
            AtomicFile.Write(
                Path.Combine(dumpFolder, file),
                stream =>
                {
                    using var writer = new StreamWriter(stream, leaveOpen: true) { NewLine = "\n" };
                    writer.Write(GraphText.Of(graph));
                }
            );
        }
    }
}
