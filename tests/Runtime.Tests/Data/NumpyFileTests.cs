using System.IO.Compression;
using System.Text;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Runtime.Tests.Data;

public sealed class NumpyFileTests : IDisposable
{
    // Made by numpy 1.24: savez_compressed of x = arange(24).reshape(2,3,4)/4 as f4, labels = [3,1] as i8, half =
    // [[1.5,-2]] as f2,
    // flag = [True,False,True], scalar = float64(2.5), empty = zeros((0,3)) as i4.
    private const string Deflated =
        "UEsDBBQAAAAIAAAAIQAWs6IviQAAAOAAAAAFABQAeC5ucHkBABAA4AAAAAAAAACJAAAAAAAAAJvsF+obEMnIUMZQrZ6SWpxc"
        + "pG6loG6TZqKuo6Cell9UUpSYF59flJIKEndL"
        + "zClOBYoXZyQWpAL5GkY6CsY6CiaaOgq1CuQBLgYwaLADEvYMDA5A3ADEC4D4ABA/AGIGBwYGASBWAGIDIHYA4gAgTgDiAiBu"
        + "AOIOIJ4AxDOAeAEQrwDiDUC8wwEAUEsDBBQA"
        + "AAAIAAAAIQCM3jPgSgAAAJAAAAAKABQAbGFiZWxzLm5weQEAEACQAAAAAAAAAEoAAAAAAAAAm+wX6hsQychQxlCtnpJanFyk"
        + "bqWgbpNpoa6joJ6WX1RSlJgXn1+UkgoSd0vM"
        + "KU4FihdnJBakAvkaRjqaOgq1ChQALmYGCGCE0gBQSwMEFAAAAAgAAAAhAAFJvYZKAAAAhAAAAAgAFABoYWxmLm5weQEAEACE"
        + "AAAAAAAAAEoAAAAAAAAAm+wX6hsQychQxlCt"
        + "npJanFykbqWgbpNmpK6joJ6WX1RSlJgXn1+UkgoSd0vMKU4FihdnJBakAvkahjoKRpo6CrUKZAMuBjuGAwBQSwMEFAAAAAgA"
        + "AAAhABaTjLtHAAAAgwAAAAgAFABmbGFnLm5w"
        + "eQEAEACDAAAAAAAAAEcAAAAAAAAAm+wX6hsQychQxlCtnpJanFykbqWgXpNkqK6joJ6WX1RSlJgXn1+UkgoSd0vMKU4Fihdn"
        + "JBakAvkaxjqaOgq1ChQALkYGRgBQSwMEFAAA"
        + "AAgAAAAhADW0OpNHAAAAiAAAAAoAFABzY2FsYXIubnB5AQAQAIgAAAAAAAAARwAAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRu"
        + "paBuk2ahrqOgnpZfVFKUmBefX5SSChJ3S8wp"
        + "TgWKF2ckFqQC+RqaOgq1ChQBLgYwYHEAAFBLAwQUAAAACAAAACEAVbVuzEYAAACAAAAACQAUAGVtcHR5Lm5weQEAEACAAAAA"
        + "AAAAAEYAAAAAAAAAm+wX6hsQychQxlCtnpJa"
        + "nFykbqWgbpNpoq6joJ6WX1RSlJgXn1+UkgoSd0vMKU4FihdnJBakAvkaBjoKxpo6CrUKZAMuAFBLAQIUAxQAAAAIAAAAIQAW"
        + "s6IviQAAAOAAAAAFAAAAAAAAAAAAAACAAQAA"
        + "AAB4Lm5weVBLAQIUAxQAAAAIAAAAIQCM3jPgSgAAAJAAAAAKAAAAAAAAAAAAAACAAcAAAABsYWJlbHMubnB5UEsBAhQDFAAA"
        + "AAgAAAAhAAFJvYZKAAAAhAAAAAgAAAAAAAAA"
        + "AAAAAIABRgEAAGhhbGYubnB5UEsBAhQDFAAAAAgAAAAhABaTjLtHAAAAgwAAAAgAAAAAAAAAAAAAAIABygEAAGZsYWcubnB5"
        + "UEsBAhQDFAAAAAgAAAAhADW0OpNHAAAAiAAA"
        + "AAoAAAAAAAAAAAAAAIABSwIAAHNjYWxhci5ucHlQSwECFAMUAAAACAAAACEAVbVuzEYAAACAAAAACQAAAAAAAAAAAAAAgAHO"
        + "AgAAZW1wdHkubnB5UEsFBgAAAAAGAAYARgEA"
        + "AE8DAAAAAA==";

