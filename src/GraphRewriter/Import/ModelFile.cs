using System.Buffers;
using System.Diagnostics.CodeAnalysis;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using Location = MacOnnx.GraphRewriter.Import.Proto.TensorProto.Types.DataLocation;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Reads an ONNX file without its weights: the raw bytes of initializers and of external data stay in their files
/// until somebody asks for them (<see cref="FileMemory"/>).
/// </summary>
/// <remarks>
/// The protobuf reader copies every field, so the fields around the raw bytes of initializers are walked here, and it
/// gets the rest. Splitting a message at its fields is allowed by protobuf's wire format: parts that are read one after
/// the other are one message.
/// </remarks>
[SuppressMessage("Design", "CA1001", Justification = "The file is read through tensors, which outlive this object.")]
internal sealed class ModelFile
{
    /// <summary>The most files with external data that stay open; tensors in others are read at once.</summary>
    private const int MostOpenFiles = 64;

    private const int LengthDelimited = 2;

    private readonly OpenFile _file;
    private readonly string _folder;
    private readonly Dictionary<string, OpenFile> _external = new(StringComparer.Ordinal);
    private readonly byte[] _window = new byte[1 << 16];
    private long _windowStart;
    private int _windowLength;

    private ModelFile(string path)
    {
        _file = new OpenFile(path);
        _folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
    }

    /// <summary>Reads a file.</summary>
    /// <param name="path">The ONNX file.</param>
    /// <exception cref="InvalidDataException">It is not what protobuf writes, or is cut off.</exception>
    /// <exception cref="InvalidProtocolBufferException">The same.</exception>
    /// <exception cref="IOException">It cannot be opened.</exception>
    /// <exception cref="MacOnnxException">It or its external data cannot be read.</exception>
    public static ModelProto Read(string path)
    {
        var file = new ModelFile(path);
        Span<byte> start = stackalloc byte[(int)Math.Min(8, file._file.Length)];
        file._file.Read(0, start);
        ModelReader.RefuseOrtFormat(start, path);
        var model = file.ReadModel();
        foreach (var tensor in Tensors(model).Where(t => t.DataLocation == Location.External))
        {
            file.TakeExternal(tensor);
        }

        return model;
    }

    private ModelProto ReadModel()
    {
        var model = new ModelProto();
        var rest = new ArrayBufferWriter<byte>();
        foreach (var field in Fields(0, _file.Length))
        {
            if (field is { Number: ModelProto.GraphFieldNumber, WireType: LengthDelimited })
            {
                ReadGraph(field, model.Graph ??= new GraphProto());
            }
            else
            {
                Take(field, rest);
            }
        }

        model.MergeFrom(rest.WrittenSpan);
        return model;
    }

    private void ReadGraph(Field message, GraphProto graph)
    {
        var rest = new ArrayBufferWriter<byte>();
        foreach (var field in Fields(message.Content, message.End))
        {
            if (field is { Number: GraphProto.InitializerFieldNumber, WireType: LengthDelimited })
            {
                graph.Initializer.Add(ReadTensor(field));
            }
            else
            {
                Take(field, rest);
            }
        }

        graph.MergeFrom(rest.WrittenSpan);
    }

    private TensorProto ReadTensor(Field message)
    {
        var tensor = new TensorProto();
        var rest = new ArrayBufferWriter<byte>();
        foreach (var field in Fields(message.Content, message.End))
        {
            if (field is { Number: TensorProto.RawDataFieldNumber, WireType: LengthDelimited })
            {
                var length = (int)(field.End - field.Content);
                tensor.RawData = UnsafeByteOperations.UnsafeWrap(FileMemory.Of(_file, field.Content, length));
            }
            else
            {
                Take(field, rest);
            }
        }

        tensor.MergeFrom(rest.WrittenSpan);
        return tensor;
    }

