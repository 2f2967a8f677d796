namespace MacOnnx.Tests;

/// <summary>Finds the repository's files, and the reference data beside it.</summary>
internal static class Repository
{
    public static string Root { get; } = Find();

    public static string Models(string file) => Path.Combine(Root, "models", file);

    /// <summary>
    /// Gives a model: of the repository, or "shared/..." beside it; skips the test where that is absent.
    /// </summary>
    public static string Model(string name)
    {
        if (!name.StartsWith("shared/", StringComparison.Ordinal))
        {
            return Models(name);
        }

        var path = Path.Combine(Root, "..", name);
        Assert.SkipUnless(File.Exists(path), $"The reference data {name} are not beside the repository.");
        return path;
    }

    /// <summary>Gives a folder of reference data beside the repository; skips the test where it is absent.</summary>
    public static string Shared(string name)
    {
        var path = Path.Combine(Root, "..", "shared", name);
        Assert.SkipUnless(Directory.Exists(path), $"The reference data shared/{name} are not beside the repository.");
        return path;
    }

    private static string Find()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "MacOnnx.sln")))
        {
            folder = Path.GetDirectoryName(folder)!;
        }

        return folder;
    }
}
