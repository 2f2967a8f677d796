using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Replaces sequences whose lengths and positions are constant by the tensors that are in them.</summary>
internal static class StaticSequences
{
    /// <summary>Sequences are written out up to this length.</summary>
    private const int Most = 4096;

    /// <summary>Replaces what reads known sequences; what makes them is left to be dropped.</summary>
    /// <returns>Whether anything was replaced.</returns>
    public static bool Apply(Graph graph)
    {
        var known = new Dictionary<Value, Value[]>();
        return GraphBuilder.Expand(
            graph,
            node =>
            {
                if (node.Domain.Length > 0)
                {
                    return null;
                }

                Value[]? made = node.OpType switch
                {
                    "SequenceEmpty" => [],
                    "SequenceConstruct" => [.. node.Inputs.OfType<Value>()],
                    "Identity" => Of(node),
                    "SequenceInsert" => Insert(node),
                    "SequenceErase" => Erase(node),
                    _ => null,
                };
                if (made is { Length: <= Most })
                {
                    known[node.Outputs[0]] = made;
                    return null;
                }

                return node.OpType switch
                {
                    "SequenceAt" when Of(node) is { } items && Position(node, 1, items.Length) is { } at => b =>
                        b.Assign(node.Outputs[0], items[at]),
                    "SequenceLength" when Of(node) is { } items => b =>
                        b.Assign(node.Outputs[0], b.Int64(items.Length)),
                    "ConcatFromSequence" when Of(node) is { Length: > 0 } items => b => Concat(b, node, items),
                    "SplitToSequence" when Sizes(node) is { Length: > 0 and <= Most } sizes => b =>
                        Split(b, node, sizes),
                    _ => null,
                };
            }
        );

        Value[]? Of(Node node) => node.Inputs[0] is { } sequence ? known.GetValueOrDefault(sequence) : null;

        Value[]? Insert(Node node) =>
            Of(node) is { } items
            && (node.Input(2) is null ? items.Length : Position(node, 2, items.Length + 1)) is { } at
                ? [.. items[..at], node.Inputs[1]!, .. items[at..]]
                : null;

        Value[]? Erase(Node node) =>
            Of(node) is { } items
            && (node.Input(1) is null ? items.Length - 1 : Position(node, 1, items.Length)) is { } at and >= 0
                ? [.. items[..at], .. items[(at + 1)..]]
                : null;
    }

    /// <summary>Gives a position that is an input, counted from the front; null where it is not known.</summary>
    private static int? Position(Node node, int input, int length) =>
        node.Input(input)?.Constant?.ToInt64() is [var at] && at >= -length && at < length
            ? (int)(at < 0 ? at + length : at)
            : null;

    private static void Concat(GraphBuilder b, Node node, Value[] items)
    {
        var axis = node.Attributes.Int("axis", 0);
        var isNew = node.Attributes.Int("new_axis", 0) == 1;
        Term[] parts = [.. items.Select(v => isNew ? new Term(b, v).Unsqueeze(axis) : new Term(b, v))];
        b.Assign(node.Outputs[0], b.Concat(parts, axis));
    }

    /// <summary>Gives the sizes of the parts of a SplitToSequence; null where they are not known.</summary>
    private static long[]? Sizes(Node node)
    {
        if (node.Inputs[0]!.Shape is not { Rank: > 0 } shape)
        {
            return null;
        }

        var size = shape[shape.Axis(node.Attributes.Int("axis", 0))];
        return (node.Input(1), size.IsStatic) switch
        {
            (null, true) when size.Size <= Most => [.. Enumerable.Repeat(1L, (int)size.Size)],
            ({ Constant: { Dims.Length: 1 } sizes }, _) => sizes.ToInt64(),
            ({ Constant: { } one }, true) when one.ToInt64()[0] > 0 && size.Size / one.ToInt64()[0] < Most =>
            [
                .. Enumerable
                    .Range(0, (int)((size.Size + one.ToInt64()[0] - 1) / one.ToInt64()[0]))
                    .Select(i => Math.Min(one.ToInt64()[0], size.Size - (i * one.ToInt64()[0]))),
            ],
            _ => null,
        };
    }

    private static void Split(GraphBuilder b, Node node, long[] sizes)
    {
        var axis = node.Attributes.Int("axis", 0);
        var parts = b.Node("Split", "", [node.Inputs[0], b.Int64s(sizes)], sizes.Length, Int("axis", axis)).Outputs;
        var squeezes = node.Input(1) is null && node.Attributes.Int("keepdims", 1) == 0;
        var made = new Node(
            "SequenceConstruct",
            "",
            node.Name,
            [.. parts.Select(p => squeezes ? new Term(b, p).Squeeze(axis).V : p)],
            [],
            [node.Outputs[0]]
        );
        b.Append(made);
    }
}
