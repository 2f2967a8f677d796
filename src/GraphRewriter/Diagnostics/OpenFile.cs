using Microsoft.Win32.SafeHandles;

namespace MacOnnx.GraphRewriter.Diagnostics;

/// <summary>
/// A file from outside that is read in parts, when they are needed. Undisposed, it is closed once nothing refers to it.
/// </summary>
/// <remarks>
/// A file that is replaced or removed meanwhile stays readable; one that is written meanwhile is refused, as far as its
/// length and time of writing tell.
/// </remarks>
internal sealed class OpenFile : IDisposable
{
    private readonly SafeFileHandle _handle;
    private readonly DateTime _written;

    /// <summary>Opens a file.</summary>
    /// <exception cref="InvalidDataException">It is empty, or not a regular file.</exception>
    /// <exception cref="IOException">It cannot be opened.</exception>
    /// <exception cref="UnauthorizedAccessException">It may not be opened.</exception>
    public OpenFile(string path)
    {
        InputFile.RequireContent(path);
        Path = path;
        _handle = File.OpenHandle(path, share: FileShare.Read | FileShare.Delete);
        (Length, _written) = (RandomAccess.GetLength(_handle), File.GetLastWriteTimeUtc(_handle));
    }

    /// <summary>Gets the file's name.</summary>
    public string Path { get; }

    /// <summary>Gets the number of bytes when the file was opened.</summary>
    public long Length { get; }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();

    /// <summary>Reads bytes.</summary>
    /// <param name="offset">The first.</param>
    /// <param name="destination">Receives them, and is filled.</param>
    /// <exception cref="MacOnnxException">They cannot be read, or the file was changed since it was opened
    /// (MAC0402).</exception>
    public void Read(long offset, Span<byte> destination)
    {
        try
        {
            while (destination.Length > 0)
            {
                var count = RandomAccess.Read(_handle, destination, offset);
                destination = count > 0 ? destination[count..] : throw new EndOfStreamException();
                offset += count;
            }

            if (RandomAccess.GetLength(_handle) != Length || File.GetLastWriteTimeUtc(_handle) != _written)
            {
                throw new IOException("it was changed while it was in use");
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new MacOnnxException(
                "MAC0402",
                Path,
                $"The file cannot be read: {InputFile.Reason(e)}.",
                "Leave the file as it is until the command ends.",
                e
            );
        }
    }
}
