using System.Diagnostics;
using System.IO.Compression;
using System.Xml.Linq;

namespace MacOnnx.Runtime.Tests;

/// <summary>The library is one package: rewriter and runtime, with what both depend on.</summary>
public class PackageTests
{
    [Fact]
    public async Task RewriterAndRuntimeAreOnePackage()
    {
        using var folder = new TempFolder();
        var output = folder.File("packages");
        var configuration = AppContext.BaseDirectory.Contains("release", StringComparison.Ordinal)
            ? "Release"
            : "Debug";
        var project = Path.Combine(Repository.Root, "src", "Runtime");
        string[] arguments = ["pack", project, "-c", configuration, "--no-build", "-o", output];
        using var pack = Process.Start(new ProcessStartInfo("dotnet", arguments) { RedirectStandardOutput = true })!;
        var said = await pack.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        await pack.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(pack.ExitCode == 0, said);

        using var package = ZipFile.OpenRead(Assert.Single(Directory.GetFiles(output, "MacOnnx.*.nupkg")));
        var files = package.Entries.Select(e => e.FullName).ToArray();
        foreach (var name in new[] { "MacOnnx.GraphRewriter", "MacOnnx.Runtime" })
        {
            Assert.Contains($"lib/net10.0/{name}.dll", files);
            Assert.Contains($"lib/net10.0/{name}.xml", files);
        }

        Assert.Contains("README.md", files);
        using var stream = package.Entries.Single(e => e.FullName.EndsWith(".nuspec", StringComparison.Ordinal)).Open();
        var needs = XDocument.Load(stream).Descendants().Where(e => e.Name.LocalName == "dependency");
        Assert.Equal(
            [
                "CsvHelper",
                "Google.FlatBuffers",
                "Google.Protobuf",
                "Microsoft.ML.OnnxRuntime",
                "Microsoft.ML.OnnxRuntime.Managed",
                "System.Numerics.Tensors",
            ],
            needs.Select(e => e.Attribute("id")!.Value).Order(StringComparer.Ordinal)
        );
    }
}
