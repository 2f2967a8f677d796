using System.Globalization;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>The table against the list of ONNX's operators.</summary>
public sealed class OperatorTableTests
{
    /// <summary>
    /// Every operator that ONNX has had, of its own domains, and the operator set that introduced it:
    /// <c>onnx.defs.get_all_schemas_with_history()</c>, and ONNX's changelog for the sets that are newer.
    /// </summary>
    private static readonly (string Domain, string Name, long Since)[] Onnx =
    [
        .. File.ReadLines(Path.Combine(Repository.Root, "tests", "GraphRewriter.Tests", "onnx-operators.txt"))
            .Select(line => line.Split(' '))
            .Select(line =>
                (line[0] == "ai.onnx" ? "" : line[0], line[1], long.Parse(line[2], CultureInfo.InvariantCulture))
            ),
    ];

    [Fact]
    public void HasEveryOperatorOfOnnx() =>
        Assert.All(Onnx, o => Assert.Contains((o.Domain, o.Name), OpTable.All.Keys));

    /// <summary>ONNX Runtime's own SimplifiedLayerNormalization is in ONNX's domain.</summary>
    [Fact]
    public void HasNoOtherOperatorInOnnxDomains()
    {
        var known = Onnx.Select(o => (o.Domain, o.Name)).ToHashSet();
        var rows = OpTable.All.Keys.Where(k =>
            k.Domain.Length == 0 || k.Domain.StartsWith("ai.onnx.", StringComparison.Ordinal)
        );
        Assert.Equal([("", "SimplifiedLayerNormalization")], rows.Where(k => !known.Contains(k)));
    }

    [Fact]
    public void SaysWhichOperatorSetsHaveAnOperator() =>
        Assert.All(
            Onnx.Where(o => o.Domain.Length == 0),
            o => Assert.Equal(Math.Max(o.Since, OperatorSets.Oldest), OperatorSets.Of(o.Domain, o.Name).First)
        );
}
