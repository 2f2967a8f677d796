using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Bindings;

namespace MacOnnx.Runtime.Tests;

/// <summary>What the documentation says of the code, where a test can read both.</summary>
public sealed partial class DocumentationTests
{
    private const int Width = 120;

    public static TheoryData<string> Documents =>
        [
            .. new[] { "", "docs", "docs/decisions", "models", "benchmarks" }.SelectMany(folder =>
                Directory
                    .EnumerateFiles(Path.Combine(Repository.Root, folder), "*.md")
                    .Select(f => Path.GetRelativePath(Repository.Root, f).Replace('\\', '/'))
            ),
        ];

    /// <summary>
    /// The examples of CONTRIBUTING.md are compiled with the tests: each file is the example, with its usings and
    /// namespace.
    /// </summary>
    [Theory]
    [InlineData("AdaGradRule")]
    [InlineData("AdaGradUpdate")]
    [InlineData("DiagonalBlock")]
    [InlineData("EmbeddingLayer")]
    [InlineData("Swirl")]
    public void ExampleStandsInContributing(string name)
    {
        var code = Read($"tests/Runtime.Tests/Examples/{name}.cs");
        var example = code[code.IndexOf("/// <summary>", StringComparison.Ordinal)..];
        Assert.Contains($"```csharp\n{example}```", Read("CONTRIBUTING.md"), StringComparison.Ordinal);
    }

    [Fact]
    public void ArchitectureNamesThePassesInOrder()
    {
        var rows = Row().Matches(Section("## Passes")).Select(m => m.Groups[1].Value);
        Assert.Equal(Pipeline.PassNames, rows);
    }

    [Fact]
    public void ArchitectureNamesTheFilesOfAPackage()
    {
        string[] files =
        [
            PackageFiles.Training,
            PackageFiles.Optimizer,
            PackageFiles.Curvature,
            PackageFiles.Accumulation,
            PackageFiles.Evaluation,
            PackageFiles.Forward,
            PackageFiles.FirstLayer,
            PackageFiles.Diagnostics,
            PackageFiles.Checkpoint,
            PackageFiles.Manifest,
        ];
        Assert.Equal(files, Row().Matches(Section("## A package")).Select(m => m.Groups[1].Value));
        Assert.All(files, f => Assert.Contains($"`{f}`", Read("docs/commands.md"), StringComparison.Ordinal));
    }

    /// <summary>Ir knows Diagnostics alone, Ops knows Ir and Diagnostics; protobuf stays at the edges.</summary>
    [Fact]
    public void NamespacesUseWhatArchitectureSays()
    {
        Assert.Empty(Uses("Ir").Except(["Diagnostics", "Ir"]));
        Assert.Empty(Uses("Ops").Except(["Diagnostics", "Ir", "Ops"]));
        string[] entry = ["Pipeline.cs", "RewriteContext.cs", "Rewriter.cs"];
        var root = Path.Combine(Repository.Root, "src", "GraphRewriter");
        var protobuf = Directory
            .EnumerateFiles(root, "*.cs", SearchOption.AllDirectories)
            .Where(f => Protobuf().IsMatch(File.ReadAllText(f)))
            .Select(f => Path.GetRelativePath(root, f).Replace('\\', '/'))
            .Where(f => !f.StartsWith("Import/", StringComparison.Ordinal))
            .Where(f => !f.StartsWith("Artifacts/", StringComparison.Ordinal))
            .Where(f => !f.StartsWith("Export/", StringComparison.Ordinal))
            .Order(StringComparer.Ordinal);
        Assert.Equal(entry, protobuf);
    }

    /// <summary>Lines of tables are as long as they must be.</summary>
    [Theory]
    [MemberData(nameof(Documents))]
    public void ProseFitsItsWidth(string file) =>
        Assert.All(Read(file).Split('\n').Where(l => !l.StartsWith('|')), l => Assert.InRange(l.Length, 0, Width));

    private static string Read(string file) =>
        File.ReadAllText(Path.Combine(Repository.Root, file)).ReplaceLineEndings("\n");

    private static string Section(string heading)
    {
        var text = Read("docs/architecture.md");
        var from = text.IndexOf($"{heading}\n", StringComparison.Ordinal);
        var to = text.IndexOf("\n## ", from, StringComparison.Ordinal);
        return text[from..to];
    }

    private static IEnumerable<string> Uses(string folder) =>
        Directory
            .EnumerateFiles(Path.Combine(Repository.Root, "src", "GraphRewriter", folder), "*.cs")
            .SelectMany(f => Namespace().Matches(File.ReadAllText(f)))
            .Select(m => m.Groups[1].Value)
            .Distinct();

    [GeneratedRegex(@"^\| `([^`]+)` \|", RegexOptions.Multiline)]
    private static partial Regex Row();

    [GeneratedRegex(@"MacOnnx\.GraphRewriter\.(\w+)")]
    private static partial Regex Namespace();

    [GeneratedRegex(@"Google\.Protobuf|Import\.Proto\b")]
    private static partial Regex Protobuf();
}
