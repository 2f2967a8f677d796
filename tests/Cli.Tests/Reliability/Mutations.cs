using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace MacOnnx.Cli.Tests.Reliability;

/// <summary>Damages a file.</summary>
internal delegate byte[] Mutation(byte[] original, Random random);

/// <summary>Damage of files, from single bytes to fields of formats, which gets further than bytes do.</summary>
internal static class Mutations
{
    private static readonly ulong[] Numbers =
    [
        0,
        1,
        2,
        3,
        7,
        64,
        1 << 20,
        int.MaxValue,
        uint.MaxValue,
        1UL << 40,
        long.MaxValue,
        1UL << 63,
        ulong.MaxValue,
    ];

    private static readonly string[] Values =
    [
        "null",
        "true",
        "\"\"",
        "\"x\"",
        "\"__metadata__\"",
        "\"../x\"",
        "[]",
        "{}",
        "[null]",
        "0",
        "-1",
        "1.5",
        "1e300",
        "2147483648",
        "9223372036854775807",
        "18446744073709551616",
        new string('[', 60) + new string(']', 60),
    ];

    /// <summary>Changes, removes or repeats bytes, or cuts the file off.</summary>
    public static byte[] Bytes(byte[] original, Random random)
    {
        var bytes = original.ToList();
        for (var n = random.Next(1, 4); n > 0 && bytes.Count > 0; n--)
        {
            var at = Place();
            switch (random.Next(7))
            {
                case 0:
                    bytes.RemoveRange(at, bytes.Count - at);
                    break;
                case 1:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 2:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 3:
                    bytes[at] = random.Next(2) == 0 ? (byte)0 : (byte)255;
                    break;
                case 4:
                    bytes.InsertRange(at, bytes.GetRange(at, Math.Min(20, bytes.Count - at)));
                    break;
                case 5:
                    bytes.Insert(at, (byte)random.Next(256));
                    break;
                default:
                    bytes.RemoveRange(at, Math.Min(random.Next(1, 20), bytes.Count - at));
                    break;
            }
        }

        return [.. bytes];

        // The beginning of a file, where its structure is, is met as often as all the rest.
        int Place() => random.Next(random.Next(2) == 0 ? Math.Min(bytes.Count, 300) : bytes.Count);
    }

    /// <summary>Changes fields of a protobuf message of any type, and of messages inside it.</summary>
    public static byte[] Protobuf(byte[] original, Random random)
    {
        var message = WireField.Parse(original) ?? throw new InvalidDataException("This is no message.");
        for (var n = random.Next(1, 4); n > 0; n--)
        {
            var places = WireField.All(message).ToArray();
            var (list, field) = Any(places);
            var (_, other) = Any(places);
            switch (random.Next(9))
            {
                case 0:
                    list.Remove(field);
                    break;
                case 1:
                    list.Insert(random.Next(list.Count + 1), field.Clone());
                    break;
                case 2:
                    field.Number = random.Next(1, 24);
                    break;
                case 3:
                    list[list.IndexOf(field)] = other.Clone();
                    break;
                case 4 when field.Type == other.Type && field != other:
                    (field.Value, field.Content, field.Fields) = (other.Value, other.Content, other.Clone().Fields);
                    break;
                case 5 when field.Type == 2:
                    (field.Content, field.Fields) = (Bytes(field.ToContent(), random), null);
                    break;
                case 6 when field.Type == 2:
                    (field.Content, field.Fields) = (new byte[random.Next(3) * 1000], null);
                    break;
                default:
                    field.Value = Any(Numbers);
                    break;
            }
        }

        return WireField.ToBytes(message);

        T Any<T>(T[] list) => list[random.Next(list.Length)];
    }

    /// <summary>Changes values and names of a JSON object.</summary>
    public static byte[] Json(byte[] original, Random random)
    {
        JsonNode? root;
        try
        {
            root = JsonNode.Parse(original);
        }
        catch (JsonException)
        {
            return Bytes(original, random);
        }

        for (var n = random.Next(1, 3); n > 0; n--)
        {
            var places = Places(root).ToArray();
            if (places.Length == 0)
            {
                break;
            }

            var (parent, key) = places[random.Next(places.Length)];
            var value = JsonNode.Parse(Values[random.Next(Values.Length)]);
            switch (parent)
            {
                case JsonObject o when random.Next(4) == 0:
                    o.Remove((string)key);
                    break;
                case JsonObject o when random.Next(4) == 0:
                    var (name, child) = ($"{key}x", o[(string)key]?.DeepClone());
                    o[random.Next(3) == 0 ? "__metadata__" : name] = child;
                    break;
                case JsonObject o:
                    o[(string)key] = value;
                    break;
                case JsonArray a when random.Next(4) == 0:
                    a.RemoveAt((int)key);
                    break;
                case JsonArray a when random.Next(4) == 0:
                    a.Insert((int)key, a[(int)key]?.DeepClone());
                    break;
                default:
                    ((JsonArray)parent)[(int)key] = value;
                    break;
            }
        }

        return Encoding.UTF8.GetBytes(root?.ToJsonString() ?? "null");
    }

