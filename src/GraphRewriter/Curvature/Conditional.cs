using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>Emits <c>If</c>: a branch not taken costs about a microsecond.</summary>
internal static class Conditional
{
    /// <summary>Appends a float value that the nodes compute where a flag is true, and zeros elsewhere.</summary>
    public static Value Append(Graph graph, Value flag, List<Node> nodes, Term result, ReadOnlySpan<long> dims, string name, string origin)
    {
        var info = new ValueInfoProto
        {
            Name = result.V.Name,
            Type = new TypeProto { TensorType = new TypeProto.Types.Tensor { ElemType = (int)ElementType.Float, Shape = new TensorShapeProto() } },
        };
        info.Type.TensorType.Shape.Dim.AddRange(dims.ToArray().Select(d => new TensorShapeProto.Types.Dimension { DimValue = d }));
        var then = new GraphProto { Name = "update" };
        then.Node.AddRange(nodes.Select(ModelWriter.ToProto));
        then.Output.Add(info);

        var zeros = new NodeProto { OpType = "Constant" };
        zeros.Output.Add(graph.FreshName($"{name}/zeros"));
        zeros.Attribute.Add(Tensor("value", new Tensor(ElementType.Float, [.. dims], new byte[checked((int)(Ir.Tensor.CountOf(dims) * sizeof(float)))])));
        var otherwise = new GraphProto { Name = "keep" };
        otherwise.Node.Add(zeros);
        var same = info.Clone();
        same.Name = zeros.Output[0];
        otherwise.Output.Add(same);

        var node = new Node("If", "", graph.FreshName(name), [flag], [Graph("then_branch", then), Graph("else_branch", otherwise)]) { Origin = origin };
        var inside = nodes.SelectMany(n => n.Outputs).ToHashSet();
        node.Captured.AddRange(nodes.SelectMany(n => n.Reads).Where(v => !inside.Contains(v)).Distinct());
        var value = graph.AddValue(name);
        (value.Producer, value.Type, value.Shape) = (node, ElementType.Float, Shape.Of(dims));
        node.Outputs.Add(value);
        graph.Nodes.Add(node);
        return value;
    }
}
