using Google.Protobuf;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using Kind = MacOnnx.GraphRewriter.Import.Proto.AttributeProto.Types.AttributeType;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>Turns a <see cref="Graph"/> into a <c>ModelProto</c>.</summary>
internal static class ModelWriter
{
    private const long IrVersion = 10;

    public static byte[] ToBytes(Graph graph) => ToProto(graph).ToByteArray();

    public static ModelProto ToProto(Graph graph) => Model(graph, graph.Nodes, ToGraphProto(graph));

    /// <summary>Makes a model of some of a graph's nodes.</summary>
    /// <param name="graph">The graph, whose operator sets the model takes.</param>
    /// <param name="nodes">The nodes, in topological order.</param>
    /// <param name="inputs">The model's inputs; dimensions below 0 are not known.</param>
    /// <param name="constants">The model's constants.</param>
    /// <param name="outputs">The model's outputs.</param>
    public static byte[] PartToBytes(
        Graph graph,
        IReadOnlyList<Node> nodes,
        IEnumerable<(string Name, ElementType Type, IReadOnlyList<long>? Dims)> inputs,
        IEnumerable<(string Name, Tensor Tensor)> constants,
        IEnumerable<string> outputs
    )
    {
        var proto = new GraphProto { Name = "part" };
        proto.Input.AddRange(
            inputs.Select(i =>
                DeclarationFormat.ToProto(i.Name, i.Type, i.Dims?.Select(d => new DeclaredDim(d < 0 ? null : d, null)))
            )
        );
        proto.Initializer.AddRange(constants.Select(c => TensorFormat.ToProto(c.Tensor, c.Name)));
        proto.Node.AddRange(nodes.Select(ToProto));
        proto.Output.AddRange(outputs.Select(o => new ValueInfoProto { Name = o }));
        return Model(graph, nodes, proto).ToByteArray();
    }

    private static ModelProto Model(Graph graph, IReadOnlyList<Node> nodes, GraphProto proto)
    {
        var model = new ModelProto
        {
            IrVersion = IrVersion,
            ProducerName = "MacOnnx",
            Graph = proto,
        };
        model.Functions.AddRange(Calls(nodes).Select(n => ToFunctionProto(n, n.Function!)));
        model.OpsetImport.AddRange(
            graph.Opsets.Select(o => new OperatorSetIdProto { Domain = o.Key, Version = o.Value })
        );
        foreach (
            var domain in nodes
                .Select(n => n.Domain)
                .Concat(model.Functions.SelectMany(f => f.OpsetImport).Select(o => o.Domain))
                .Distinct()
                .Where(d => !graph.Opsets.ContainsKey(d))
        )
        {
            model.OpsetImport.Add(new OperatorSetIdProto { Domain = domain, Version = 1 });
        }

        return model;
    }

    /// <summary>Gives the nodes that functions define, in subgraphs and functions too.</summary>
    private static IEnumerable<Node> Calls(IEnumerable<Node> nodes) =>
        nodes.SelectMany(n =>
            n.Function is { } function
                ? Calls(function.Nodes).Prepend(n)
                : n.Attributes.Graphs.SelectMany(g => Calls(g.Nodes))
        );

    private static GraphProto ToGraphProto(Graph graph)
    {
        var proto = new GraphProto { Name = graph.Name.Length > 0 ? graph.Name : "graph" };
        proto.Input.AddRange(graph.Inputs.Select(Declare));
        proto.Output.AddRange(graph.Outputs.Select(Declare));
        proto.ValueInfo.AddRange(
            (graph.Outer is null ? [] : graph.Nodes)
                .SelectMany(n => n.Outputs)
                .Where(v => v.Declared is not null && !v.OutputOf.Contains(graph))
                .Select(Declare)
        );
        proto.Initializer.AddRange(graph.Constants().Select(v => TensorFormat.ToProto(v.Constant!, v.Name)));
        proto.Node.AddRange(graph.Nodes.Select(ToProto));
        return proto;
    }

    private static FunctionProto ToFunctionProto(Node call, Graph graph)
    {
        var proto = new FunctionProto
        {
            Name = call.OpType,
            Domain = call.Domain,
            Overload = call.Name,
        };
        proto.Input.AddRange(graph.Inputs.Select(v => v.Name));
        proto.Output.AddRange(graph.Outputs.Select(v => v.Name));
        proto.Attribute.AddRange(call.Attributes.All.Select(a => a.Name));
        foreach (var value in graph.Constants())
        {
            var constant = new NodeProto { OpType = "Constant" };
            constant.Output.Add(value.Name);
            constant.Attribute.Add(ToProto(Attr.Tensor("value", value.Constant!)));
            proto.Node.Add(constant);
        }

        proto.Node.AddRange(graph.Nodes.Select(ToProto));
        proto.OpsetImport.AddRange(
            graph
                .Nodes.Select(n => n.Domain)
                .Append("")
                .Distinct()
                .Select(d => new OperatorSetIdProto { Domain = d, Version = d.Length == 0 ? graph.Opsets[""] : 1 })
        );
        return proto;
    }

    private static NodeProto ToProto(Node node)
    {
        var made = new NodeProto { OpType = node.OpType, Name = node.Name };
        if (node.Domain.Length > 0)
        {
            made.Domain = node.Domain;
        }

        if (node.Function is not null)
        {
            made.Overload = node.Name;
        }

        made.Input.AddRange(node.Inputs.Select(v => v?.Name ?? ""));
        made.Output.AddRange(node.Outputs.Select(v => v.Name));
        made.Attribute.AddRange(node.Attributes.All.Select(ToProto));
        made.MetadataProps.AddRange(DeclarationFormat.Metadata(node.Metadata));
        if ((node.Origin.Length > 0 ? node.Origin : node.DocString) is { Length: > 0 } doc)
        {
            made.DocString = doc;
        }

        return made;
    }

    /// <summary>Writes an attribute, with the graphs that it holds.</summary>
    public static AttributeProto ToProto(Attr attribute)
    {
        if (attribute.Graphs.Count == 0)
        {
            return AttributeFormat.ToProto(attribute);
        }

        var proto = new AttributeProto { Name = attribute.Name };
        if (attribute.DocString.Length > 0)
        {
            proto.DocString = attribute.DocString;
        }

        if (attribute.Value is Graph graph)
        {
            (proto.Type, proto.G) = (Kind.Graph, ToGraphProto(graph));
        }
        else
        {
            proto.Type = Kind.Graphs;
            proto.Graphs.AddRange(attribute.Graphs.Select(ToGraphProto));
        }

        return proto;
    }

    /// <summary>
    /// Declares a value: as the model declared it, or by the type and static dimensions that are known.
    /// </summary>
    private static ValueInfoProto Declare(Value value) =>
        value.Declared is { } declared
            ? DeclarationFormat.ToProto(value.Name, declared)
            : DeclarationFormat.ToProto(
                value.Name,
                value.Type,
                value.Type == ElementType.Undefined
                    ? null
                    : value.Shape?.Dims.Select(d => new DeclaredDim(d.IsStatic ? d.Size : null, null))
            );
}
