using System.Text;

namespace MacOnnx.Cli.Tests.Reliability;

/// <summary>A field of a protobuf message as it lies in a file, without its schema.</summary>
internal sealed class WireField
{
    private const int MostDepth = 16;

    public required int Number { get; set; }

    /// <summary>Gets the wire type: 0 a number, 1 eight bytes, 2 bytes with their length, 5 four bytes.</summary>
    public required int Type { get; init; }

    public ulong Value { get; set; }

    /// <summary>Gets or sets the bytes of type 2, where they are no message.</summary>
    public byte[] Content { get; set; } = [];

    /// <summary>Gets or sets the fields, where the bytes of type 2 look like a message.</summary>
    public List<WireField>? Fields { get; set; }

    /// <summary>Makes a field that holds text.</summary>
    public static WireField Text(int number, string text) =>
        new()
        {
            Number = number,
            Type = 2,
            Content = Encoding.UTF8.GetBytes(text),
        };

    /// <summary>Reads a message; null where the bytes are none.</summary>
    public static List<WireField>? Parse(ReadOnlySpan<byte> bytes, int depth = 0)
    {
        var fields = new List<WireField>();
        while (bytes.Length > 0)
        {
            if (Varint(ref bytes) is not { } tag || tag >> 3 is 0 or > 1000)
            {
                return null;
            }

            var field = new WireField { Number = (int)(tag >> 3), Type = (int)(tag & 7) };
            var size = field.Type switch
            {
                1 => 8UL,
                2 => Varint(ref bytes) ?? ulong.MaxValue,
                5 => 4UL,
                0 => 0UL,
                _ => ulong.MaxValue,
            };
            if (size > (ulong)bytes.Length)
            {
                return null;
            }

            var content = bytes[..(int)size];
            bytes = bytes[(int)size..];
            switch (field.Type)
            {
                case 0 when Varint(ref bytes) is { } value:
                    field.Value = value;
                    break;
                case 0:
                    return null;
                case 2:
                    field.Fields = content.Length > 0 && depth < MostDepth ? Parse(content, depth + 1) : null;
                    field.Content = field.Fields is null ? content.ToArray() : [];
                    break;
                default:
                    for (var i = content.Length - 1; i >= 0; i--)
                    {
                        field.Value = (field.Value << 8) | content[i];
                    }

                    break;
            }

            fields.Add(field);
        }

        return fields;
    }

    /// <summary>Gives all fields of a message and of those inside it, each with the list that it is in.</summary>
    public static IEnumerable<(List<WireField> List, WireField Field)> All(List<WireField> message) =>
        message.SelectMany(f => All(f.Fields ?? []).Prepend((message, f)));

    public static byte[] ToBytes(List<WireField> message)
    {
        using var stream = new MemoryStream();
        foreach (var field in message)
        {
            Varint(((ulong)field.Number << 3) | (uint)field.Type);
            switch (field.Type)
            {
                case 0:
                    Varint(field.Value);
                    break;
                case 2:
                    var content = field.ToContent();
                    Varint((ulong)content.Length);
                    stream.Write(content);
                    break;
                default:
                    stream.Write(BitConverter.GetBytes(field.Value).AsSpan(0, field.Type == 1 ? 8 : 4));
                    break;
            }
        }

        return stream.ToArray();

        void Varint(ulong value)
        {
            for (; value >= 128; value >>= 7)
            {
                stream.WriteByte((byte)(value | 128));
            }

            stream.WriteByte((byte)value);
        }
    }

    public byte[] ToContent() => Fields is null ? Content : ToBytes(Fields);

    public WireField Clone() =>
        new()
        {
            Number = Number,
            Type = Type,
            Value = Value,
            Content = Content,
            Fields = Fields is null ? null : [.. Fields.Select(f => f.Clone())],
        };

    private static ulong? Varint(ref ReadOnlySpan<byte> bytes)
    {
        var value = 0UL;
        for (var shift = 0; shift < 64 && bytes.Length > 0; shift += 7)
        {
            var next = bytes[0];
            bytes = bytes[1..];
            value |= (ulong)(next & 127) << shift;
            if (next < 128)
            {
                return value;
            }
        }

        return null;
    }
}
