using System.IO.Compression;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime.Tests.Data;

public sealed class IdxFileTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Reads_every_type_big_endian()
    {
        Assert.Equal<byte>([1, 2, 3, 255], Read(0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 255).Span<byte>());
        Assert.Equal<sbyte>([-1], Read(0, 0, 9, 1, 0, 0, 0, 1, 255).Span<sbyte>());
        Assert.Equal<short>([258, -1], Read(0, 0, 0xB, 1, 0, 0, 0, 2, 1, 2, 255, 255).Span<short>());
        Assert.Equal([0x01020304], Read(0, 0, 0xC, 1, 0, 0, 0, 1, 1, 2, 3, 4).Span<int>());
        Assert.Equal([1f], Read(0, 0, 0xD, 1, 0, 0, 0, 1, 0x3F, 0x80, 0, 0).Span<float>());
        Assert.Equal([1d], Read(0, 0, 0xE, 1, 0, 0, 0, 1, 0x3F, 0xF0, 0, 0, 0, 0, 0, 0).Span<double>());
        Assert.Equal("UInt8[2,2]", Read(0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 255).ToString());
    }

    [Fact]
    public void Reads_gzip_whatever_the_name()
    {
        var path = _folder.File("labels", Zip([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]));
        Assert.Equal<byte>([7, 8, 9], IdxFile.Read(path).Span<byte>());
    }

    [Theory]
    [InlineData("")]
    [InlineData("0000")]
    [InlineData("00000801")]
    [InlineData("0100080100000001FF")]
    [InlineData("00000A0100000001FF")]
    [InlineData("0000080100000002FF")]
    [InlineData("0000080100000001FFFF")]
    [InlineData("00000801FFFFFFFFFF")]
    [InlineData("00000803FFFFFFFFFFFFFFFFFFFFFFFF00")]
    [InlineData("000008FF")]
    [InlineData("1F8B")]
    public void Damaged_files_are_one_clear_line(string hex)
    {
        var bytes = Convert.FromHexString(hex);
        Refused(bytes);
        Refused(Zip(bytes));
    }

    [Fact]
    public void A_cut_gzip_is_refused_or_whole_at_every_length()
    {
        // Where only the end mark or the check sum is cut off, all data are there.
        byte[] array = [0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9];
        var bytes = Zip(array);
        for (var length = 0; length < bytes.Length; length++)
        {
            try
            {
                Assert.Equal<byte>([7, 8, 9], Read(bytes[..length]).Span<byte>());
                Assert.InRange(length, bytes.Length - 9, bytes.Length);
            }
            catch (MacOnnxException e)
            {
                Assert.Equal("MAC0403", e.Diagnostic.Id);
            }
        }
    }

    private static byte[] Zip(byte[] bytes)
    {
        using var memory = new MemoryStream();
        using (var gzip = new GZipStream(memory, CompressionLevel.Optimal))
        {
            gzip.Write(bytes);
        }

        return memory.ToArray();
    }

    private void Refused(byte[] bytes) =>
        Assert.Equal(
            "MAC0403",
            Assert.Throws<MacOnnxException>(() => IdxFile.Read(_folder.File("a.idx", bytes))).Diagnostic.Id
        );

    private GraphRewriter.Ir.Tensor Read(params byte[] bytes) => IdxFile.Read(_folder.File("a.idx", bytes));
}
