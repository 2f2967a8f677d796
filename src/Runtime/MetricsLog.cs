using System.Buffers;
using System.Text.Json;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.Runtime;

/// <summary>
/// A file of JSON objects, one a line, that grows while training; nothing is buffered, so that a killed run loses no
/// line.
/// </summary>
internal sealed class MetricsLog : IDisposable
{
    private readonly string _path;
    private readonly FileStream _stream;
    private readonly ArrayBufferWriter<byte> _buffer = new();
    private readonly Utf8JsonWriter _json;

    /// <summary>Opens the file for lines to follow the kept ones.</summary>
    /// <param name="path">The file.</param>
    /// <param name="keep">Which of the lines that are there stay.</param>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public MetricsLog(string path, Func<JsonElement, bool> keep)
    {
        var kept = Lines(path).Where(l => keep(l.Object)).Select(l => l.Text).ToArray();
        AtomicFile.Write(
            path,
            stream =>
            {
                using var writer = new StreamWriter(stream, leaveOpen: true) { NewLine = "\n" };
                Array.ForEach(kept, writer.WriteLine);
            }
        );
        _path = path;
        _json = new Utf8JsonWriter(_buffer);
        try
        {
            _stream = new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.Read, bufferSize: 0);
        }
        catch (Exception e) when (AtomicFile.Fault(path, e) is { } fault)
        {
            throw fault;
        }
    }

    /// <summary>
    /// Reads the complete lines of a file, not what is cut off at its end; none where it is not there.
    /// </summary>
    /// <exception cref="MacOnnxException">The file cannot be read (MAC0402).</exception>
    public static IReadOnlyList<(string Text, JsonElement Object)> Lines(string path) =>
        new FileInfo(path) is { Exists: true, Length: > 0 }
            ? InputFile.Read(
                path,
                "file of JSON lines",
                stream =>
                {
                    using var reader = new StreamReader(stream);
                    var lines = new List<(string, JsonElement)>();
                    while (reader.ReadLine() is { } line)
                    {
                        if (Parse(line) is { ValueKind: JsonValueKind.Object } json)
                        {
                            lines.Add((line, json));
                        }
                    }

                    return lines;
                }
            )
            : [];

    /// <summary>Adds a line.</summary>
    /// <param name="properties">Writes the properties of its object.</param>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public void Add(Action<Utf8JsonWriter> properties)
    {
        _buffer.ResetWrittenCount();
        _json.Reset();
        _json.WriteStartObject();
        properties(_json);
        _json.WriteEndObject();
        _json.Flush();
        _buffer.Write("\n"u8);
        try
        {
            _stream.Write(_buffer.WrittenSpan);
        }
        catch (Exception e) when (AtomicFile.Fault(_path, e) is { } fault)
        {
            throw fault;
        }
    }

    /// <summary>Writes a number, or null where it is not finite, which JSON has no number for.</summary>
    public static void Number(Utf8JsonWriter json, string name, double value)
    {
        if (!double.IsFinite(value))
        {
            json.WriteNull(name);
        }
        else if ((float)value == value)
        {
            json.WriteNumber(name, (float)value);
        }
        else
        {
            json.WriteNumber(name, value);
        }
    }

    private static JsonElement? Parse(string line)
    {
        try
        {
            using var document = JsonDocument.Parse(line);
            return document.RootElement.Clone();
        }
        catch (JsonException)
        {
            return null;
        }
    }

    public void Dispose()
    {
        _json.Dispose();
        _stream.Dispose();
    }
}
