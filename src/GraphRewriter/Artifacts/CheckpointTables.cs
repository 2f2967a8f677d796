using System.Runtime.InteropServices;
using System.Text;
using Google.FlatBuffers;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>
/// Reads and writes the tables of <c>ort_training_checkpoint.fbs</c>.
/// </summary>
/// <remarks>
/// The buffer checks the bounds of every access. FlatBuffers' own verifier refuses sound files: it keeps the distance
/// from a table to its description in 16 bits.
/// </remarks>
internal static class CheckpointTables
{
    /// <summary>What the name of the file with external data adds to the checkpoint's.</summary>
    public const string ExternalSuffix = ".data";

    /// <summary>Beyond this many bytes of elements tensors go to the external file.</summary>
    public const long LargestFile = 1800L << 20;

    private const string Identifier = "ODTC";
    private const int WrittenVersion = 2;

    /// <summary>Smaller tensors are never external.</summary>
    private const int SmallestExternal = 64;

    /// <summary>Reads a checkpoint.</summary>
    /// <param name="bytes">The file.</param>
    /// <param name="externalPath">The file that external data are in; null where there can be none.</param>
    /// <exception cref="InvalidDataException">The bytes are no checkpoint, or damaged.</exception>
    public static OrtCheckpointFile Read(byte[] bytes, string? externalPath)
    {
        var buffer = new ByteBuffer(bytes);
        if (bytes.Length < 8 || !Table.__has_identifier(buffer, Identifier))
        {
            throw new InvalidDataException($"it does not have the identifier {Identifier}");
        }

        try
        {
            return Read(new View(new Table(buffer.GetInt(0), buffer), new Content(bytes)), externalPath);
        }
        catch (Exception e) when (e is ArgumentException or IndexOutOfRangeException or OverflowException)
        {
            throw new InvalidDataException("its tables are damaged", e);
        }
    }

    private static OrtCheckpointFile Read(View root, string? externalPath)
    {
        var version = root.Int(0);
        if (version is not (1 or WrittenVersion))
        {
            throw new InvalidDataException($"it has format version {version}, and 1 and 2 are known");
        }

        var module = root.Child(1) ?? throw new InvalidDataException("it has no parameters");
        var isNominal = module.Flag(2);
        using var external = External.Open(module.Flag(3) ? externalPath : null);
        return new OrtCheckpointFile
        {
            Trainable = Tensors(module.Children(0), isNominal, external),
            Frozen = Tensors(module.Children(1), isNominal, external),
            IsNominal = isNominal,
            Groups = [.. root.Children(2).Select(g => Group(g, isNominal, external))],
            Properties = root.Child(3) is { } bag
                ? Named(
                    bag.Children(0)
                        .Select(p => (p.Text(0), (object)p.Long(1, 0)))
                        .Concat(bag.Children(1).Select(p => (p.Text(0), (object)p.Float(1))))
                        .Concat(bag.Children(2).Select(p => (p.Text(0), (object)p.Text(1)))),
                    "property"
                )
                : new Dictionary<string, object>(),
        };
    }

    /// <summary>Writes a checkpoint.</summary>
    /// <param name="checkpoint">The checkpoint.</param>
    /// <param name="path">The file.</param>
    /// <param name="largest">The most bytes of elements that the file itself holds.</param>
    public static void Write(OrtCheckpointFile checkpoint, string path, long largest)
    {
        var all = checkpoint
            .Parameters.Concat(checkpoint.Groups.SelectMany(g => g.Momentums.Values).SelectMany(m => m))
            .Sum(t => (long)t.Value.Data.Length);
        if (all <= largest)
        {
            var bytes = ToBytes(checkpoint, null);
            AtomicFile.Write(path, s => s.Write(bytes));
            AtomicFile.Delete(path + ExternalSuffix);
            return;
        }

        AtomicFile.Write(
            path + ExternalSuffix,
            external =>
            {
                var bytes = ToBytes(checkpoint, external);
                AtomicFile.Write(path, s => s.Write(bytes));
            }
        );
    }

    private static OrtOptimizerGroup Group(View group, bool isNominal, External? external) =>
        new(
            group.Text(0),
            group.Long(1, 0) is >= 0 and var step
                ? step
                : throw new InvalidDataException("its number of steps is negative"),
            group.Float(2),
            Named(group.Children(3).Select(s => (s.Text(0), Tensors(s.Children(1), isNominal, external))), "state")
        );

    private static IReadOnlyDictionary<string, Tensor> Tensors(
        IEnumerable<View> tables,
        bool isNominal,
        External? external
    ) => Named(tables.Select(t => (t.Text(0), ToTensor(t, isNominal, external))), "tensor");

