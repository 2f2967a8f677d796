using System.Buffers;
using System.Buffers.Binary;
using System.Text.Json;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>What a safetensors file holds.</summary>
/// <param name="Metadata">The texts of <c>__metadata__</c>; empty without one.</param>
/// <param name="Tensors">The tensors by name, in the header's order.</param>
public sealed record SafetensorsFile(
    IReadOnlyDictionary<string, string> Metadata,
    IReadOnlyDictionary<string, Tensor> Tensors
);

/// <summary>
/// Reads and writes safetensors files: 8 bytes header length, a JSON header, then the tensors' bytes without gaps.
/// </summary>
/// <remarks>A file may have any size; one tensor has up to 2 GB.</remarks>
public static class Safetensors
{
    private const int MaxHeader = 100_000_000;

    /// <summary>The only name that no tensor can have.</summary>
    internal const string MetadataKey = "__metadata__";

    private static readonly (string Name, ElementType Type)[] Types =
    [
        ("BOOL", ElementType.Bool),
        ("U8", ElementType.UInt8),
        ("I8", ElementType.Int8),
        ("U16", ElementType.UInt16),
        ("I16", ElementType.Int16),
        ("F16", ElementType.Float16),
        ("BF16", ElementType.BFloat16),
        ("U32", ElementType.UInt32),
        ("I32", ElementType.Int32),
        ("F32", ElementType.Float),
        ("U64", ElementType.UInt64),
        ("I64", ElementType.Int64),
        ("F64", ElementType.Double),
    ];

