using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.GraphRewriter.Tests.Export;

public sealed class AtomicFileTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Makes_the_folder_and_replaces_the_file()
    {
        var path = _folder.File("new/deep/file.bin");
        AtomicFile.Write(path, s => s.Write([1, 2, 3]));
        AtomicFile.Write(path, s => s.Write([4]));
        Assert.Equal([4], File.ReadAllBytes(path));
        Assert.Single(Directory.GetFiles(Path.GetDirectoryName(path)!));
    }

    [Fact]
    public void A_failure_of_the_writer_leaves_the_old_file_and_no_other()
    {
        var path = _folder.File("file.bin", [7]);
        Assert.Throws<FormatException>(() =>
            AtomicFile.Write(
                path,
                s =>
                {
                    s.Write(new byte[100_000]);
                    throw new FormatException();
                }
            )
        );
        Assert.Equal([7], File.ReadAllBytes(path));
        Assert.Single(Directory.GetFiles(_folder.Path));
    }

    [Fact]
    public void A_disk_that_takes_no_more_is_one_clear_line()
    {
        // Linux's /dev/full refuses every byte as a full disk does.
        Assert.SkipUnless(File.Exists("/dev/full"), "there is no /dev/full");
        var path = _folder.File("file.bin", [7]);
        var error = Assert.Throws<MacOnnxException>(() =>
            AtomicFile.Write(
                path,
                s =>
                {
                    s.Write(new byte[100_000]);
                    using var full = new FileStream("/dev/full", FileMode.Open, FileAccess.Write);
                    full.Write([1]);
                }
            )
        );
        Assert.Equal("MAC0401", error.Diagnostic.Id);
        Assert.StartsWith(path + ": The file cannot be written: No space left on device", error.Message);
        Assert.DoesNotContain('\n', error.Message);
        Assert.Equal([7], File.ReadAllBytes(path));
        Assert.Single(Directory.GetFiles(_folder.Path));
    }

    [Fact]
    public void A_file_that_outgrows_its_file_system_is_one_clear_line()
    {
        // Files of 4 EiB are beyond most file systems.
        var path = _folder.File("file.bin");
        Assert.SkipUnless(
            Record.Exception(() => WriteFar(new FileStream(_folder.File("probe"), FileMode.Create)))
                is ArgumentOutOfRangeException,
            "this file system takes such files"
        );
        var error = Assert.Throws<MacOnnxException>(() => AtomicFile.Write(path, WriteFar));
        Assert.Equal("MAC0401", error.Diagnostic.Id);
        Assert.IsType<IOException>(error.InnerException);
        Assert.False(File.Exists(path));

        static void WriteFar(Stream stream)
        {
            using (stream)
            {
                stream.Position = 1L << 62;
                stream.WriteByte(1);
                stream.Flush();
            }
        }
    }

    [Fact]
    public void A_folder_that_cannot_be_made_is_one_clear_line()
    {
        var error = Assert.Throws<MacOnnxException>(() =>
            AtomicFile.Write(Path.Combine(_folder.File("file", [1]), "below"), _ => { })
        );
        Assert.Equal("MAC0401", error.Diagnostic.Id);
    }

    [Fact]
    public void A_folder_in_the_place_of_the_file_is_one_clear_line()
    {
        var path = _folder.File("sub");
        Directory.CreateDirectory(path);
        Assert.Equal("MAC0401", Assert.Throws<MacOnnxException>(() => AtomicFile.Write(path, _ => { })).Diagnostic.Id);
        Assert.Empty(Directory.GetFiles(_folder.Path));
    }

    [Fact]
    public void A_device_is_never_replaced()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows has no device files.");
        Assert.Equal(
            "MAC0401",
            Assert.Throws<MacOnnxException>(() => AtomicFile.Write("/dev/null", _ => { })).Diagnostic.Id
        );
    }
}
