using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>Emits <c>If</c>: a branch not taken costs about a microsecond.</summary>
internal static class Conditional
{
    /// <summary>Appends float values that one of two branches computes.</summary>
    /// <param name="b">The builder, whose origin and prefix the node takes.</param>
    /// <param name="flag">The condition, a boolean scalar.</param>
    /// <param name="names">The names of the results.</param>
    /// <param name="shapes">The shapes of the results, which are static.</param>
    /// <param name="then">Emits the results where the condition holds.</param>
    /// <param name="otherwise">Emits the results where it does not.</param>
    public static Value[] Append(
        GraphBuilder b,
        Value flag,
        IReadOnlyList<string> names,
        IReadOnlyList<Shape> shapes,
        Func<GraphBuilder, Value[]> then,
        Func<GraphBuilder, Value[]> otherwise
    )
    {
        var captured = new List<Value>();
        var branches = new[] { ("then_branch", then), ("else_branch", otherwise) }
            .Select(branch =>
            {
                var (nodes, results, outer) = b.Body(branch.Item2);
                captured.AddRange(outer);
                var proto = new GraphProto { Name = branch.Item1 };
                proto.Node.AddRange(nodes.Select(ModelWriter.ToProto));
                proto.Output.AddRange(results.Zip(shapes, (r, s) => ModelWriter.Declare(r.Name, ElementType.Float, s)));
                return Graph(branch.Item1, proto);
            })
            .ToArray();

        var node = new Node("If", "", b.Graph.FreshName($"{b.Prefix}If"), [flag], branches) { Origin = b.Origin };
        node.Captured.AddRange(captured.Distinct());
        for (var i = 0; i < names.Count; i++)
        {
            var value = b.Graph.AddValue(names[i]);
            (value.Producer, value.Type, value.Shape) = (node, ElementType.Float, shapes[i]);
            node.Outputs.Add(value);
        }

        b.Append(node);
        return [.. node.Outputs];
    }
}
