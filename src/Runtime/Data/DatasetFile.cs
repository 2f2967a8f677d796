using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>Reads the arrays a model expects out of whatever kind of file or folder a path names.</summary>
internal static class DatasetFile
{
    /// <summary>Reads what is there of the wanted arrays.</summary>
    public static IReadOnlyDictionary<string, Tensor> Read(
        string path,
        IReadOnlyList<InputSpec> specs,
        DatasetSplit split
    )
    {
        if (Directory.Exists(path))
        {
            var files = Files(path);
            return ReadMnist(path, files, specs, split) ?? ReadFolder(path, files, specs);
        }

        switch (Path.GetExtension(path).ToUpperInvariant())
        {
            case ".NPZ":
                RequireAll(path, specs, NpzFile.Names(path));
                return NpzFile.Read(path, [.. specs.Select(s => s.Name)]);
            case ".CSV":
                return CsvFile.Read(path, specs);
            default:
                var what = File.Exists(path)
                    ? "This is not a supported kind of data."
                    : "There is no such file or folder.";
                throw new MacOnnxException(
                    "MAC0601",
                    path,
                    what,
                    "Give a .npz or .csv file, a folder of .npy files or of IDX files named as MNIST's, "
                        + "or, for a language model, a .txt, .npy or .bin file of tokens."
                );
        }
    }

    /// <summary>Checks that every array is there.</summary>
    /// <exception cref="MacOnnxException">Some are missing: one message with all of them (MAC0602).</exception>
    public static void RequireAll(string source, IReadOnlyList<InputSpec> specs, IEnumerable<string> found)
    {
        var names = found.ToHashSet(StringComparer.Ordinal);
        var missing = specs.Where(s => !names.Contains(s.Name)).Select(s => $"'{s.Name}' {s}").ToList();
        if (missing.Count > 0)
        {
            throw new MacOnnxException(
                "MAC0602",
                source,
                $"Missing arrays: {string.Join(", ", missing)}. Found: {List(names)}.",
                "Name the arrays like the model's inputs and its target."
            );
        }
    }

    private static string List(HashSet<string> names) =>
        names.Count == 0
            ? "none"
            : InputFile.OneLine(string.Join(", ", names.Order(StringComparer.Ordinal).Select(n => $"'{n}'")));

    /// <summary>
    /// Gives the paths of a folder's files by name. Arrays are found among these, so that no name of an array leads out
    /// of the folder.
    /// </summary>
    private static Dictionary<string, string> Files(string folder)
    {
        try
        {
            return Directory.EnumerateFiles(folder).ToDictionary(p => Path.GetFileName(p), StringComparer.Ordinal);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new MacOnnxException(
                "MAC0402",
                folder,
                "The folder cannot be listed.",
                "Check the path and the permissions.",
                e
            );
        }
    }

    private static Dictionary<string, Tensor>? ReadMnist(
        string folder,
        Dictionary<string, string> files,
        IReadOnlyList<InputSpec> specs,
        DatasetSplit split
    )
    {
        var prefix = split == DatasetSplit.Train ? "train" : "t10k";
        var images = Find($"{prefix}-images-idx3-ubyte", $"{prefix}-images.idx3-ubyte");
        var labels = Find($"{prefix}-labels-idx1-ubyte", $"{prefix}-labels.idx1-ubyte");
        if (images is null && labels is null)
        {
            return null;
        }

        if (images is null || (labels is null && specs.Count > 1) || specs.Count > 2)
        {
            throw new MacOnnxException(
                "MAC0602",
                folder,
                specs.Count > 2
                    ? "Images and labels are not all that the model expects."
                    : "Only one of the images and the labels is there.",
                $"The folder needs {prefix}-images-idx3-ubyte and {prefix}-labels-idx1-ubyte (or .gz) for "
                    + $"one input and the target."
            );
        }

        var arrays = new Dictionary<string, Tensor>(StringComparer.Ordinal)
        {
            [specs[0].Name] = ReadIdx(images, specs[0]),
        };
        if (specs.Count == 2)
        {
            arrays[specs[1].Name] = ReadIdx(labels!, specs[1]);
        }

        return arrays;

        string? Find(params string[] names) =>
            names
                .SelectMany(n => new[] { n, n + ".gz" })
                .Select(n => files.GetValueOrDefault(n))
                .FirstOrDefault(p => p is not null);
    }

    private static Dictionary<string, Tensor> ReadFolder(
        string folder,
        Dictionary<string, string> files,
        IReadOnlyList<InputSpec> specs
    )
    {
        string[] extensions = [".npy", ".idx", ".idx.gz"];
        RequireAll(
            folder,
            specs,
            from file in files.Keys
            from e in extensions
            where file.EndsWith(e, StringComparison.Ordinal)
            select file[..^e.Length]
        );
        return specs.ToDictionary(
            s => s.Name,
            s =>
                files.TryGetValue(s.Name + ".npy", out var npy)
                    ? NpyFile.Read(npy)
                    : ReadIdx(files.GetValueOrDefault(s.Name + ".idx") ?? files[s.Name + ".idx.gz"], s)
        );
    }

    private static Tensor ReadIdx(string path, InputSpec spec)
    {
        var tensor = IdxFile.Read(path);
        var isImage = tensor.Type == ElementType.UInt8 && tensor.Dims.Length > 1 && spec.Type.IsFloatingPoint();
        return isImage ? TensorFit.ScalePixels(tensor) : tensor;
    }
}