    // savez of x = [1, 2] as f4.
    private const string Stored =
        "UEsDBBQAAAAAAAAAIQCayqvniAAAAIgAAAAFABQAeC5ucHkBABAAiAAAAAAAAACIAAAAAAAAAJNOVU1QWQEAdgB7J2Rlc2Ny"
        + "JzogJzxmNCcsICdmb3J0cmFuX29yZGVyJzog"
        + "RmFsc2UsICdzaGFwZSc6ICgyLCksIH0gICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg"
        + "ICAgICAgICAgICAKAACAPwAAAEBQSwECFAMU"
        + "AAAAAAAAACEAmsqr54gAAACIAAAABQAAAAAAAAAAAAAAgAEAAAAAeC5ucHlQSwUGAAAAAAEAAQAzAAAAvwAAAAAA";

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Reads_what_numpy_deflated()
    {
        var path = _folder.File("a.npz", Convert.FromBase64String(Deflated));
        Assert.Equal(["x", "labels", "half", "flag", "scalar", "empty"], NpzFile.Names(path));
        var arrays = NpzFile.Read(path);
        Assert.Equal("Float[2,3,4]", arrays["x"].ToString());
        Assert.Equal(Enumerable.Range(0, 24).Select(i => i / 4f), arrays["x"].Span<float>().ToArray());
        Assert.Equal([3L, 1], arrays["labels"].Span<long>());
        Assert.Equal([(Half)1.5, (Half)(-2)], arrays["half"].Span<Half>());
        Assert.Equal([true, false, true], arrays["flag"].Span<bool>());
        Assert.Equal("Double[]", arrays["scalar"].ToString());
        Assert.Equal(2.5, arrays["scalar"].Span<double>()[0]);
        Assert.Equal("Int32[0,3]", arrays["empty"].ToString());
        Assert.Equal(["labels"], NpzFile.Read(path, ["labels", "other"]).Keys);
    }

    [Fact]
    public void Reads_what_numpy_stored() =>
        Assert.Equal([1f, 2], NpzFile.Read(_folder.File("a.npz", Convert.FromBase64String(Stored)))["x"].Span<float>());

    [Fact]
    public void Reads_fortran_order()
    {
        // asfortranarray(arange(24).reshape(2,3,4)) as i2.
        var tensor = ReadNpy(
            "k05VTVBZAQB2AHsnZGVzY3InOiAnPGkyJywgJ2ZvcnRyYW5fb3JkZXInOiBUcnVlLCAnc2hhcGUnOiAoMiwgMywgNCksIH0g"
                + "ICAgICAgICAgICAgICAgICAgICAgICAgICAg"
                + "ICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoAAAwABAAQAAgAFAABAA0ABQARAAkAFQACAA4ABgASAAoAFgADAA8ABwAT"
                + "AAsAFwA="
        );
        Assert.Equal("Int16[2,3,4]", tensor.ToString());
        Assert.Equal(Enumerable.Range(0, 24).Select(i => (short)i), tensor.Span<short>().ToArray());
    }

