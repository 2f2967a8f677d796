using System.Globalization;
using System.Text.Json.Nodes;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.GraphRewriter.Tests.Export;

public sealed class ManifestTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>
    /// Whatever value of a manifest is null, missing or of another kind: it is read or one clear line.
    /// </summary>
    [Fact]
    public void AnyDamagedValueIsReadOrRefused()
    {
        Rewriter.Rewrite(Repository.Models("digits-mlp.onnx")).Package.Save(_folder.File("p.mac"));
        var path = _folder.File($"p.mac/{PackageFiles.Manifest}");
        var text = File.ReadAllText(path);
        var (refused, read) = (0, 0);
        foreach (var place in Places(JsonNode.Parse(text)!, []).ToArray())
        {
            foreach (var other in new[] { "null", "\"x\"", "[]", "{}", "-1", "1e300" })
            {
                var root = JsonNode.Parse(text)!;
                Set(root, place, JsonNode.Parse(other));
                File.WriteAllText(path, root.ToJsonString());
                try
                {
                    Manifest.Read(path);
                    read++;
                }
                catch (MacOnnxException e)
                {
                    Assert.StartsWith("MAC040", e.Diagnostic.Id, StringComparison.Ordinal);
                    refused++;
                }
            }
        }

        Assert.True(refused > read && read > 0, $"{refused} refused, {read} read");
    }

    /// <summary>Gives the paths of values, of the first two elements of an array.</summary>
    private static IEnumerable<string[]> Places(JsonNode node, string[] path)
    {
        var children = node switch
        {
            JsonObject o => o.Select(p => (p.Key, p.Value)),
            JsonArray a => a.Take(2).Select((v, i) => ($"{i}", v)),
            _ => [],
        };
        foreach (var (key, child) in children)
        {
            yield return [.. path, key];
            foreach (var inner in child is null ? [] : Places(child, [.. path, key]))
            {
                yield return inner;
            }
        }
    }

    private static void Set(JsonNode root, string[] path, JsonNode? value)
    {
        var at = root;
        foreach (var key in path[..^1])
        {
            at = at is JsonArray array ? array[int.Parse(key, CultureInfo.InvariantCulture)]! : at[key]!;
        }

        if (at is JsonArray list)
        {
            list[int.Parse(path[^1], CultureInfo.InvariantCulture)] = value;
        }
        else
        {
            at[path[^1]] = value;
        }
    }
}
