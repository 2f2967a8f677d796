using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Autodiff;

/// <summary>
/// The gradients of operators with subgraphs, of what they are given and of what they read from outside.
/// </summary>
internal static class SubgraphGradients
{
    private static readonly string[] Branches = ["then_branch", "else_branch"],
        Axes = ["scan_input_axes", "scan_output_axes"];

    /// <summary>Whether an operator is differentiated with its subgraphs.</summary>
    public static bool Has(OpRule? row) => row?.Gradient == ControlFlow.OfSubgraphs;

    /// <summary>Emits the gradients of the values that a node reads.</summary>
    /// <param name="b">The builder.</param>
    /// <param name="node">The node; a Scan is replaced by one that also gives its states.</param>
    /// <param name="gradients">The gradient of each output; null where the loss does not depend on it.</param>
    /// <param name="isWanted">Whether the gradient of a value is wanted.</param>
    /// <param name="obstacles">Takes the nodes inside that gradients do not pass.</param>
    public static IEnumerable<(Value Value, Value Gradient)> Of(
        GraphBuilder b,
        Node node,
        Value?[] gradients,
        Func<Value, bool> isWanted,
        List<Obstacle> obstacles
    ) =>
        node.OpType == "If"
            ? OfIf(b, node, gradients, isWanted, obstacles)
            : OfScan(b, node, gradients, isWanted, obstacles);

    /// <summary>The same condition chooses the gradient of a branch, which computes the branch again.</summary>
    private static IEnumerable<(Value Value, Value Gradient)> OfIf(
        GraphBuilder b,
        Node node,
        Value?[] gradients,
        Func<Value, bool> isWanted,
        List<Obstacle> obstacles
    )
    {
        Value[] wanted = [.. node.Captured.Where(isWanted)];
        var branches = Branches.Select(name =>
            Graph(
                name,
                b.Body(
                    name,
                    inner =>
                        [
                            .. Inside(inner, (Graph)node.Attributes.Find(name)!.Value, [], gradients, wanted, obstacles)
                                .Select(g => inner.Op("Identity", [g])),
                        ]
                )
            )
        );
        var made = b.Node("If", "", [node.Inputs[0]], wanted.Length, [.. branches]);
        return wanted.Zip(made.Outputs);
    }

    /// <summary>
    /// A Scan in the other direction takes each step again, from the states that were saved before it, and
    /// differentiates it. The gradients of states go from step to step, those of values from outside are added up.
    /// </summary>
    private static IEnumerable<(Value Value, Value Gradient)> OfScan(
        GraphBuilder b,
        Node node,
        Value?[] gradients,
        Func<Value, bool> isWanted,
        List<Obstacle> obstacles
    )
    {
        var scan = new ScanParts(node);
        var (states, sequences) = (scan.States, scan.Sequences);
        Value[] outer = [.. node.Captured.Where(isWanted)];
        var (body, saved) = Save(b, node, scan);
        int[] moving = [.. states.Index().Where(s => s.Item.Type.IsFloatingPoint()).Select(s => s.Index)];
        int[] wanted = [.. sequences.Index().Where(s => isWanted(s.Item)).Select(s => s.Index)];
        int[] given =
        [
            .. Enumerable.Range(0, scan.Results.Length).Where(i => gradients[states.Length + i] is not null),
        ];
        Term[] start =
        [
            .. moving.Select(i => gradients[i] is { } g ? new Term(b, g) : new Term(b, states[i]).Zeros()),
            .. outer.Select(o => new Term(b, o).Zeros()),
        ];
        foreach (var (term, like) in start.Zip([.. moving.Select(i => states[i]), .. outer]))
        {
            term.V.Shape = like.Shape;
        }

        (Term Term, long Direction)[] read =
        [
            .. saved.Select(s => (new Term(b, s), 1L)),
            .. sequences.Select((s, i) => (new Term(b, s), 1 - scan.InputDirections[i])),
            .. given.Select(i => (new Term(b, gradients[states.Length + i]!), 1 - scan.OutputDirections[i])),
        ];
        var (ends, slices) = b.Scan(
            start,
            [.. read.Select(r => r.Term)],
            [.. read.Select(r => r.Direction)],
            i => 1 - scan.InputDirections[wanted[i]],
            (inner, carried, at) =>
            {
                var inputs = at[..(states.Length + sequences.Length)].Select(t => t.V).ToArray();
                var seeds = new Value?[states.Length + scan.Results.Length];
                foreach (var (k, i) in moving.Index())
                {
                    seeds[i] = carried[k];
                }

                foreach (var (k, i) in given.Index())
                {
                    seeds[states.Length + i] = at[inputs.Length + k];
                }

                var found = Inside(
                        inner,
                        body,
                        inputs,
                        seeds,
                        [.. moving.Select(i => inputs[i]), .. outer, .. wanted.Select(i => inputs[states.Length + i])],
                        obstacles
                    )
                    .Select(g => new Term(inner, g))
                    .ToArray();
                for (var i = moving.Length; i < start.Length; i++)
                {
                    found[i] = carried[i] + found[i];
                }

                return (found[..start.Length], found[start.Length..]);
            }
        );
        return
        [
            .. moving.Select((i, k) => (states[i], ends[k].V)).Where(p => isWanted(p.Item1)),
            .. outer.Select((o, k) => (o, ends[moving.Length + k].V)),
            .. wanted.Select((i, k) => (sequences[i], slices[k].V)),
        ];
    }

