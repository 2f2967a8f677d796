using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>The ids of diagnostics and the page that explains them.</summary>
public partial class DiagnosticsTests
{
    [Fact]
    public void ThePageExplainsEachIdOnce()
    {
        var explained = Row()
            .Matches(File.ReadAllText(Path.Combine(Repository.Root, "docs", "diagnostics.md")))
            .Select(m => m.Groups[1].Value)
            .ToArray();
        var used = Directory
            .EnumerateFiles(Path.Combine(Repository.Root, "src"), "*.cs", SearchOption.AllDirectories)
            .SelectMany(f => Id().Matches(File.ReadAllText(f)))
            .Select(m => m.Groups[1].Value)
            .Distinct()
            .Order(StringComparer.Ordinal);
        Assert.Equal(used, explained);
    }

    [Fact]
    public void AMessageIsOneLine() =>
        Assert.Equal("a b: c d [MAC0000]", new MacOnnxException("MAC0000", "a\nb", "c", "d").Message);

    [GeneratedRegex(@"^\| (MAC\d{4}) \| [^|]+ \| [^|]+ \|$", RegexOptions.Multiline)]
    private static partial Regex Row();

    [GeneratedRegex("\"(MAC\\d{4})\"")]
    private static partial Regex Id();
}
