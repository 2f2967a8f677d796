using System.Text.RegularExpressions;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>Rules about source files that the compiler does not check.</summary>
public sealed partial class SourceRulesTests
{
    private const int MaxWidth = 120;

    /// <summary>The rewriter's folders and those that each may use: only ones above it, hence no cycles.</summary>
    private static readonly (string Folder, string[] MayUse)[] Folders =
    [
        ("Diagnostics", []),
        ("Ir", ["Diagnostics"]),
        ("Ops", ["Diagnostics", "Ir"]),
        ("Autodiff", ["Diagnostics", "Ir", "Ops"]),
        ("Loss", ["Diagnostics", "Ir", "Ops"]),
        ("Lowering", ["Ir", "Ops"]),
        ("Import", ["Diagnostics", "Ir", "Ops"]),
        ("Bindings", ["Import", "Ir", "Ops"]),
        ("Export", ["Bindings", "Diagnostics", "Import", "Ir"]),
        ("Shapes", ["Diagnostics", "Export", "Ir", "Ops"]),
        ("Curvature", ["Autodiff", "Bindings", "Diagnostics", "Import", "Ir", "Ops", "Shapes"]),
        ("Optimizer", ["Bindings", "Curvature", "Diagnostics", "Import", "Ir", "Ops"]),
    ];

    /// <summary>Who may use protobuf messages: two folders, and the files that pass a model between them.</summary>
    private static readonly string[] ProtobufUsers =
    [
        "Export",
        "Import",
        "Pipeline.cs",
        "RewriteContext.cs",
        "Rewriter.cs",
    ];

    private static string Rewriter => Path.Combine(Repository.Root, "src", "GraphRewriter");

    [Fact]
    public void NoTwoFilesShareAName()
    {
        var shared = Sources(Repository.Root)
            .GroupBy(Path.GetFileName, StringComparer.OrdinalIgnoreCase)
            .Where(g => g.Count() > 1)
            .SelectMany(g => g.Select(Relative));
        Assert.Equal([], shared);
    }

    /// <summary>ReadmeTests.cs holds README.md's example, indented by 8 columns more than it is there.</summary>
    [Fact]
    public void LinesFitTheWidth()
    {
        var wide = Sources(Repository.Root)
            .Where(f => Path.GetFileName(f) != "ReadmeTests.cs")
            .SelectMany(f =>
                File.ReadLines(f)
                    .Index()
                    .Where(l => l.Item.Length > MaxWidth)
                    .Select(l => $"{Relative(f)}:{l.Index + 1}")
            );
        Assert.Equal([], wide);
    }

    [Fact]
    public void FoldersUseOnlyThoseAboveThem()
    {
        var above = new HashSet<string>();
        foreach (var (folder, mayUse) in Folders)
        {
            Assert.Empty(mayUse.Except(above));
            above.Add(folder);
        }

        var listed = Folders.ToDictionary(f => f.Folder, f => f.MayUse);
        var folders = Directory.GetDirectories(Rewriter).Select(Path.GetFileName).Except(["bin", "obj"]);
        Assert.Equal(listed.Keys.Order(StringComparer.Ordinal), folders.Order(StringComparer.Ordinal));
        var forbidden = listed.SelectMany(row =>
            Sources(Path.Combine(Rewriter, row.Key))
                .SelectMany(f =>
                    Namespace()
                        .Matches(File.ReadAllText(f))
                        .Select(m => m.Groups[1].Value)
                        .Where(used => listed.ContainsKey(used) && used != row.Key && !row.Value.Contains(used))
                        .Select(used => $"{Relative(f)} uses {used}")
                )
        );
        Assert.Equal([], forbidden.Distinct());
    }

    [Fact]
    public void ProtobufStaysInImportAndExport()
    {
        var others = Sources(Rewriter)
            .Where(f => File.ReadAllText(f).Contains("Import.Proto", StringComparison.Ordinal))
            .Where(f =>
                !ProtobufUsers.Contains(Path.GetRelativePath(Rewriter, f).Split(Path.DirectorySeparatorChar)[0])
            )
            .Select(Relative);
        Assert.Equal([], others);
    }

    /// <summary>The libraries' messages name properties; the command line turns those into its options.</summary>
    [Fact]
    public void LibrariesNameNoOptionOfTheCommandLine()
    {
        var named = new[] { "GraphRewriter", "Runtime" }
            .SelectMany(p => Sources(Path.Combine(Repository.Root, "src", p)))
            .SelectMany(f =>
                File.ReadLines(f)
                    .Index()
                    .Where(l =>
                        !l.Item.TrimStart().StartsWith("//", StringComparison.Ordinal) && Option().IsMatch(l.Item)
                    )
                    .Select(l => $"{Relative(f)}:{l.Index + 1}")
            );
        Assert.Equal([], named);
    }

    private static IEnumerable<string> Sources(string folder) =>
        Directory
            .EnumerateFiles(folder, "*.cs", SearchOption.AllDirectories)
            .Where(f => !Relative(f).Split('/').Any(p => p is "artifacts" or "bin" or "obj" || p.StartsWith('.')));

    private static string Relative(string path) => Path.GetRelativePath(Repository.Root, path).Replace('\\', '/');

    [GeneratedRegex(
        """
            ".*(?<![\w-])--[a-z]
            """
    )]
    private static partial Regex Option();

    /// <summary>Matches a namespace of the rewriter: in a using directive, or before the name of a type.</summary>
    [GeneratedRegex(@"(?:(?<![\w.])|MacOnnx\.GraphRewriter\.)([A-Z][A-Za-z]+)(?:;|\.[A-Z])")]
    private static partial Regex Namespace();
}
