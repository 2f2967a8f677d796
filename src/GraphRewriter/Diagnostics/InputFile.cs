namespace MacOnnx.GraphRewriter.Diagnostics;

/// <summary>
/// Reads files from outside. Readers throw <see cref="InvalidDataException"/> with a short reason; here it becomes a
/// diagnostic with the file's name.
/// </summary>
internal static class InputFile
{
    /// <summary>The most dimensions a tensor may have; NumPy's own bound is 64.</summary>
    public const int MaxRank = 64;

    /// <summary>Opens a file, reads it and turns every failure into one clear line.</summary>
    /// <param name="path">The file.</param>
    /// <param name="kind">What the file should be, for the message: "npy file".</param>
    /// <param name="read">The reader; may throw <see cref="InvalidDataException"/> or
    /// <see cref="EndOfStreamException"/>.</param>
    /// <exception cref="MacOnnxException">Not to be opened (MAC0402), or not what it should be (MAC0403).</exception>
    public static T Read<T>(string path, string kind, Func<FileStream, T> read)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        try
        {
            RequireContent(path);
            using var stream = new FileStream(
                path,
                FileMode.Open,
                FileAccess.Read,
                FileShare.Read,
                1 << 16,
                FileOptions.SequentialScan
            );
            return read(stream);
        }
        catch (Exception e) when (e is InvalidDataException or EndOfStreamException)
        {
            throw new MacOnnxException(
                "MAC0403",
                path,
                $"This is not a usable {kind}: {Reason(e)}.",
                "Make the file again, or name another one.",
                e
            );
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new MacOnnxException(
                "MAC0402",
                path,
                $"The file cannot be read: {Reason(e)}.",
                "Check the path and the permissions.",
                e
            );
        }
    }

    /// <summary>
    /// Refuses an empty file, and with it what is not a regular file but has no length either: opening a pipe may wait
    /// for ever,
    /// and a device may have no end.
    /// </summary>
    /// <exception cref="InvalidDataException">It is one.</exception>
    public static void RequireContent(string path)
    {
        var file = new FileInfo(path);
        var target = file.LinkTarget is null ? file : file.ResolveLinkTarget(returnFinalTarget: true);
        if (target is FileInfo { Exists: true, Length: 0 })
        {
            throw new InvalidDataException("it is empty, or not a regular file");
        }
    }

    /// <summary>Reads a whole file of at most 2 GB.</summary>
    public static byte[] ReadAll(string path) =>
        Read(path, "file", stream => ReadElements(stream, [stream.Length], 1, stream.Length));

    /// <summary>
    /// Gives the reason of a failure as the end of a sentence: one short line, without the final full stop.
    /// </summary>
    public static string Reason(Exception e) =>
        e is EndOfStreamException ? "it ends before its data do" : OneLine(e.Message).TrimEnd('.', ' ');

    /// <summary>Makes text that may quote a file fit for a terminal: no control characters, no megabytes.</summary>
    public static string OneLine(string text) =>
        string.Concat((text.Length > 300 ? text[..300] + "..." : text).Select(c => char.IsControl(c) ? ' ' : c));

    /// <summary>Gives the bytes that a tensor takes, having checked what a file declares.</summary>
    /// <param name="dims">The declared dimensions.</param>
    /// <param name="elementSize">Bytes an element.</param>
    /// <param name="available">The most bytes that the file can hold.</param>
    /// <exception cref="InvalidDataException">A dimension is negative, or the size is over <paramref name="available"/>
    /// or over 2 GB.</exception>
    public static int CheckedSize(ReadOnlySpan<long> dims, int elementSize, long available)
    {
        var shape = $"[{string.Join(',', dims.ToArray().Take(MaxRank))}]";
        if (dims.Length > MaxRank)
        {
            throw new InvalidDataException($"it declares {dims.Length} dimensions, more than {MaxRank}");
        }

        // A dimension of 0 must not hide a product of the others that overflows: later code multiplies parts of the
        // shape.
        UInt128 bound = 1;
        foreach (var dim in dims)
        {
            bound *=
                dim < 0 ? throw new InvalidDataException($"it declares the shape {shape}") : (ulong)Math.Max(dim, 1);
            if (bound > long.MaxValue / 16)
            {
                throw new InvalidDataException($"it declares the impossible shape {shape}");
            }
        }

        var size = dims.Contains(0) ? 0 : (long)bound * elementSize;
        return size > available
                ? throw new InvalidDataException(
                    $"the shape {shape} needs {size} bytes, but at most {available} are there"
                )
            : size > Array.MaxLength
                ? throw new InvalidDataException(
                    $"the array of shape {shape} is larger than 2 GB, which is not supported"
                )
            : (int)size;
    }

    /// <summary>Reads the elements of a tensor as the stream holds them.</summary>
    /// <inheritdoc cref="CheckedSize"/>
    /// <exception cref="EndOfStreamException">The stream ends too early.</exception>
    public static byte[] ReadElements(Stream stream, ReadOnlySpan<long> dims, int elementSize, long available)
    {
        var data = GC.AllocateUninitializedArray<byte>(CheckedSize(dims, elementSize, available));
        stream.ReadExactly(data);
        return data;
    }
}
