using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>Control flow that is decided when the model is rewritten goes, and the results stay.</summary>
public sealed class StaticControlFlowTests
{
    private static readonly string[] Gone = ["If", "Loop", "SequenceAt", "SequenceConstruct", "ConcatFromSequence"];

    private delegate Value Emit(GraphBuilder b, Term x);

    private static readonly Dictionary<string, Emit> Models = new(StringComparer.Ordinal)
    {
        ["if"] = (b, x) => Choose(b, b.Scalar(1, ElementType.Bool), x),
        ["if by shape"] = (b, x) =>
            Choose(b, Squeezed(b, b.Op("Equal", [x.Op("Shape", Int("start", 1)), b.Int64s(4)])), x),
        ["loop"] = (b, x) => Loop(b, b.Int64(3), x),
        ["loop by shape"] = (b, x) => Loop(b, x.Op("Shape", Int("start", 1)).Squeeze(0), x),
        ["split"] = (b, x) =>
            At(b, b.Op("SplitToSequence", [x], Int("axis", 1), Int("keepdims", 0)), -1)
            * At(b, Split(b, x), 1).Sum([1]),
        ["concat"] = (b, x) => b.Op("ConcatFromSequence", [Split(b, x)], Int("axis", 0), Int("new_axis", 1)),
        ["insert"] = (b, x) =>
        {
            var sequence = b.Op("SequenceInsert", [b.Op("SequenceEmpty", []), x.Exp()]);
            sequence = b.Op("SequenceInsert", [sequence, x, b.Int64(0)]);
            sequence = b.Op("SequenceErase", [b.Op("SequenceInsert", [sequence, x.Tanh()]), b.Int64(1)]);
            return b.Op("ConcatFromSequence", [b.Op("Identity", [sequence])], Int("axis", 1));
        },
    };

    public static TheoryData<string> Names => [.. Models.Keys];

    [Theory]
    [MemberData(nameof(Names))]
    public void ResultsStay(string name)
    {
        var (graph, before) = (Model(name), Run(Model(name)));
        do
        {
            ShapeInference.Apply(graph, "model");
        } while (StaticControlFlow.Apply(graph));

        Assert.DoesNotContain(graph.Nodes, n => Gone.Contains(n.OpType));
        Assert.Equal(before, Run(graph));
    }

    /// <summary>A Loop that only counts, however often, becomes a Scan, whose gradient is known.</summary>
    [Fact]
    public void LoopOfUnknownLengthBecomesScan()
    {
        Graph Counting()
        {
            var graph = new Graph { Name = "loop", Opsets = { [""] = 21 } };
            var b = new GraphBuilder(graph);
            var x = new Term(b, Declared(b, "x", ElementType.Float, 2, 4));
            graph.Outputs.Add(b.Named(Loop(b, Declared(b, "trips", ElementType.Int64), x), "y"));
            return graph;
        }

        var (graph, before) = (Counting(), Run(Counting(), 5));
        ShapeInference.Apply(graph, "model");
        Assert.True(StaticControlFlow.Apply(graph));
        Assert.Contains(graph.Nodes, n => n.Is("Scan"));
        Assert.Equal(before, Run(graph, 5));
    }

    private static Graph Model(string name)
    {
        var graph = new Graph { Name = name, Opsets = { [""] = 21 } };
        var b = new GraphBuilder(graph);
        var x = new Term(b, Declared(b, "x", ElementType.Float, 2, 4));
        graph.Outputs.Add(b.Named(Models[name](b, x), "y"));
        return graph;
    }

    private static Value Declared(GraphBuilder b, string name, ElementType type, params long[] dims)
    {
        var value = b.Input(name, type, Shape.Of(dims));
        value.Declared = new(type, [.. dims.Select(d => new DeclaredDim(d, null))]);
        return value;
    }

    private static Value Choose(GraphBuilder b, Value condition, Term x)
    {
        var branches = new (string Name, Func<Term, Term> Branch)[]
        {
            ("then_branch", t => t.Exp()),
            ("else_branch", t => t.Unsqueeze(0)),
        };
        var node = b.Node(
            "If",
            "",
            [condition],
            1,
            [.. branches.Select(p => Graph(p.Name, b.Body(p.Name, inner => [p.Branch(new Term(inner, x.V))])))]
        );
        node.Outputs[0].Type = ElementType.Float;
        return node.Outputs[0];
    }

    /// <summary>h' = tanh(h + x) so often; the states after each trip are added to the last one.</summary>
    private static Value Loop(GraphBuilder b, Value trips, Term x)
    {
        var body = b.Body(
            "body",
            inner =>
            {
                inner.Input("trip", ElementType.Int64, Shape.Scalar);
                var condition = inner.Input("condition", ElementType.Bool, Shape.Scalar);
                var h = new Term(inner, inner.Input("h", ElementType.Float, Shape.Of(2, 4)));
                var next = (h + new Term(inner, x)).Tanh();
                return [inner.Op("Identity", [condition]), next, next.Exp()];
            }
        );
        var node = b.Node("Loop", "", [trips, b.Scalar(1, ElementType.Bool), x], 2, Graph("body", body));
        (node.Outputs[0].Type, node.Outputs[1].Type) = (ElementType.Float, ElementType.Float);
        return new Term(b, node.Outputs[1]).Op("ReduceSum", b.Int64s(0), Int("keepdims", 0))
            + new Term(b, node.Outputs[0]);
    }

    private static Value Split(GraphBuilder b, Term x) => b.Op("SplitToSequence", [x, b.Int64(1)], Int("axis", 0));

    private static Term At(GraphBuilder b, Value sequence, long position) =>
        new(b, b.Op("SequenceAt", [sequence, b.Int64(position)]));

    private static Value Squeezed(GraphBuilder b, Value value) => new Term(b, value).Squeeze(0);

    private static float[] Run(Graph graph, long trips = 0)
    {
        using var options = new SessionOptions { LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL };
        using var session = new InferenceSession(ModelWriter.ToBytes(graph), options);
        using var run = new RunOptions();
        using var x = OrtValue.CreateTensorValueFromMemory(
            Enumerable.Range(0, 8).Select(i => (0.2f * i) - 0.7f).ToArray(),
            [2, 4]
        );
        using var count = OrtValue.CreateTensorValueFromMemory([trips], []);
        var given = new Dictionary<string, OrtValue>(StringComparer.Ordinal) { ["x"] = x, ["trips"] = count };
        using var results = session.Run(
            run,
            [.. session.InputNames],
            [.. session.InputNames.Select(n => given[n])],
            ["y"]
        );
        return results[0].GetTensorDataAsSpan<float>().ToArray();
    }
}