    [Fact]
    public void Reads_big_endian()
    {
        // [[1.5,-2.25],[1e300,0]] as >f8, and [[1,2,3],[4,5,6]] as >i4 in Fortran order.
        Assert.Equal(
            [1.5, -2.25, 1e300, 0],
            ReadNpy(
                    "k05VTVBZAQB2AHsnZGVzY3InOiAnPmY4JywgJ2ZvcnRyYW5fb3JkZXInOiBGYWxzZSwgJ3NoYXBlJzogKDIsIDIpLCB9ICAg"
                        + "ICAgICAgICAgICAgICAgICAgICAgICAgICAg"
                        + "ICAgICAgICAgICAgICAgICAgICAgICAgICAgIAo/+AAAAAAAAMACAAAAAAAAfjfkPIgAdZwAAAAAAAAAAA=="
                )
                .Span<double>()
        );
        Assert.Equal(
            [1, 2, 3, 4, 5, 6],
            ReadNpy(
                    "k05VTVBZAQB2AHsnZGVzY3InOiAnPmk0JywgJ2ZvcnRyYW5fb3JkZXInOiBUcnVlLCAnc2hhcGUnOiAoMiwgMyksIH0gICAg"
                        + "ICAgICAgICAgICAgICAgICAgICAgICAgICAg"
                        + "ICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoAAAABAAAABAAAAAIAAAAFAAAAAwAAAAY="
                )
                .Span<int>()
        );
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Reads_the_versions_with_a_long_header(byte version)
    {
        // array([1,2,255]) as u1, version 2; version 3 differs in its number alone.
        var bytes = Convert.FromBase64String(
            "k05VTVBZAgB0AAAAeydkZXNjcic6ICd8dTEnLCAnZm9ydHJhbl9vcmRlcic6IEZhbHNlLCAnc2hhcGUnOiAoMywpLCB9ICAg"
                + "ICAgICAgICAgICAgICAgICAgICAgICAgICAg"
                + "ICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoBAv8="
        );
        bytes[6] = version;
        Assert.Equal<byte>([1, 2, 255], NpyFile.Read(_folder.File("a.npy", bytes)).Span<byte>());
    }

    [Fact]
    public void Every_type_and_shape_comes_back()
    {
        var bytes = Enumerable.Range(0, 48).Select(i => (byte)(i % 2)).ToArray();
        ElementType[] types =
        [
            ElementType.Bool,
            ElementType.UInt8,
            ElementType.Int8,
            ElementType.UInt16,
            ElementType.Int16,
            ElementType.UInt32,
            ElementType.Int32,
            ElementType.UInt64,
            ElementType.Int64,
            ElementType.Float16,
            ElementType.Float,
            ElementType.Double,
        ];
        var arrays = types
            .Select(t => KeyValuePair.Create($"{t}/a", new Tensor(t, [2, 3], bytes.AsMemory(0, 6 * t.Size()))))
            .ToList();
        arrays.Add(new("scalar", Tensor.From<float>([], [1])));
        arrays.Add(new("row", Tensor.From<float>([1], [1])));
        arrays.Add(new("empty", Tensor.From<float>([3, 0], [])));
        foreach (var compress in new[] { false, true })
        {
            NpzFile.Write(_folder.File("a.npz"), arrays, compress);
            var back = NpzFile.Read(_folder.File("a.npz"));
            Assert.Equal(arrays.Select(a => a.Key + a.Value), back.Select(a => a.Key + a.Value));
            Assert.All(arrays, a => Assert.Equal(a.Value.Data.ToArray(), back[a.Key].Data.ToArray()));
        }

        NpyFile.Write(_folder.File("a.npy"), arrays[0].Value);
        Assert.Equal(arrays[0].Value.Data.ToArray(), NpyFile.Read(_folder.File("a.npy")).Data.ToArray());
        Assert.Throws<ArgumentException>(() =>
            NpyFile.Write(_folder.File("b.npy"), new Tensor(ElementType.BFloat16, [1], new byte[2]))
        );
    }

    [Theory]
    [InlineData("'descr': '|O', 'fortran_order': False, 'shape': (2,)", 16, "Python objects")]
    [InlineData("'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)", 8, "does not name one type")]
    [InlineData("'descr': '<U2', 'fortran_order': False, 'shape': (1,)", 8, "elements are '<U2'")]
    [InlineData("'descr': '<c16', 'fortran_order': False, 'shape': (1,)", 16, "elements are '<c16'")]
    [InlineData("'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 2)", 8, "impossible shape")]
    [InlineData(
        "'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,)",
        8,
        "the size '9223372036854775808'"
    )]
    [InlineData("'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,)", 8, "at most 8 are there")]
    [InlineData("'descr': '<f4', 'fortran_order': False, 'shape': (-2,)", 8, "the size '-2'")]
    [InlineData(
        "'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904, 4611686018427387904)",
        0,
        "impossible shape"
    )]
    [InlineData("'descr': '<f4', 'fortran_order': False, 'shape': (1,)", 8, "more bytes follow")]
    [InlineData("'descr': '<f4', 'fortran_order': False, 'shape': 1", 8, "does not name one type")]
    [InlineData("'descr': '<f4', 'shape': (2,)", 8, "does not name one type")]
    public void A_header_is_checked_before_it_is_believed(string entries, int dataBytes, string error)
    {
        var text = $"{{{entries}, }}\n";
        byte[] file =
        [
            0x93,
            .. "NUMPY"u8,
            1,
            0,
            (byte)text.Length,
            0,
            .. Encoding.ASCII.GetBytes(text),
            .. new byte[dataBytes],
        ];
        Assert.Contains(error, Refused(() => NpyFile.Read(_folder.File("a.npy", file))), StringComparison.Ordinal);
    }

    [Fact]
    public void A_header_of_any_declared_length_and_rank_is_refused()
    {
        Refused(() => NpyFile.Read(_folder.File("a.npy", [0x93, .. "NUMPY"u8, 2, 0, 255, 255, 255, 255])));
        var text =
            $"{{'descr': '<f4', 'fortran_order': False, 'shape': ({string.Concat(Enumerable.Repeat("1,", 65))}), }}";
        Refused(() =>
            NpyFile.Read(
                _folder.File(
                    "a.npy",
                    [0x93, .. "NUMPY"u8, 1, 0, (byte)text.Length, 0, .. Encoding.ASCII.GetBytes(text), 0, 0, 0, 0]
                )
            )
        );
    }

    [Fact]
    public void A_cut_file_is_refused_at_every_length()
    {
        NpyFile.Write(_folder.File("a.npy"), Tensor.From<float>([2], [1, 2]));
        foreach (
            var (bytes, read) in new (byte[], Func<string, object>)[]
            {
                (File.ReadAllBytes(_folder.File("a.npy")), NpyFile.Read),
                (Convert.FromBase64String(Deflated), p => NpzFile.Read(p)),
                (Convert.FromBase64String(Stored), p => NpzFile.Read(p)),
            }
        )
        {
            for (var length = 0; length < bytes.Length; length++)
            {
                Refused(() => read(_folder.File("cut", bytes[..length])));
            }
        }
    }

    [Fact]
    public void Changed_bytes_never_give_another_exception()
    {
        var bytes = Convert.FromBase64String(Deflated);
        var random = new Random(1);
        for (var i = 0; i < 3000; i++)
        {
            var changed = bytes.ToArray();
            for (var k = random.Next(1, 5); k > 0; k--)
            {
                changed[random.Next(changed.Length)] = (byte)random.Next(256);
            }

            try
            {
                NpzFile.Read(_folder.File("changed.npz", changed));
            }
            catch (MacOnnxException e)
            {
                Assert.Equal("MAC0403", e.Diagnostic.Id);
                Assert.DoesNotContain(e.Message, char.IsControl);
            }
        }
    }

    [Fact]
    public void A_small_entry_that_declares_gigabytes_is_refused_before_they_are_allocated()
    {
        // The header declares 1.9 GB; the zip entry agrees, but its few deflated bytes cannot hold them.
        const string Header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1900000000,), }\n";
        var path = _folder.File("bomb.npz");
        using (var zip = ZipFile.Open(path, ZipArchiveMode.Create))
        {
            using var entry = zip.CreateEntry("x.npy").Open();
            entry.Write([0x93, .. "NUMPY"u8, 1, 0, (byte)Header.Length, 0, .. Encoding.ASCII.GetBytes(Header)]);
        }

