using Google.Protobuf;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>Turns a <see cref="Graph"/> into a <c>ModelProto</c>.</summary>
internal static class ModelWriter
{
    private const long IrVersion = 10;

    public static ModelProto ToProto(Graph graph)
    {
        var proto = new GraphProto { Name = graph.Name.Length > 0 ? graph.Name : "graph" };
        proto.Input.AddRange(graph.Inputs.Select(v => Declare(graph, v)));
        proto.Output.AddRange(graph.Outputs.Select(v => Declare(graph, v)));
        proto.Initializer.AddRange(graph.Constants().Select(v => TensorFormat.ToProto(v.Constant!, v.Name)));
        proto.Node.AddRange(graph.Nodes.Select(ToProto));
        var model = new ModelProto
        {
            IrVersion = IrVersion,
            ProducerName = "MacOnnx",
            Graph = proto,
        };
        model.Functions.AddRange(graph.Nodes.Select(n => n.Function).OfType<FunctionProto>());
        model.OpsetImport.AddRange(
            graph.Opsets.Select(o => new OperatorSetIdProto { Domain = o.Key, Version = o.Value })
        );
        foreach (
            var domain in graph
                .Nodes.Select(n => n.Domain)
                .Concat(model.Functions.SelectMany(f => f.OpsetImport).Select(o => o.Domain))
                .Distinct()
                .Where(d => !graph.Opsets.ContainsKey(d))
        )
        {
            model.OpsetImport.Add(new OperatorSetIdProto { Domain = domain, Version = 1 });
        }

        return model;
    }

    public static NodeProto ToProto(Node node)
    {
        var made = new NodeProto { OpType = node.OpType, Name = node.Name };
        if (node.Domain.Length > 0)
        {
            made.Domain = node.Domain;
        }

        if (node.Function is { } function)
        {
            made.Overload = function.Overload;
        }

        made.Input.AddRange(node.Inputs.Select(v => v?.Name ?? ""));
        made.Output.AddRange(node.Outputs.Select(v => v.Name));
        made.Attribute.AddRange(node.Attributes.All);
        made.MetadataProps.AddRange(node.Metadata);
        if ((node.Origin.Length > 0 ? node.Origin : node.DocString) is { Length: > 0 } doc)
        {
            made.DocString = doc;
        }

        return made;
    }

    public static byte[] ToBytes(Graph graph) => ToProto(graph).ToByteArray();

    /// <summary>Declares a tensor of a type and, where known, shape; only static dimensions are named.</summary>
    public static ValueInfoProto Declare(string name, ElementType type, Shape? shape)
    {
        var tensor = new TypeProto.Types.Tensor { ElemType = (int)type };
        if (shape is not null)
        {
            tensor.Shape = new TensorShapeProto();
            tensor.Shape.Dim.AddRange(
                shape.Dims.Select(d =>
                    d.IsStatic
                        ? new TensorShapeProto.Types.Dimension { DimValue = d.Size }
                        : new TensorShapeProto.Types.Dimension()
                )
            );
        }

        return new ValueInfoProto
        {
            Name = name,
            Type = new TypeProto { TensorType = tensor },
        };
    }

    /// <summary>
    /// Declares an input or output: as the model declared it, or by the type and static dimensions that are known.
    /// </summary>
    private static ValueInfoProto Declare(Graph graph, Value value) =>
        graph.Declarations.TryGetValue(value.Name, out var declared) ? declared
        : value.Type == ElementType.Undefined ? new ValueInfoProto { Name = value.Name }
        : Declare(value.Name, value.Type, value.Shape);
}
