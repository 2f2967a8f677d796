using System.Text;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using Kind = MacOnnx.GraphRewriter.Import.Proto.AttributeProto.Types.AttributeType;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Reads and writes <c>AttributeProto</c>.</summary>
internal static class AttributeFormat
{
    /// <summary>Strict, so that what is not UTF-8 stays as it is.</summary>
    private static readonly UTF8Encoding Utf8 = new(false, throwOnInvalidBytes: true);

    /// <summary>Reads an attribute; one of a kind that <see cref="Attr"/> does not have is kept as it is.</summary>
    /// <param name="proto">The attribute.</param>
    /// <param name="graph">Reads a subgraph.</param>
    public static Attr FromProto(AttributeProto proto, Func<GraphProto, Graph> graph) =>
        new(proto.Name, Value(proto, graph) ?? proto) { DocString = proto.DocString };

    /// <summary>Writes an attribute that holds no graph.</summary>
    public static AttributeProto ToProto(Attr attribute)
    {
        if (attribute.Value is AttributeProto known)
        {
            return known;
        }

        var proto = new AttributeProto { Name = attribute.Name };
        if (attribute.DocString.Length > 0)
        {
            proto.DocString = attribute.DocString;
        }

        switch (attribute.Value)
        {
            case long value:
                (proto.Type, proto.I) = (Kind.Int, value);
                break;
            case float value:
                (proto.Type, proto.F) = (Kind.Float, value);
                break;
            case string value:
                (proto.Type, proto.S) = (Kind.String, ByteString.CopyFromUtf8(value));
                break;
            case Tensor value:
                (proto.Type, proto.T) = (Kind.Tensor, TensorFormat.ToProto(value, null));
                break;
            case long[] values:
                proto.Type = Kind.Ints;
                proto.Ints.AddRange(values);
                break;
            case float[] values:
                proto.Type = Kind.Floats;
                proto.Floats.AddRange(values);
                break;
            case string[] values:
                proto.Type = Kind.Strings;
                proto.Strings.AddRange(values.Select(ByteString.CopyFromUtf8));
                break;
            case Tensor[] values:
                proto.Type = Kind.Tensors;
                proto.Tensors.AddRange(values.Select(v => TensorFormat.ToProto(v, null)));
                break;
            default:
                throw new InvalidOperationException($"No attribute holds {attribute.Value.GetType()}.");
        }

        return proto;
    }

    private static object? Value(AttributeProto proto, Func<GraphProto, Graph> graph) =>
        proto.RefAttrName.Length > 0
            ? null
            : proto.Type switch
            {
                Kind.Int => proto.I,
                Kind.Float => proto.F,
                Kind.String => Text(proto.S),
                Kind.Ints => proto.Ints.ToArray(),
                Kind.Floats => proto.Floats.ToArray(),
                Kind.Strings when proto.Strings.Select(Text).ToArray() is var texts && !texts.Contains(null) => texts,
                Kind.Tensor when IsKnown(proto.T) => TensorFormat.FromProto(proto.T),
                Kind.Tensors when proto.Tensors.All(IsKnown) => proto.Tensors.Select(TensorFormat.FromProto).ToArray(),
                Kind.Graph when proto.G is not null => graph(proto.G),
                Kind.Graphs => proto.Graphs.Select(graph).ToArray(),
                _ => null,
            };

    private static bool IsKnown(TensorProto? proto) => proto is not null && ((ElementType)proto.DataType).Size() > 0;

    private static string? Text(ByteString bytes)
    {
        try
        {
            return Utf8.GetString(bytes.Span);
        }
        catch (DecoderFallbackException)
        {
            return null;
        }
    }
}