    /// <summary>
    /// Moves the place of external data into the tensor; leaves what cannot be a tensor here as it is.
    /// </summary>
    private void TakeExternal(TensorProto tensor)
    {
        if (((ElementType)tensor.DataType).Size() == 0)
        {
            return;
        }

        var data = ExternalData.Of(tensor, _folder);
        if (_external.TryGetValue(data.Path, out var file))
        {
            tensor.RawData = data.In(file);
        }
        else if (_external.Count < MostOpenFiles)
        {
            _external.Add(data.Path, file = data.Open());
            tensor.RawData = data.In(file);
        }
        else
        {
            using var once = data.Open();
            tensor.RawData = ByteString.CopyFrom(data.In(once).Span);
        }

        tensor.ExternalData.Clear();
        tensor.ClearDataLocation();
    }

    /// <summary>Gives the tensors of a model, in subgraphs and functions too.</summary>
    private static IEnumerable<TensorProto> Tensors(ModelProto model)
    {
        var graphs = new Stack<GraphProto>([model.Graph ?? new GraphProto()]);
        var functions = model.Functions.SelectMany(f => f.Node);
        foreach (var tensor in OfNodes(functions))
        {
            yield return tensor;
        }

        while (graphs.TryPop(out var graph))
        {
            foreach (var tensor in graph.Initializer.Concat(OfNodes(graph.Node)))
            {
                yield return tensor;
            }
        }

        IEnumerable<TensorProto> OfNodes(IEnumerable<NodeProto> nodes)
        {
            foreach (var attribute in nodes.SelectMany(n => n.Attribute))
            {
                foreach (var graph in OpsetUpgrade.Subgraphs(attribute))
                {
                    graphs.Push(graph);
                }

                foreach (var tensor in attribute.T is { } one ? attribute.Tensors.Append(one) : attribute.Tensors)
                {
                    yield return tensor;
                }
            }
        }
    }

    /// <summary>Gives the fields between two positions.</summary>
    private IEnumerable<Field> Fields(long from, long end)
    {
        while (from < end)
        {
            var position = from;
            var tag = ReadVarint(ref position, end);
            var wireType = (int)(tag & 7);
            var content = position;
            switch (wireType)
            {
                case 0:
                    ReadVarint(ref position, end);
                    break;
                case 1:
                    position += 8;
                    break;
                case LengthDelimited:
                    var length = ReadVarint(ref position, end);
                    content = position;
                    position += length <= int.MaxValue ? (long)length : throw Invalid();
                    break;
                case 5:
                    position += 4;
                    break;
                default:
                    throw Invalid();
            }

            yield return position <= end && tag >> 3 is > 0 and <= int.MaxValue
                ? new Field((int)(tag >> 3), wireType, from, content, position)
                : throw Invalid();
            from = position;
        }
    }

    private ulong ReadVarint(ref long position, long end)
    {
        var value = 0UL;
        for (var shift = 0; shift < 64 && position < end; shift += 7)
        {
            var next = ByteAt(position++);
            value |= (ulong)(next & 0x7F) << shift;
            if (next < 0x80)
            {
                return value;
            }
        }

        throw Invalid();
    }

    private byte ByteAt(long position)
    {
        if (position < _windowStart || position >= _windowStart + _windowLength)
        {
            _windowLength = (int)Math.Min(_window.Length, _file.Length - position);
            _windowStart = position;
            _file.Read(position, _window.AsSpan(0, _windowLength));
        }

        return _window[position - _windowStart];
    }

    /// <summary>Copies a field as it is.</summary>
    private void Take(Field field, ArrayBufferWriter<byte> destination)
    {
        var length = checked((int)(field.End - field.Start));
        var span = destination.GetSpan(length)[..length];
        if (field.Start >= _windowStart && field.End <= _windowStart + _windowLength)
        {
            _window.AsSpan((int)(field.Start - _windowStart), length).CopyTo(span);
        }
        else
        {
            _file.Read(field.Start, span);
        }

        destination.Advance(length);
    }

    private static InvalidDataException Invalid() => new("it is cut off or damaged");

    /// <summary>A field: its number and wire type, and where its tag, its content and the next field begin.</summary>
    private readonly record struct Field(int Number, int WireType, long Start, long Content, long End);
}
