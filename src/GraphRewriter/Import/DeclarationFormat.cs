using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using DimProto = MacOnnx.GraphRewriter.Import.Proto.TensorShapeProto.Types.Dimension;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Reads and writes <c>ValueInfoProto</c>, and the metadata of this and other messages.</summary>
internal static class DeclarationFormat
{
    public static Declaration FromProto(ValueInfoProto proto) =>
        new(
            (ElementType)(proto.Type?.TensorType?.ElemType ?? 0),
            proto
                .Type?.TensorType?.Shape?.Dim.Select(d => new DeclaredDim(
                    d.ValueCase == DimProto.ValueOneofCase.DimValue ? d.DimValue : null,
                    d.HasDimParam ? d.DimParam : null
                ))
                .ToArray()
        )
        {
            DocString = proto.DocString,
            Metadata = Metadata(proto.MetadataProps),
            NotTensor = proto.Type?.TensorType is null ? proto : null,
        };

    public static ValueInfoProto ToProto(string name, Declaration declaration)
    {
        if (declaration.NotTensor is ValueInfoProto known)
        {
            return known;
        }

        var proto = ToProto(name, declaration.Type, declaration.Dims);
        if (declaration.DocString.Length > 0)
        {
            proto.DocString = declaration.DocString;
        }

        proto.MetadataProps.AddRange(Metadata(declaration.Metadata));
        return proto;
    }

    /// <summary>Declares a tensor; an undefined type declares nothing but the name.</summary>
    public static ValueInfoProto ToProto(string name, ElementType type, IEnumerable<DeclaredDim>? dims)
    {
        if (type == ElementType.Undefined && dims is null)
        {
            return new ValueInfoProto { Name = name };
        }

        var tensor = new TypeProto.Types.Tensor { ElemType = (int)type };
        if (dims is not null)
        {
            tensor.Shape = new TensorShapeProto();
            tensor.Shape.Dim.AddRange(
                dims.Select(d =>
                    d.Size is { } size ? new DimProto { DimValue = size }
                    : d.Name is { } symbol ? new DimProto { DimParam = symbol }
                    : new DimProto()
                )
            );
        }

        return new ValueInfoProto
        {
            Name = name,
            Type = new TypeProto { TensorType = tensor },
        };
    }

    public static KeyValuePair<string, string>[] Metadata(IEnumerable<StringStringEntryProto> entries) =>
        [.. entries.Select(e => KeyValuePair.Create(e.Key, e.Value))];

    public static IEnumerable<StringStringEntryProto> Metadata(IEnumerable<KeyValuePair<string, string>> entries) =>
        entries.Select(e => new StringStringEntryProto { Key = e.Key, Value = e.Value });
}
