using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Emits <c>Scan</c>.</summary>
internal static class ScanLoop
{
    /// <summary>Emits a loop over axis 0 of sequences.</summary>
    /// <param name="b">The builder.</param>
    /// <param name="states">What the first step starts from.</param>
    /// <param name="sequences">What the steps read, one slice each.</param>
    /// <param name="isReversed">Whether the steps go from the last slice to the first.</param>
    /// <param name="step">Emits a step: of states and slices the next states, and the slices of the results.</param>
    /// <returns>The last states, and the results, stacked on axis 0 in the order of the sequences.</returns>
    public static (Term[] States, Term[] Results) Scan(
        this GraphBuilder b,
        IReadOnlyList<Term> states,
        IReadOnlyList<Term> sequences,
        bool isReversed,
        Func<GraphBuilder, Term[], Term[], (Term[] States, Term[] Results)> step
    )
    {
        var direction = isReversed ? 1L : 0;
        return b.Scan(states, sequences, [.. sequences.Select(_ => direction)], i => direction, step);
    }

    /// <summary>Emits a loop over axis 0 of sequences, each from its first slice to its last (0) or back (1).</summary>
    /// <param name="b">The builder.</param>
    /// <param name="states">What the first step starts from.</param>
    /// <param name="sequences">What the steps read, one slice each.</param>
    /// <param name="inputDirections">The direction of each sequence.</param>
    /// <param name="outputDirection">Gives the direction of each result.</param>
    /// <param name="step">Emits a step: of states and slices the next states, and the slices of the results.</param>
    /// <returns>The last states, and the results, stacked on axis 0.</returns>
    public static (Term[] States, Term[] Results) Scan(
        this GraphBuilder b,
        IReadOnlyList<Term> states,
        IReadOnlyList<Term> sequences,
        long[] inputDirections,
        Func<int, long> outputDirection,
        Func<GraphBuilder, Term[], Term[], (Term[] States, Term[] Results)> step
    )
    {
        var results = 0;
        var body = b.Body(
            "step",
            inner =>
            {
                Term Input(Term like, string name, int skipped) =>
                    new(
                        inner,
                        inner.Input(
                            inner.Graph.FreshName($"{b.Prefix}{name}"),
                            like.Type,
                            like.V.Shape is { } shape ? new([.. shape.Dims.Skip(skipped)]) : null
                        )
                    );
                var (next, slices) = step(
                    inner,
                    [.. states.Select(s => Input(s, "state", 0))],
                    [.. sequences.Select(s => Input(s, "slice", 1))]
                );
                results = slices.Length;
                var taken = inner.Graph.Inputs.ToHashSet();
                return [.. next.Concat(slices).Select(r => taken.Add(r.V) ? r.V : inner.Op("Identity", [r.V]))];
            }
        );
        var node = b.Node(
            "Scan",
            "",
            [.. states.Concat(sequences).Select(t => t.V)],
            states.Count + results,
            Graph("body", body),
            Int("num_scan_inputs", sequences.Count),
            Ints("scan_input_directions", inputDirections),
            Ints("scan_output_directions", [.. Enumerable.Range(0, results).Select(outputDirection)])
        );
        foreach (var (output, result) in node.Outputs.Zip(body.Outputs))
        {
            output.Type = result.Type;
        }

        var outputs = node.Outputs.Select(o => new Term(b, o)).ToArray();
        return (outputs[..states.Count], outputs[states.Count..]);
    }
}