    /// <summary>Changes, removes or repeats a line of JSON.</summary>
    public static byte[] JsonLines(byte[] original, Random random)
    {
        var lines = Encoding.UTF8.GetString(original).Split('\n').ToList();
        var at = random.Next(lines.Count);
        switch (random.Next(4))
        {
            case 0:
                lines.RemoveAt(at);
                break;
            case 1:
                lines.Insert(random.Next(lines.Count), lines[at]);
                break;
            default:
                lines[at] = Encoding.UTF8.GetString(Json(Encoding.UTF8.GetBytes(lines[at]), random));
                break;
        }

        return Encoding.UTF8.GetBytes(string.Join('\n', lines));
    }

    /// <summary>Changes the header of a safetensors file, and its length with it.</summary>
    public static byte[] Safetensors(byte[] original, Random random)
    {
        var length = (int)BinaryPrimitives.ReadInt64LittleEndian(original);
        var header = Json(original[8..(8 + length)], random);
        var size = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(size, header.Length);
        return [.. size, .. header, .. original[(8 + length)..]];
    }

    /// <summary>Changes a file inside a zip file, or its name.</summary>
    public static byte[] Zip(byte[] original, Random random)
    {
        using var result = new MemoryStream();
        using var from = new ZipArchive(new MemoryStream(original));
        using (var to = new ZipArchive(result, ZipArchiveMode.Create, leaveOpen: true))
        {
            var damaged = random.Next(from.Entries.Count);
            for (var i = 0; i < from.Entries.Count; i++)
            {
                using var reader = from.Entries[i].Open();
                using var content = new MemoryStream();
                reader.CopyTo(content);
                var (name, bytes) = (from.Entries[i].FullName, content.ToArray());
                if (i == damaged)
                {
                    (name, bytes) = random.Next(5) switch
                    {
                        0 => ($"../{name}", bytes),
                        1 => (from.Entries[0].FullName, bytes),
                        _ => (name, Bytes(bytes, random)),
                    };
                }

                using var writer = to.CreateEntry(name).Open();
                writer.Write(bytes);
            }
        }

        return result.ToArray();
    }

    /// <summary>Changes words of four bytes, of which the tables of a FlatBuffers file are made.</summary>
    public static byte[] Words(byte[] original, Random random)
    {
        var bytes = original.ToArray();
        for (var n = random.Next(1, 4); n > 0; n--)
        {
            var word = bytes.AsSpan(random.Next(bytes.Length / 4) * 4, 4);
            var old = BinaryPrimitives.ReadInt32LittleEndian(word);
            BinaryPrimitives.WriteInt32LittleEndian(
                word,
                random.Next(4) switch
                {
                    0 => (int)Numbers[random.Next(Numbers.Length)],
                    1 => -old,
                    2 => old + random.Next(-8, 9),
                    _ => random.Next(-bytes.Length, bytes.Length),
                }
            );
        }

        return bytes;
    }

    /// <summary>Changes what a gzip file holds.</summary>
    public static byte[] Gzip(byte[] original, Random random)
    {
        using var content = new MemoryStream();
        using (var reader = new GZipStream(new MemoryStream(original), CompressionMode.Decompress))
        {
            reader.CopyTo(content);
        }

        return Compress(Bytes(content.ToArray(), random));
    }

    public static byte[] Compress(byte[] content)
    {
        using var result = new MemoryStream();
        using (var writer = new GZipStream(result, CompressionLevel.Fastest, leaveOpen: true))
        {
            writer.Write(content);
        }

        return result.ToArray();
    }

    private static IEnumerable<(JsonNode Parent, object Key)> Places(JsonNode? node)
    {
        var children = node switch
        {
            JsonObject o => o.Select(p => ((object)p.Key, p.Value)),
            JsonArray a => a.Select((v, i) => ((object)i, v)),
            _ => [],
        };
        foreach (var (key, child) in children)
        {
            yield return (node!, key);
            foreach (var place in Places(child))
            {
                yield return place;
            }
        }
    }
}
