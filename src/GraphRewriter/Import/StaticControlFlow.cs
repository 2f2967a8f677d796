using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Replaces control flow that is decided when the model is rewritten: an If with a constant condition by its branch, a
/// short Loop with a constant number of trips by so many copies of its body, sequences whose lengths and positions are
/// constant by their tensors. A Loop that only counts becomes a Scan over the numbers of its trips.
/// </summary>
internal static class StaticControlFlow
{
    /// <summary>Loops are written out up to so many trips, and up to so many nodes.</summary>
    private const int MostTrips = 64,
        MostNodes = 4096;

    /// <summary>Replaces what is decided by the constants known so far, on one level.</summary>
    /// <returns>Whether anything was replaced.</returns>
    public static bool Apply(Graph graph)
    {
        var isChanged = GraphBuilder.Expand(
            graph,
            node =>
                node.Is("If") && node.Inputs[0]!.Constant is { } condition
                    ? b => Take(b, node, condition.Span<bool>()[0])
                : node.Is("Loop") && CountsOnly(node)
                    ? TripsOf(graph, node) is { } trips ? b => WriteOut(b, node, trips)
                        : ToScan(node)
                : null
        );
        return StaticSequences.Apply(graph) || isChanged;
    }

    private static void Take(GraphBuilder b, Node node, bool condition)
    {
        var branch = BodyOf(node, condition ? "then_branch" : "else_branch");
        Assign(b, node, GraphCopy.Append(branch, b.Graph, b.Append, new Dictionary<Value, Value>()));
    }

    /// <summary>Whether a Loop's condition is true whenever it is asked.</summary>
    private static bool CountsOnly(Node node)
    {
        var body = BodyOf(node, "body");
        var condition = body.Outputs[0];
        while (condition.Producer is { } producer && producer.Is("Identity"))
        {
            condition = producer.Inputs[0]!;
        }

        return node.Input(0) is not null
            && (node.Input(1) is null || IsTrue(node.Input(1)!))
            && (condition == body.Inputs[1] || IsTrue(condition));

        static bool IsTrue(Value value) =>
            (value.Constant ?? value.Producer?.Attributes.Tensor("value"))
                is { Type: ElementType.Bool, ElementCount: 1 } tensor
            && (value.Constant is not null || value.Producer!.Is("Constant"))
            && tensor.Span<bool>()[0];
    }

    /// <summary>Gives the number of trips of a Loop that is short enough to be written out.</summary>
    private static long? TripsOf(Graph graph, Node node)
    {
        var size = Size(BodyOf(node, "body"));
        return
            node.Inputs[0]!.Constant?.ToInt64() is [var trips and > 0 and <= MostTrips]
            && trips * size <= MostNodes
            && graph.Nodes.Count <= 8 * MostNodes
            ? trips
            : null;

        static int Size(Graph body) => body.Nodes.Sum(n => 1 + n.Attributes.Graphs.Sum(Size));
    }

    private static void WriteOut(GraphBuilder b, Node node, long trips)
    {
        var body = BodyOf(node, "body");
        Value[] states = [.. node.Inputs.Skip(2).OfType<Value>()];
        var stacks = node.Outputs.Skip(states.Length).Select(_ => new List<Term>()).ToArray();
        var isTrue = b.Scalar(1, ElementType.Bool);
        for (var trip = 0L; trip < trips; trip++)
        {
            Value[] inputs = [b.Int64(trip), isTrue, .. states];
            var results = GraphCopy.Append(
                body,
                b.Graph,
                b.Append,
                body.Inputs.Zip(inputs).ToDictionary(p => p.First, p => p.Second)
            );
            states = results[1..(1 + states.Length)];
            foreach (var (stack, slice) in stacks.Zip(results.Skip(1 + states.Length)))
            {
                stack.Add(new Term(b, slice).Unsqueeze(0));
            }
        }

        Assign(b, node, [.. states, .. stacks.Select(s => b.Concat(s, 0).V)]);
    }

    /// <summary>
    /// A Scan steps through a sequence, here the numbers of the trips, with tensors as states that keep their shapes.
    /// </summary>
    private static Action<GraphBuilder>? ToScan(Node node)
    {
        var body = BodyOf(node, "body");
        var count = node.Inputs.Count - 2;
        return node.Inputs.Contains(null) || !body.Inputs.Skip(2).Zip(body.Outputs.Skip(1)).All(KeepsShape)
            ? null
            : b =>
            {
                var number = b.Op("Range", [b.Int64(0), new Term(b, node.Inputs[0]!).Reshape([]), b.Int64(1)]);
                (number.Type, number.Shape) = (ElementType.Int64, null);
                var (states, results) = b.Scan(
                    [.. node.Inputs.Skip(2).Select(v => new Term(b, v!))],
                    [new(b, number)],
                    isReversed: false,
                    (inner, given, slices) =>
                    {
                        Value[] inputs = [slices[0], inner.Scalar(1, ElementType.Bool), .. given.Select(g => g.V)];
                        var made = GraphCopy.Append(
                            body,
                            inner.Graph,
                            inner.Append,
                            body.Inputs.Zip(inputs).ToDictionary(p => p.First, p => p.Second)
                        );
                        var terms = made.Skip(1).Select(m => new Term(inner, m)).ToArray();
                        return (terms[..count], terms[count..]);
                    }
                );
                Assign(b, node, [.. states.Concat(results).Select(t => t.V)]);
            };
    }

    private static bool KeepsShape((Value Before, Value After) state) =>
        state is { Before.Shape: { } before, After.Shape: { } after } && before.SameAs(after);

    private static Graph BodyOf(Node node, string attribute) => (Graph)node.Attributes.Find(attribute)!.Value;

    private static void Assign(GraphBuilder b, Node node, IReadOnlyList<Value> results)
    {
        foreach (var (output, result) in node.Outputs.Zip(results).Where(p => p.First.Name.Length > 0))
        {
            b.Assign(output, result);
        }
    }
}