        var bytes = File.ReadAllBytes(path);
        var directory = bytes.AsSpan().LastIndexOf("PK\u0001\u0002"u8);
        BitConverter.TryWriteBytes(bytes.AsSpan(directory + 24), 1_900_000_077u);
        var before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Contains(
            "array 'x'",
            Refused(() => NpzFile.Read(_folder.File("bomb.npz", bytes))),
            StringComparison.Ordinal
        );
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 10_000_000);
    }

    [Fact]
    public void An_entry_larger_than_declared_a_repeated_name_and_no_zip_are_refused()
    {
        var path = _folder.File("a.npz");
        NpzFile.Write(path, [new("x", Tensor.From<float>([1000], new float[1000]))], compress: true);
        var bytes = File.ReadAllBytes(path);
        var directory = bytes.AsSpan().LastIndexOf("PK\u0001\u0002"u8);
        BitConverter.TryWriteBytes(bytes.AsSpan(directory + 24), 200);
        Refused(() => NpzFile.Read(_folder.File("small.npz", bytes)));

        NpzFile.Write(path, [new("x", Tensor.From<float>([1], [1])), new("x", Tensor.From<float>([1], [1]))]);
        Assert.Contains("'x.npy' twice", Refused(() => NpzFile.Read(path)), StringComparison.Ordinal);
        Refused(() => NpzFile.Read(_folder.File("no.npz", "This is not a zip file.")));
        Refused(() => NpzFile.Read(_folder.File("empty.npz", [])));
    }

    private static string Refused(Func<object> read)
    {
        var error = Assert.Throws<MacOnnxException>(read);
        Assert.Equal("MAC0403", error.Diagnostic.Id);
        return error.Message;
    }

    private Tensor ReadNpy(string base64) => NpyFile.Read(_folder.File("a.npy", Convert.FromBase64String(base64)));
}
