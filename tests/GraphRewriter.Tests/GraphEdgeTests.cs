using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Tests.Support;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>The edges of a graph, in its subgraphs too: uses, producers, captured values, order.</summary>
public sealed class GraphEdgeTests
{
    [Fact]
    public void ReplacingAValueReachesSubgraphsAndTheirSubgraphs()
    {
        var graph = Import(
            Onnx.Node("Neg", ["x"], ["old"]),
            Onnx.Node("Abs", ["x"], ["new"]),
            If(
                "y",
                [
                    If("inner", [Onnx.Node("Add", ["old", "x"], ["deep"])], "deep"),
                    Onnx.Node("Mul", ["old", "inner"], ["shallow"]),
                ],
                "shallow"
            )
        );
        var (old, replacement) = (Find(graph, "old"), Find(graph, "new"));
        var branch = Assert.Single(graph.Nodes, n => n.Is("If"));
        Assert.Contains(old, branch.Captured);

        // Two nodes in each of the two branches that Onnx.If makes alike, of which one branch lies twice deep.
        Assert.Equal(6, old.Uses.Count);
        old.ReplaceAllUses(replacement);
        Assert.Empty(old.Uses);
        Assert.Equal(6, replacement.Uses.Count);
        Assert.DoesNotContain(old, branch.Captured);
        Assert.Contains(replacement, branch.Captured);
        graph.Prune();
        Assert.Null(old.Producer);

        // ((|x| + x) |x|), for x = -2 and 3: the branches are alike, whatever decides.
        var found = Onnx.Run(
            ModelWriter.ToBytes(graph),
            new Dictionary<string, Tensor>
            {
                ["x"] = Tensor.From<float>([2], [-2, 3]),
                ["c"] = new Tensor(ElementType.Bool, [], new byte[] { 1 }),
            }
        );
        Assert.Equal([0, 18], found["y"].ToDouble());
    }

    [Fact]
    public void OutputsAreUses()
    {
        var graph = Import(Onnx.Node("Neg", ["x"], ["old"]), Onnx.Node("Abs", ["old"], ["y"]));
        var (y, old) = (Find(graph, "y"), Find(graph, "old"));
        Assert.Equal([graph], y.OutputOf);
        y.ReplaceAllUses(old);
        Assert.Equal([old], graph.Outputs);
        Assert.Empty(y.OutputOf);
        graph.Prune();
        Assert.Equal(["Neg"], graph.Nodes.Select(n => n.OpType));
        Assert.Empty(old.Uses);
    }

    [Fact]
    public void ARemovedIfReadsNothing()
    {
        var graph = Import(
            Onnx.Node("Neg", ["x"], ["old"]),
            If("unused", [Onnx.Node("Mul", ["old", "old"], ["b"])], "b"),
            Onnx.Node("Abs", ["x"], ["y"])
        );
        Assert.Equal(4, Find(graph, "old").Uses.Count);
        var old = Find(graph, "old");
        graph.Prune();
        Assert.Empty(old.Uses);
        Assert.Equal(["Abs"], graph.Nodes.Select(n => n.OpType));
    }

    [Fact]
    public void NodesArePutWhereTheyAreAskedFor()
    {
        var graph = new Graph { Name = "order" };
        var b = new GraphBuilder(graph);
        var x = b.Input("x", ElementType.Float, Shape.Of(1));
        var nodes = Enumerable.Range(0, 5).Select(i => b.Node($"Op{i}", "", [x], 1)).ToArray();
        Node Made(string op) => new(op, "", op, [x], [], [graph.AddValue(op)]);
        graph.InsertBefore(nodes[1], Made("A"), Made("B"));
        graph.Replace(nodes[3], Made("C"));
        graph.InsertBefore(nodes[1], Made("D"));
        graph.Remove(nodes[4]);
        Assert.Equal(["Op0", "A", "B", "D", "Op1", "Op2", "C"], graph.Nodes.Select(n => n.OpType));
        Assert.Equal([0, 4, 5], nodes[..3].Select(graph.Position));
        Assert.Equal(graph.Nodes, x.Uses.Select(u => u.Node).OrderBy(graph.Position));
        Assert.Throws<InvalidOperationException>(() => graph.InsertBefore(nodes[4], Made("E")));
        Assert.Throws<InvalidOperationException>(() => graph.Add(nodes[0]));
    }

