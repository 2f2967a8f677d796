using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ops;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Tests.Import;

public sealed class GeluFusionTests
{
    private static readonly Dictionary<string, Func<Term, Term>> Spellings = new(StringComparer.Ordinal)
    {
        ["x * (1 + erf) * 0.5"] = x => x * (1 + (x / Math.Sqrt(2)).Op("Erf")) * 0.5,
        ["0.5 * x * (erf + 1)"] = x => 0.5 * x * ((x / Math.Sqrt(2)).Op("Erf") + 1),
        ["x * (0.5 * (erf + 1))"] = x => x * (0.5 * ((x * Math.Sqrt(0.5)).Op("Erf") + 1)),
        ["erf(0.7071 * x)"] = x => (1 + (0.70710678 * x).Op("Erf")) * x * 0.5,
    };

    private static readonly Dictionary<string, Func<Term, Term>> Others = new(StringComparer.Ordinal)
    {
        ["another factor"] = x => x * (1 + (x / Math.Sqrt(2)).Op("Erf")) * 0.6,
        ["another argument"] = x => x * (1 + (x / 2).Op("Erf")) * 0.5,
        ["another value"] = x => x.Relu() * (1 + (x / Math.Sqrt(2)).Op("Erf")) * 0.5,
        ["erf read twice"] = x => (x / Math.Sqrt(2)).Op("Erf") is var erf ? (x * (1 + erf) * 0.5) + erf : x,
    };

    public static TheoryData<string> Fused => [.. Spellings.Keys];

    public static TheoryData<string> Kept => [.. Others.Keys];

    [Theory]
    [MemberData(nameof(Fused))]
    public void Gelu_in_any_spelling_becomes_one_operator(string spelling)
    {
        var graph = GraphOf(Spellings[spelling]);
        var expected = Run(graph);
        GeluFusion.Apply(graph, v => v.Constant is not null);
        Assert.Equal(["Gelu"], graph.Nodes.Select(n => n.OpType));

        // Both round a handful of operations to float32.
        Assert.All(expected.Zip(Run(graph)), p => Assert.Equal(p.First, p.Second, 1e-6));
    }

    [Theory]
    [MemberData(nameof(Kept))]
    public void What_is_not_Gelu_stays(string spelling)
    {
        var graph = GraphOf(Others[spelling]);
        GeluFusion.Apply(graph, v => v.Constant is not null);
        Assert.DoesNotContain(graph.Nodes, n => n.OpType == "Gelu");
    }

    private static Graph GraphOf(Func<Term, Term> formula)
    {
        var graph = new Graph { Name = "gelu", Opsets = { [""] = OpsetUpgrade.Target } };
        var b = new GraphBuilder(graph);
        var x = b.Input("x", ElementType.Float, Shape.Of(4, 5));
        Value y = formula(new(b, x));
        y.Shape = x.Shape;
        graph.Outputs.Add(y);
        return graph;
    }

    private static float[] Run(Graph graph)
    {
        using var session = new InferenceSession(ModelWriter.ToBytes(graph));
        using var x = OrtValue.CreateTensorValueFromMemory(
            Enumerable.Range(-10, 20).Select(i => i / 3f).ToArray(),
            [4, 5]
        );
        using var run = new RunOptions();
        using var results = session.Run(run, ["x"], [x], [.. session.OutputNames]);
        return results[0].GetTensorDataAsSpan<float>().ToArray();
    }
}