    private static OrderedDictionary<string, T> Named<T>(IEnumerable<(string Name, T Value)> entries, string kind)
    {
        var all = new OrderedDictionary<string, T>(StringComparer.Ordinal);
        foreach (var (name, value) in entries)
        {
            if (!all.TryAdd(name, value))
            {
                throw new InvalidDataException($"it holds the {kind} '{InputFile.OneLine(name)}' twice");
            }
        }

        return all;
    }

    private static Tensor ToTensor(View table, bool isNominal, External? external)
    {
        var (type, dims, raw) = ((ElementType)table.Int(3), table.Longs(2), table.Bytes(4));
        var name = InputFile.OneLine(table.Text(0));
        if (type.Size() == 0)
        {
            throw new InvalidDataException($"'{name}' has elements of type {type}");
        }

        if (isNominal && raw.IsEmpty)
        {
            return new Tensor(type, [.. dims], ReadOnlyMemory<byte>.Empty, isElsewhere: true);
        }

        var offset = table.Long(6, -1);
        if (offset >= 0)
        {
            return external is null
                ? throw new InvalidDataException($"'{name}' is in another file, of which there is none")
                : new Tensor(type, [.. dims], external.Read(offset, dims, type.Size()));
        }

        var size = InputFile.CheckedSize(dims, type.Size(), raw.Length);
        return size == raw.Length
            ? new Tensor(type, [.. dims], raw)
            : throw new InvalidDataException($"'{name}' has {raw.Length} bytes where its shape needs {size}");
    }

    private static byte[] ToBytes(OrtCheckpointFile checkpoint, Stream? external)
    {
        var b = new FlatBufferBuilder(1 << 16);
        var trainable = Tensors(checkpoint.Trainable);
        var frozen = Tensors(checkpoint.Frozen);
        b.StartTable(4);
        b.AddOffset(0, trainable, 0);
        b.AddOffset(1, frozen, 0);
        b.AddBool(2, checkpoint.IsNominal, false);
        b.AddBool(3, external is not null, false);
        var module = b.EndTable();
        var groups = Vector([
            .. checkpoint.Groups.Select(g =>
            {
                var states = Vector([
                    .. g.Momentums.Select(m =>
                    {
                        var (name, momentums) = (Text(m.Key), Tensors(m.Value));
                        b.StartTable(2);
                        b.AddOffset(0, name, 0);
                        b.AddOffset(1, momentums, 0);
                        return b.EndTable();
                    }),
                ]);
                var group = Text(g.Name);
                b.StartTable(4);
                b.AddLong(1, g.Step, 0);
                b.AddOffset(0, group, 0);
                b.AddFloat(2, g.InitialLearningRate, 0);
                b.AddOffset(3, states, 0);
                return b.EndTable();
            }),
        ]);
        var integers = Properties<long>((slot, value) => b.AddLong(slot, value, 0));
        var numbers = Properties<float>((slot, value) => b.AddFloat(slot, value, 0));
        var texts = Vector([
            .. checkpoint
                .Properties.Where(p => p.Value is string)
                .Select(p =>
                {
                    var (name, text) = (Text(p.Key), Text((string)p.Value));
                    b.StartTable(2);
                    b.AddOffset(0, name, 0);
                    b.AddOffset(1, text, 0);
                    return b.EndTable();
                }),
        ]);
        b.StartTable(3);
        b.AddOffset(0, integers, 0);
        b.AddOffset(1, numbers, 0);
        b.AddOffset(2, texts, 0);
        var bag = b.EndTable();
        b.StartTable(4);
        b.AddInt(0, WrittenVersion, 0);
        b.AddOffset(1, module, 0);
        b.AddOffset(2, groups, 0);
        b.AddOffset(3, bag, 0);
        b.Finish(b.EndTable(), Identifier);
        return b.SizedByteArray();

        int Text(string text) => b.CreateString(text).Value;

        int Vector(int[] tables)
        {
            b.StartVector(sizeof(int), tables.Length, sizeof(int));
            for (var i = tables.Length - 1; i >= 0; i--)
            {
                b.AddOffset(tables[i]);
            }

            return b.EndVector().Value;
        }

        int Properties<T>(Action<int, T> add) =>
            Vector([
                .. checkpoint
                    .Properties.Where(p => p.Value is T)
                    .Select(p =>
                    {
                        var name = Text(p.Key);
                        b.StartTable(2);
                        add(1, (T)p.Value);
                        b.AddOffset(0, name, 0);
                        return b.EndTable();
                    }),
            ]);

        int Tensors(IReadOnlyDictionary<string, Tensor> tensors) =>
            Vector([.. tensors.Select(t => Write(t.Key, t.Value))]);

        int Write(string name, Tensor tensor)
        {
            var text = Text(name);
            b.StartVector(sizeof(long), tensor.Dims.Length, sizeof(long));
            for (var i = tensor.Dims.Length - 1; i >= 0; i--)
            {
                b.AddLong(tensor.Dims[i]);
            }

            var (dims, isExternal) = (
                b.EndVector().Value,
                external is not null && tensor.Data.Length >= SmallestExternal
            );
            var raw = 0;
            if (!isExternal)
            {
                // Elements lie at multiples of their size, for readers that use them where they are.
                b.StartVector(1, tensor.Data.Length, Math.Max(tensor.Type.Size(), sizeof(int)));
                if (MemoryMarshal.TryGetArray(tensor.Data, out var segment) && segment.Count > 0)
                {
                    b.Add(segment);
                }

                raw = b.EndVector().Value;
            }

            b.StartTable(7);
            if (isExternal)
            {
                var alignment = Math.Max(tensor.Type.Size(), sizeof(int));
                external!.Write(new byte[(alignment - (external.Position % alignment)) % alignment]);
                b.AddLong(6, external.Position, -1);
                external.Write(tensor.Data.Span);
            }

            b.AddOffset(0, text, 0);
            b.AddOffset(2, dims, 0);
            b.AddInt(3, (int)tensor.Type, 0);
            b.AddOffset(4, raw, 0);
            return b.EndTable();
        }
    }