    [Fact]
    public void AttributesOfUnknownKindsSurvive()
    {
        var node = Onnx.Node("my.domain", "Foo", ["x"], ["y"]);
        AttributeProto[] attributes =
        [
            new()
            {
                Name = "a",
                Type = AttributeProto.Types.AttributeType.String,
                S = ByteString.CopyFrom(0xff, 0xfe),
            },
            new()
            {
                Name = "b",
                Type = AttributeProto.Types.AttributeType.TypeProto,
                Tp = new() { Denotation = "IMAGE" },
            },
            new()
            {
                Name = "c",
                Type = AttributeProto.Types.AttributeType.Strings,
                Strings = { ByteString.CopyFromUtf8("s") },
            },
            new()
            {
                Name = "d",
                Type = AttributeProto.Types.AttributeType.Floats,
                Floats = { 1, 2 },
                DocString = "two",
            },
            new()
            {
                Name = "e",
                Type = AttributeProto.Types.AttributeType.Tensor,
                T = new() { DataType = (int)ElementType.String, StringData = { ByteString.CopyFromUtf8("t") } },
            },
            new()
            {
                Name = "f",
                Type = AttributeProto.Types.AttributeType.Graphs,
                Graphs = { Onnx.Graph([Onnx.Node("Neg", ["x"], ["n"])], [], []) },
            },
        ];
        node.Attribute.AddRange(attributes);
        var model = Onnx.Model(
            Onnx.Graph([node], [Onnx.Info("x", ElementType.Float, 2)], [Onnx.Info("y", ElementType.Float, 2)])
        );
        Assert.Equal(attributes, ModelWriter.ToProto(GraphImporter.Import(model, "m.onnx")).Graph.Node[0].Attribute);
    }

    /// <summary>The parser of files stops before that; models that functions were inlined into need not.</summary>
    [Fact]
    public void SubgraphsAreReadToABoundedDepth()
    {
        NodeProto Nested(int depth) =>
            depth == 0
                ? Onnx.Node("Neg", ["x"], ["v0"])
                : Onnx.Node(
                    "If",
                    ["c"],
                    [$"v{depth}"],
                    Onnx.Subgraph("then_branch", Onnx.Graph([Nested(depth - 1)], [], [Info($"v{depth - 1}")]))
                );
        Import(Nested(64), Onnx.Node("Neg", ["v64"], ["y"]));
        var e = Assert.Throws<MacOnnxException>(() => Import(Nested(65), Onnx.Node("Neg", ["v65"], ["y"])));
        Assert.Equal("MAC0014", e.Diagnostic.Id);
    }

    private static Value Find(Graph graph, string name) =>
        graph.Nodes.SelectMany(n => n.Outputs).Single(v => v.Name == name);

    private static Graph Import(params NodeProto[] nodes) =>
        GraphImporter.Import(
            Onnx.Model(
                Onnx.Graph(
                    nodes,
                    [Onnx.Info("x", ElementType.Float, 2), Onnx.Info("c", ElementType.Bool)],
                    [Onnx.Info("y", ElementType.Float, 2)]
                )
            ),
            "m.onnx"
        );

    /// <summary>An If whose branches are alike.</summary>
    private static NodeProto If(string output, NodeProto[] nodes, string result) =>
        Onnx.Node(
            "If",
            ["c"],
            [output],
            Onnx.Subgraph("then_branch", Onnx.Graph(nodes, [], [Info(result)])),
            Onnx.Subgraph("else_branch", Onnx.Graph(nodes, [], [Info(result)]))
        );

    private static ValueInfoProto Info(string name) => Onnx.Info(name, ElementType.Float, 2);
}