    /// <summary>
    /// Puts a Scan in the place of another that also gives its states before each step, in the order of the steps.
    /// </summary>
    private static (Graph Body, Value[] Saved) Save(GraphBuilder b, Node node, ScanParts scan)
    {
        var body = b.Body(
            "step",
            inner =>
            {
                var inputs = scan
                    .Body.Inputs.Select(i => inner.Input(inner.Graph.FreshName(i.Name), i.Type, i.Shape))
                    .ToArray();
                var results = GraphCopy.Append(scan.Body, inner.Graph, inner.Append, Map(scan.Body.Inputs, inputs));
                return [.. results.Concat(inputs.Take(scan.States.Length)).Select(r => inner.Op("Identity", [r]))];
            }
        );
        var saved = scan
            .States.Select(s =>
            {
                var value = b.Graph.AddValue(b.Graph.FreshName($"{s.Name}/steps"));
                (value.Type, value.Shape) = (
                    s.Type,
                    s.Shape is { } shape ? new([scan.Sequences[0].KnownShape[0], .. shape.Dims]) : null
                );
                return value;
            })
            .ToArray();
        b.Graph.Replace(
            node,
            new Node(
                "Scan",
                "",
                node.Name,
                node.Inputs,
                [
                    Graph("body", body),
                    Int("num_scan_inputs", scan.Sequences.Length),
                    Ints("scan_input_directions", scan.InputDirections),
                    Ints("scan_output_directions", [.. scan.OutputDirections, .. saved.Select(_ => 0L)]),
                ],
                [.. node.Outputs, .. saved]
            )
            {
                Origin = b.Origin,
            }
        );
        return (body, saved);
    }

    /// <summary>Computes a subgraph again and differentiates it.</summary>
    /// <param name="b">The builder, of the graph in which this happens.</param>
    /// <param name="body">The subgraph.</param>
    /// <param name="inputs">What stands for its inputs.</param>
    /// <param name="gradients">The gradients of its outputs; null where the loss does not depend on one.</param>
    /// <param name="wanted">The values whose gradients are wanted.</param>
    /// <param name="obstacles">Takes the nodes inside that gradients do not pass.</param>
    /// <returns>The gradient of each: zeros where no output depends on it.</returns>
    private static IEnumerable<Value> Inside(
        GraphBuilder b,
        Graph body,
        Value[] inputs,
        Value?[] gradients,
        Value[] wanted,
        List<Obstacle> obstacles
    )
    {
        var outputs = GraphCopy.Append(body, b.Graph, b.Append, Map(body.Inputs, inputs));
        var seeds = outputs.Zip(gradients).Where(s => s.Second is not null).Select(s => (s.First, s.Second!));
        var found = Backward.Differentiate(b.Graph, [.. seeds], wanted, Backward.NothingRefused, out var more);
        obstacles.AddRange(more);
        return [.. wanted.Select(w => found.GetValueOrDefault(w) ?? new Term(b, w).Zeros().V)];
    }

    private static Dictionary<Value, Value> Map(IEnumerable<Value> from, IEnumerable<Value> to) =>
        from.Zip(to).ToDictionary(p => p.First, p => p.Second);

    /// <summary>What a Scan is given and gives.</summary>
    private sealed class ScanParts
    {
        public ScanParts(Node node)
        {
            var count = (int)node.Attributes.Int("num_scan_inputs", 1);
            Body = (Graph)node.Attributes.Find("body")!.Value;
            Value[] inputs = [.. node.Inputs.Select(v => v!)];
            (States, Sequences) = (inputs[..^count], inputs[^count..]);
            Results = [.. node.Outputs.Skip(States.Length)];
            InputDirections = node.Attributes.Ints("scan_input_directions") ?? new long[count];
            OutputDirections = node.Attributes.Ints("scan_output_directions") ?? new long[Results.Length];
            if (Axes.Any(a => node.Attributes.Ints(a)?.Any(axis => axis != 0) == true))
            {
                throw new MacOnnxException(
                    "MAC0102",
                    node.ToString(),
                    "No gradient is known where a Scan steps along another axis than the first.",
                    "Transpose what it reads and gives."
                );
            }
        }

        public Graph Body { get; }

        public Value[] States { get; }

        public Value[] Sequences { get; }

        public Value[] Results { get; }

        public long[] InputDirections { get; }

        public long[] OutputDirections { get; }
    }
}