    /// <summary>Writes a file, complete or not at all; the same tensors and texts give the same bytes.</summary>
    /// <remarks>The header keeps the given order. The data start at a multiple of 8 bytes and are laid out by falling
    /// element size (given order within
    /// one size), so that every tensor is aligned to its element size, as readers that map the file need.</remarks>
    /// <param name="path">The file.</param>
    /// <param name="tensors">The tensors: bool, integers, float16, bfloat16, float and double.</param>
    /// <param name="metadata">Texts to keep with them, written in ordinal order of their keys.</param>
    /// <exception cref="ArgumentException">A name appears twice or is reserved, a type has no place in the format, or a
    /// tensor's data are elsewhere.</exception>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public static void Write(
        string path,
        IEnumerable<KeyValuePair<string, Tensor>> tensors,
        IReadOnlyDictionary<string, string>? metadata = null
    ) => AtomicFile.Write(path, stream => Write(stream, tensors, metadata));

    /// <summary>Writes the content of a file.</summary>
    /// <param name="stream">The stream.</param>
    /// <param name="tensors">The tensors.</param>
    /// <param name="metadata">Texts to keep with them.</param>
    internal static void Write(
        Stream stream,
        IEnumerable<KeyValuePair<string, Tensor>> tensors,
        IReadOnlyDictionary<string, string>? metadata = null
    )
    {
        var list = tensors.ToList();
        var names = new HashSet<string>(StringComparer.Ordinal) { MetadataKey };
        foreach (var (name, tensor) in list)
        {
            if (
                !names.Add(name)
                || Array.FindIndex(Types, t => t.Type == tensor.Type) < 0
                || tensor.Data.Length != tensor.ElementCount * tensor.Type.Size()
            )
            {
                throw new ArgumentException($"'{name}' ({tensor}) appears twice or cannot be stored.", nameof(tensors));
            }
        }

        var order = Enumerable.Range(0, list.Count).OrderByDescending(i => list[i].Value.Type.Size()).ToArray();
        var offsets = new long[list.Count];
        var end = 0L;
        foreach (var i in order)
        {
            offsets[i] = end;
            end += list[i].Value.Data.Length;
        }

        var header = Header(list, offsets, metadata);
        Span<byte> length = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
        stream.Write(length);
        stream.Write(header);
        foreach (var i in order)
        {
            list[i].Value.WriteTo(stream);
        }
    }

    /// <summary>Reads a file. The elements of large tensors stay in it until they are asked for.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="MacOnnxException">The file cannot be read (MAC0402) or is not a valid safetensors file
    /// (MAC0403).</exception>
    public static SafetensorsFile Read(string path) => InputFile.Read(path, "safetensors file", Read);

    private static byte[] Header(
        List<KeyValuePair<string, Tensor>> tensors,
        long[] offsets,
        IReadOnlyDictionary<string, string>? metadata
    )
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer))
        {
            json.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                json.WriteStartObject(MetadataKey);
                foreach (var (key, value) in metadata.OrderBy(m => m.Key, StringComparer.Ordinal))
                {
                    json.WriteString(key, value);
                }

                json.WriteEndObject();
            }

            for (var i = 0; i < tensors.Count; i++)
            {
                var (name, tensor) = tensors[i];
                json.WriteStartObject(name);
                json.WriteString("dtype", Array.Find(Types, t => t.Type == tensor.Type).Name);
                WriteNumbers(json, "shape", tensor.Dims.AsSpan());
                WriteNumbers(json, "data_offsets", [offsets[i], offsets[i] + tensor.Data.Length]);
                json.WriteEndObject();
            }

            json.WriteEndObject();
        }

        buffer.Write("       "u8[..((8 - (buffer.WrittenCount % 8)) % 8)]);
        return buffer.WrittenCount <= MaxHeader
            ? buffer.WrittenSpan.ToArray()
            : throw new ArgumentException(
                $"The names and texts take {buffer.WrittenCount} bytes; the format allows {MaxHeader}.",
                nameof(tensors)
            );
    }

    private static void WriteNumbers(Utf8JsonWriter json, string name, ReadOnlySpan<long> numbers)
    {
        json.WriteStartArray(name);
        foreach (var number in numbers)
        {
            json.WriteNumberValue(number);
        }

        json.WriteEndArray();
    }

    private static SafetensorsFile Read(FileStream stream)
    {
        Span<byte> length = stackalloc byte[8];
        stream.ReadExactly(length);
        var headerLength = BinaryPrimitives.ReadUInt64LittleEndian(length);
        if (headerLength > MaxHeader || (long)headerLength > stream.Length - 8)
        {
            throw new InvalidDataException($"its header cannot have {headerLength} bytes");
        }

        var header = new byte[headerLength];
        stream.ReadExactly(header);
        var start = stream.Position;

        // Windows does not replace a file that is open, which checkpoints and packages are: there all is read at once.
        var file = OperatingSystem.IsWindows() ? null : new OpenFile(stream.Name);
        if (file is not null && file.Length != stream.Length)
        {
            throw new IOException("it was changed while it was read");
        }

        var (metadata, entries) = Parse(header);

        // In the order of the data: each tensor begins where the one before ended, and the last ends with the file.
        var tensors = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        var end = 0L;
        foreach (var (name, entry) in entries.OrderBy(e => e.Value.Begin).ThenBy(e => e.Value.End))
        {
            if (entry.Begin != end || entry.End < entry.Begin || entry.End > stream.Length - start)
            {
                throw new InvalidDataException($"the data of '{name}' are outside the file, overlap or leave a gap");
            }

            var size = InputFile.CheckedSize(entry.Dims, entry.Type.Size(), entry.End - entry.Begin);
            end =
                entry.Begin + size == entry.End
                    ? entry.End
                    : throw new InvalidDataException(
                        $"'{name}' has {entry.End - entry.Begin} bytes, but its shape needs {size}"
                    );
            var data = file is null
                ? InputFile.ReadElements(stream, entry.Dims, entry.Type.Size(), size)
                : FileMemory.Of(file, start + entry.Begin, size);
            tensors.Add(name, new Tensor(entry.Type, [.. entry.Dims], data));
        }

        if (end != stream.Length - start)
        {
            throw new InvalidDataException($"{stream.Length - start - end} bytes at its end belong to no tensor");
        }

        var inOrder = new OrderedDictionary<string, Tensor>(StringComparer.Ordinal);
        foreach (var name in entries.Keys)
        {
            inOrder.Add(name, tensors[name]);
        }

        return new SafetensorsFile(metadata, inOrder);
    }

    private static (OrderedDictionary<string, string> Metadata, OrderedDictionary<string, Entry> Entries) Parse(
        byte[] header
    )
    {
        var metadata = new OrderedDictionary<string, string>(StringComparer.Ordinal);
        var entries = new OrderedDictionary<string, Entry>(StringComparer.Ordinal);
        try
        {
            var json = new Utf8JsonReader(header, new JsonReaderOptions { MaxDepth = 4 });
            Expect(ref json, JsonTokenType.StartObject);
            while (NextProperty(ref json, out var name))
            {
                if (name == MetadataKey)
                {
                    Expect(ref json, JsonTokenType.StartObject);
                    while (NextProperty(ref json, out var key))
                    {
                        Expect(ref json, JsonTokenType.String);
                        Add(metadata, key, json.GetString()!);
                    }
                }
                else
                {
                    Add(entries, name, ReadEntry(ref json, name));
                }
            }

            if (json.Read())
            {
                throw new InvalidDataException("its header has text after the JSON object");
            }
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            // InvalidOperationException: a string of the header is not valid UTF-8 or UTF-16.
            throw new InvalidDataException("its header is not the JSON that the format asks for", e);
        }

        return (metadata, entries);
    }

    private static Entry ReadEntry(ref Utf8JsonReader json, string name)
    {
        string? type = null;
        long[]? shape = null,
            offsets = null;
        Expect(ref json, JsonTokenType.StartObject);
        while (NextProperty(ref json, out var key))
        {
            switch (key)
            {
                case "dtype" when type is null:
                    Expect(ref json, JsonTokenType.String);
                    type = json.GetString();
                    break;
                case "shape" when shape is null:
                    shape = ReadNumbers(ref json, name);
                    break;
                case "data_offsets" when offsets is null:
                    offsets = ReadNumbers(ref json, name);
                    break;
                default:
                    throw new InvalidDataException($"'{name}' has the unexpected entry '{key}'");
            }
        }

        if (type is null || shape is null || offsets is not [var begin, var end])
        {
            throw new InvalidDataException($"'{name}' needs dtype, shape and two data_offsets");
        }

        var found = Array.FindIndex(Types, t => t.Name == type);
        return found < 0
            ? throw new InvalidDataException($"'{name}' has the unknown dtype '{type}'")
            : new Entry(Types[found].Type, shape, begin, end);
    }

    private static long[] ReadNumbers(ref Utf8JsonReader json, string name)
    {
        var numbers = new List<long>();
        Expect(ref json, JsonTokenType.StartArray);
        while (json.Read() && json.TokenType != JsonTokenType.EndArray)
        {
            if (
                json.TokenType != JsonTokenType.Number
                || !json.TryGetInt64(out var number)
                || number < 0
                || numbers.Count > InputFile.MaxRank
            )
            {
                throw new InvalidDataException($"a shape or offset of '{name}' is not a list of counts");
            }

            numbers.Add(number);
        }

        return [.. numbers];
    }

    private static bool NextProperty(ref Utf8JsonReader json, out string name)
    {
        var found = json.Read() && json.TokenType == JsonTokenType.PropertyName;
        name = found ? json.GetString()! : string.Empty;
        return found;
    }

    private static void Expect(ref Utf8JsonReader json, JsonTokenType type)
    {
        if (!json.Read() || json.TokenType != type)
        {
            throw new InvalidDataException("its header is not the JSON that the format asks for");
        }
    }

    private static void Add<T>(OrderedDictionary<string, T> map, string key, T value)
    {
        if (!map.TryAdd(key, value))
        {
            throw new InvalidDataException($"its header names '{key}' twice");
        }
    }

    private readonly record struct Entry(ElementType Type, long[] Dims, long Begin, long End);
}
