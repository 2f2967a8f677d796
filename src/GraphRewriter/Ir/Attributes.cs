using Google.Protobuf;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using Kind = MacOnnx.GraphRewriter.Import.Proto.AttributeProto.Types.AttributeType;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>Makes attributes: <c>using static Attr; b.Op("Concat", [x, y], Int("axis", 0))</c>.</summary>
internal static class Attr
{
    public static AttributeProto Int(string name, long value) =>
        new()
        {
            Name = name,
            Type = Kind.Int,
            I = value,
        };

    public static AttributeProto Int(string name, bool value) => Int(name, value ? 1 : 0);

    public static AttributeProto Float(string name, double value) =>
        new()
        {
            Name = name,
            Type = Kind.Float,
            F = (float)value,
        };

    public static AttributeProto Text(string name, string value) =>
        new()
        {
            Name = name,
            Type = Kind.String,
            S = ByteString.CopyFromUtf8(value),
        };

    public static AttributeProto Ints(string name, params ReadOnlySpan<long> values)
    {
        var attribute = new AttributeProto { Name = name, Type = Kind.Ints };
        foreach (var value in values)
        {
            attribute.Ints.Add(value);
        }

        return attribute;
    }

    public static AttributeProto Tensor(string name, Tensor value) =>
        new()
        {
            Name = name,
            Type = Kind.Tensor,
            T = TensorFormat.ToProto(value, null),
        };

    public static AttributeProto Graph(string name, GraphProto value) =>
        new()
        {
            Name = name,
            Type = Kind.Graph,
            G = value,
        };
}

/// <summary>The attributes of a node, by name.</summary>
internal sealed class Attributes(IEnumerable<AttributeProto> attributes)
{
    private readonly SortedDictionary<string, AttributeProto> _byName = new(
        attributes.ToDictionary(a => a.Name, StringComparer.Ordinal),
        StringComparer.Ordinal
    );

    public IEnumerable<AttributeProto> All => _byName.Values;

    public bool Has(string name) => _byName.ContainsKey(name);

    public AttributeProto? Find(string name) => _byName.GetValueOrDefault(name);

    public long Int(string name, long fallback) => Find(name)?.I ?? fallback;

    public float Float(string name, float fallback) => Find(name)?.F ?? fallback;

    public string Text(string name, string fallback) => Find(name)?.S.ToStringUtf8() ?? fallback;

    public long[]? Ints(string name) => Find(name)?.Ints.ToArray();

    public void Set(AttributeProto attribute) => _byName[attribute.Name] = attribute;

    public void Remove(string name) => _byName.Remove(name);
}
