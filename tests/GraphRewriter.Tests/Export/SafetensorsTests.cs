using System.Buffers.Binary;
using System.Text;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.GraphRewriter.Tests.Export;

public sealed class SafetensorsTests : IDisposable
{
    private const string One = """{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""";

    private readonly TempFolder _folder = new();

    public static TheoryData<ElementType> Types =>
        [
            .. Enum.GetValues<ElementType>()
                .Where(t =>
                    t
                        is ElementType.Bool
                            or (>= ElementType.Float and <= ElementType.Int64)
                            or (>= ElementType.Float16 and <= ElementType.UInt64)
                            or ElementType.BFloat16
                ),
        ];

    public void Dispose() => _folder.Dispose();

    [Theory]
    [MemberData(nameof(Types))]
    public void Every_type_comes_back(ElementType type)
    {
        var tensor = new Tensor(
            type,
            [3, 1],
            new byte[] { 1, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0 }.AsMemory(
                0,
                3 * type.Size()
            )
        );
        var back = RoundTrip([new("t", tensor)], null).Tensors["t"];
        Assert.Equal((type, "3,1"), (back.Type, string.Join(',', back.Dims)));
        Assert.Equal(tensor.Data.ToArray(), back.Data.ToArray());
    }

    [Fact]
    public void Order_metadata_scalars_and_empty_tensors_come_back()
    {
        KeyValuePair<string, Tensor>[] tensors =
        [
            new("z", Tensor.From<byte>([3], [1, 2, 3])),
            new("scalar", Tensor.From<double>([], [0.5])),
            new("none", Tensor.From<float>([0, 4], [])),
            new("a \"\u00e9\n", Tensor.From<float>([1], [2])),
        ];
        var file = RoundTrip(tensors, new Dictionary<string, string> { ["step"] = "12", ["config"] = "{\"x\":1}" });
        Assert.Equal(tensors.Select(t => t.Key), file.Tensors.Keys);
        Assert.Equal("12", file.Metadata["step"]);
        Assert.Equal("{\"x\":1}", file.Metadata["config"]);
        Assert.Equal(0.5, file.Tensors["scalar"].Span<double>()[0]);
        Assert.Equal(2, file.Tensors["a \"\u00e9\n"].Span<float>()[0]);
        Assert.Equal(0, file.Tensors["none"].ElementCount);
    }

    [Fact]
    public void The_bytes_are_those_of_the_format()
    {
        var path = _folder.File("t");
        Safetensors.Write(
            path,
            [new("b", Tensor.From<byte>([1], [9])), new("f", Tensor.From<float>([2], [1, 2]))],
            new Dictionary<string, string> { ["k"] = "v" }
        );
        var bytes = File.ReadAllBytes(path);
        var length = (int)BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        Assert.Equal(0, length % 8);
        Assert.Equal(
            """{"__metadata__":{"k":"v"},"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}"""
                + ""","f":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""",
            Encoding.UTF8.GetString(bytes, 8, length).TrimEnd(' ')
        );
        Assert.Equal([0, 0, 0x80, 0x3F, 0, 0, 0, 0x40, 9], bytes[(8 + length)..]);

        Safetensors.Write(_folder.File("again"), Safetensors.Read(path).Tensors, Safetensors.Read(path).Metadata);
        Assert.Equal(bytes, File.ReadAllBytes(_folder.File("again")));
    }

    [Fact]
    public void What_the_format_cannot_hold_is_refused()
    {
        var tensor = Tensor.From<float>([1], [1]);
        Assert.Throws<ArgumentException>(() =>
            Safetensors.Write(_folder.File("t"), [new("a", tensor), new("a", tensor)])
        );
        Assert.Throws<ArgumentException>(() => Safetensors.Write(_folder.File("t"), [new("__metadata__", tensor)]));
        Assert.Throws<ArgumentException>(() =>
            Safetensors.Write(_folder.File("t"), [new("a", new Tensor(ElementType.Complex64, [1], new byte[8]))])
        );
        Assert.Empty(Directory.GetFiles(_folder.Path));
    }

