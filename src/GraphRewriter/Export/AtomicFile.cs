using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Diagnostics;
using Microsoft.Win32.SafeHandles;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>Writes files that are either complete or not there.</summary>
public static partial class AtomicFile
{
    /// <summary>Writes a file: into a temporary file of the same folder, flushed to disk, then renamed over
    /// <paramref name="path"/>.
    /// The folder is made if missing. Whatever fails, a file that was at <paramref name="path"/> stays as it was and no
    /// temporary file stays.</summary>
    /// <param name="path">The file.</param>
    /// <param name="write">Writes the content; the stream can seek.</param>
    /// <exception cref="MacOnnxException">The disk is full, the folder cannot be made or written, or the like
    /// (MAC0401).
    /// Other exceptions of <paramref name="write"/> pass through.</exception>
    public static void Write(string path, Action<Stream> write)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ArgumentNullException.ThrowIfNull(write);
        var target = Path.GetFullPath(path);
        if (
            !OperatingSystem.IsWindows()
            && target.StartsWith("/dev/", StringComparison.Ordinal)
            && !target.StartsWith("/dev/shm/", StringComparison.Ordinal)
        )
        {
            throw new MacOnnxException(
                "MAC0401",
                path,
                "It is a device, which a file must not replace.",
                "Choose a file."
            );
        }

        var folder = Path.GetDirectoryName(target) ?? target;
        var temporary = Path.Combine(folder, $".{Guid.NewGuid():N}.tmp");
        try
        {
            Directory.CreateDirectory(folder);
            using (var stream = new FileStream(temporary, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None))
            {
                write(stream);
                FlushToDisk(stream);
            }

            File.Move(temporary, target, overwrite: true);
        }
        catch (Exception e)
        {
            Remove(temporary);
            if (Fault(path, e) is { } fault)
            {
                throw fault;
            }

            throw;
        }
    }

    /// <summary>
    /// Gives the error to report where an exception says that a file could not be written; null where it says something
    /// else.
    /// </summary>
    /// <param name="path">The file.</param>
    /// <param name="e">The exception. .NET reports a file that outgrows the file system's or the user's limit as an
    /// argument out of range.</param>
    public static MacOnnxException? Fault(string path, Exception e)
    {
        ArgumentNullException.ThrowIfNull(e);
        var fault = e is ArgumentOutOfRangeException { ParamName: "value" }
            ? new IOException(e.Message.Split(" (Parameter")[0], e)
            : e;
        return fault is IOException or UnauthorizedAccessException
            ? new MacOnnxException(
                "MAC0401",
                path,
                $"The file cannot be written: {InputFile.Reason(fault)}.",
                "Free space, correct the permissions or choose another place.",
                fault
            )
            : null;
    }

    /// <summary>Removes a file; does nothing where there is none.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="MacOnnxException">The file cannot be removed (MAC0401).</exception>
    public static void Delete(string path)
    {
        try
        {
            if (File.Exists(path))
            {
                File.Delete(path);
            }
        }
        catch (Exception e) when (Fault(path, e) is { } fault)
        {
            throw fault;
        }
    }

    /// <summary>Removes the temporary files that killed processes left in a folder.</summary>
    /// <remarks>A file that is still being written stays: its writer has it open for itself alone.</remarks>
    /// <param name="folder">The folder; it need not be there.</param>
    public static void RemoveAbandoned(string folder)
    {
        var files = Directory.Exists(folder) ? Directory.EnumerateFiles(folder, ".*.tmp") : [];
        foreach (var file in files.Where(f => Guid.TryParseExact(Path.GetFileNameWithoutExtension(f)[1..], "N", out _)))
        {
            try
            {
                using (new FileStream(file, FileMode.Open, FileAccess.Read, FileShare.None))
                {
                    // Nobody else has it.
                }

                File.Delete(file);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // It is in use, or not ours to remove.
            }
        }
    }

    /// <summary>Flushes to disk and reports where that fails, as a disk may that only then finds itself full.</summary>
    /// <remarks>On Linux <see cref="FileStream.Flush(bool)"/> fails silently.</remarks>
    private static void FlushToDisk(FileStream stream)
    {
        stream.Flush(flushToDisk: !OperatingSystem.IsLinux());
        if (OperatingSystem.IsLinux() && Synchronize(stream.SafeFileHandle) != 0)
        {
            // Some file systems cannot be told to: EINVAL, EROFS, EOPNOTSUPP.
            var error = Marshal.GetLastPInvokeError();
            if (error is not (22 or 30 or 95))
            {
                throw new IOException(Marshal.GetPInvokeErrorMessage(error));
            }
        }
    }

    [LibraryImport("libc", EntryPoint = "fsync", SetLastError = true)]
    private static partial int Synchronize(SafeFileHandle file);

    private static void Remove(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The first failure is the one to report; where writing failed, removing may fail too.
        }
    }
}