    /// <summary>
    /// A table, its fields by their place in the schema. Tables may share parts: together they may take what the file
    /// can hold, and no more.
    /// </summary>
    private readonly record struct View(Table Table, Content File)
    {
        public int Int(int field) => At(field) is > 0 and var at ? Table.bb.GetInt(at) : 0;

        public long Long(int field, long fallback) => At(field) is > 0 and var at ? Table.bb.GetLong(at) : fallback;

        public float Float(int field) => At(field) is > 0 and var at ? Table.bb.GetFloat(at) : 0;

        public bool Flag(int field) => At(field) is > 0 and var at && Table.bb.Get(at) != 0;

        public string Text(int field)
        {
            var (start, count) = Vector(field);
            File.Take(count);
            return Encoding.UTF8.GetString(File.Bytes, start, count);
        }

        public View? Child(int field) => At(field) is > 0 and var at ? Of(Table.__indirect(at)) : null;

        public IEnumerable<View> Children(int field)
        {
            var (start, count) = Vector(field);
            for (var i = 0; i < count; i++)
            {
                File.Take(1);
                yield return Of(Table.__indirect(start + (i * sizeof(int))));
            }
        }

        public long[] Longs(int field)
        {
            var ((start, count), buffer) = (Vector(field), Table.bb);
            return count <= InputFile.MaxRank
                ? [.. Enumerable.Range(0, count).Select(i => buffer.GetLong(start + (i * sizeof(long))))]
                : throw new InvalidDataException($"a tensor has {count} dimensions");
        }

        public ReadOnlyMemory<byte> Bytes(int field)
        {
            var (start, count) = Vector(field);
            return File.Bytes.AsMemory(start, count);
        }

        private int At(int field) => Table.__offset(4 + (2 * field)) is > 0 and var at ? Table.bb_pos + at : 0;

        private (int Start, int Count) Vector(int field)
        {
            if (At(field) is not (> 0 and var at))
            {
                return (0, 0);
            }

            var start = Table.__indirect(at);
            return (start + sizeof(int), Table.bb.GetInt(start));
        }

        private View Of(int position) => new(new Table(position, Table.bb), File);
    }

    /// <summary>The file's bytes, and how many tables and characters may still be read.</summary>
    private sealed class Content(byte[] bytes)
    {
        private long _left = 8L * bytes.Length;

        public byte[] Bytes { get; } = bytes;

        public void Take(int count)
        {
            _left -= count;
            if (_left < 0)
            {
                throw new InvalidDataException("its tables share more than they can");
            }
        }
    }

    /// <summary>The file with external data.</summary>
    private sealed class External : IDisposable
    {
        private readonly FileStream _stream;
        private long _left;

        private External(FileStream stream) => (_stream, _left) = (stream, stream.Length);

        public static External? Open(string? path)
        {
            if (path is null)
            {
                return null;
            }

            InputFile.RequireContent(path);
            return new(new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read));
        }

        /// <summary>Reads a tensor. Together they are no larger than the file, since none overlap.</summary>
        public byte[] Read(long offset, long[] dims, int elementSize)
        {
            var size = InputFile.CheckedSize(dims, elementSize, Math.Min(_left, Math.Max(_stream.Length - offset, 0)));
            _left -= size;
            _stream.Position = offset;
            return InputFile.ReadElements(_stream, dims, elementSize, size);
        }

        public void Dispose() => _stream.Dispose();
    }
}