    [Theory]
    [InlineData(One, 2, null)]
    [InlineData(One + "   ", 2, null)]
    [InlineData("{}", 0, null)]
    [InlineData(One, 1, "outside the file")]
    [InlineData(One, 3, "belong to no tensor")]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}""", 3, "leave a gap")]
    [InlineData(
        """{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}""",
        3,
        "overlap"
    )]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}""", 2, "outside the file")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,2]}}""", 2, "needs 8 bytes")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,2]}}""", 2, "needs 1")]
    [InlineData("""{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,2]}}""", 2, "unknown dtype 'F4'")]
    [InlineData("""{"a":{"dtype":"U8","shape":[-2],"data_offsets":[0,2]}}""", 2, "not a list of counts")]
    [InlineData("""{"a":{"dtype":"U8","shape":[2.5],"data_offsets":[0,2]}}""", 2, "not a list of counts")]
    [InlineData("""{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,2]}}""", 2, "impossible shape")]
    [InlineData(
        """{"a":{"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}""",
        0,
        "impossible shape"
    )]
    [InlineData(
        """{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,18446744073709551615]}}""",
        2,
        "not a list of counts"
    )]
    [InlineData("""{"a":{"dtype":"U8","shape":[2]}}""", 2, "needs dtype, shape and two data_offsets")]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1,2]}}""", 2, "two data_offsets")]
    [InlineData("""{"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", 2, "unexpected entry")]
    [InlineData(
        """{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}""",
        0,
        "'a' twice"
    )]
    [InlineData("""{"__metadata__":{"k":1}}""", 0, "not the JSON")]
    [InlineData("""{"a":[[[[[[[[0]]]]]]]]}""", 0, "not the JSON")]
    [InlineData("[]", 0, "not the JSON")]
    [InlineData("{} {}", 0, "not the JSON")]
    [InlineData("", 0, "not the JSON")]
    public void A_header_is_checked_before_it_is_believed(string header, int dataBytes, string? error)
    {
        var bytes = new byte[8 + header.Length + dataBytes];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, header.Length);
        Encoding.ASCII.GetBytes(header, bytes.AsSpan(8));
        var path = _folder.File("t", bytes);
        if (error is null)
        {
            Safetensors.Read(path);
        }
        else
        {
            Assert.Contains(error, Refused(path), StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_header_of_any_declared_length_allocates_nothing()
    {
        foreach (var length in new[] { 100_000_001, long.MaxValue, -1, 9 })
        {
            var bytes = new byte[16];
            BinaryPrimitives.WriteInt64LittleEndian(bytes, length);
            Assert.Contains("header cannot have", Refused(_folder.File("t", bytes)), StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_cut_file_is_refused_at_every_length()
    {
        Safetensors.Write(
            _folder.File("whole"),
            [new("a", Tensor.From<float>([2], [1, 2]))],
            new Dictionary<string, string> { ["k"] = "v" }
        );
        var bytes = File.ReadAllBytes(_folder.File("whole"));
        for (var length = 0; length < bytes.Length; length++)
        {
            Refused(_folder.File("cut", bytes[..length]));
        }
    }

    [Fact]
    public void Changed_bytes_give_a_clear_error_or_a_file_that_adds_up()
    {
        Safetensors.Write(
            _folder.File("whole"),
            [new("a", Tensor.From<float>([2], [1, 2])), new("b", Tensor.From<byte>([1], [1]))],
            new Dictionary<string, string> { ["k"] = "v" }
        );
        var bytes = File.ReadAllBytes(_folder.File("whole"));
        var random = new Random(1);
        for (var i = 0; i < 2000; i++)
        {
            var changed = bytes.ToArray();
            for (var k = random.Next(1, 4); k > 0; k--)
            {
                changed[random.Next(changed.Length)] = (byte)random.Next(256);
            }

            try
            {
                Safetensors.Read(_folder.File("changed", changed));
            }
            catch (MacOnnxException e)
            {
                Assert.Equal("MAC0403", e.Diagnostic.Id);
                Assert.DoesNotContain(e.Message, char.IsControl);
            }
        }
    }

    [Fact]
    public void A_missing_file_and_a_folder_are_clear_lines()
    {
        Assert.Equal(
            "MAC0402",
            Assert.Throws<MacOnnxException>(() => Safetensors.Read(_folder.File("missing"))).Diagnostic.Id
        );
        Assert.Equal("MAC0402", Assert.Throws<MacOnnxException>(() => Safetensors.Read(_folder.Path)).Diagnostic.Id);
    }

    private static string Refused(string path)
    {
        var error = Assert.Throws<MacOnnxException>(() => Safetensors.Read(path));
        Assert.Equal("MAC0403", error.Diagnostic.Id);
        Assert.StartsWith(path + ": This is not a usable safetensors file: ", error.Message);
        return error.Message;
    }

    private SafetensorsFile RoundTrip(KeyValuePair<string, Tensor>[] tensors, Dictionary<string, string>? metadata)
    {
        Safetensors.Write(_folder.File("t"), tensors, metadata);
        return Safetensors.Read(_folder.File("t"));
    }
}
