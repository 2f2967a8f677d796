using Google.Protobuf;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>Models with If and Loop, and operators without a gradient or unknown altogether.</summary>
public sealed class SubgraphTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void OffTheGradientsWayTheyAreKept()
    {
        var package = Rewriter
            .Rewrite(
                Save([
                    .. Condition(),
                    If("x", "h"),
                    Loop("h", "k"),
                    Onnx.Node("Reshape", ["k", "fours"], ["r"]),
                    Onnx.Node("Gemm", ["r", "w", "b"], ["logits"]),
                ])
            )
            .Package;
        Assert.Equal(["w", "b"], package.Manifest.Trained);
        foreach (var graph in new[] { package.Model(PackageFiles.Training), package.Model(PackageFiles.Evaluation) })
        {
            var ops = ModelProto.Parser.ParseFrom(graph.Span).Graph.Node.Select(n => n.OpType).ToArray();
            Assert.Contains("If", ops);
            Assert.Contains("Loop", ops);
        }

        // The evaluation graph computes what the model does.
        var (model, inputs) = (_folder.File("m.onnx"), new Dictionary<string, Tensor> { ["x"] = Onnx.Floats(2, 4) });
        var expected = Onnx.Run(model, inputs)["logits"];
        var found = Onnx.Run(
            package.Model(PackageFiles.Evaluation).ToArray(),
            inputs.Concat(package.Weights).Append(new("labels", Onnx.Ints(0, 1))).ToDictionary()
        );
        Assert.Equal(expected.Data.ToArray(), found["logits"].Data.ToArray());
    }

    /// <summary>
    /// A branch has nowhere to keep running statistics, and a loop draws other masks when its gradient takes the steps
    /// again: both are refused with what to do. With frozen statistics the first trains.
    /// </summary>
    [Theory]
    [InlineData("BatchNormalization", "inside a branch or a loop uses the batch's statistics")]
    [InlineData("Dropout", "dropout draws anew at every step of a loop")]
    public void WhatASubgraphCannotKeepIsRefused(string op, string reason)
    {
        var isNorm = op == "BatchNormalization";
        var inner = isNorm
            ? Onnx.Node(op, ["g", "one", "one", "one", "one"], ["n", "m", "v"], Int("training_mode", 1))
            : Onnx.Node(op, ["h", "ratio", "training"], ["n"]);
        var body = Onnx.Graph(
            isNorm ? [inner] : [inner, Onnx.Node("Identity", ["n"], ["s"])],
            isNorm ? [] : [Onnx.Info("h", ElementType.Float, -1, 3), Onnx.Info("t", ElementType.Float)],
            isNorm
                ? [Onnx.Info("n", ElementType.Float, -1, 3)]
                : [Onnx.Info("n", ElementType.Float, -1, 3), Onnx.Info("s", ElementType.Float, -1, 3)]
        );
        var other = Onnx.Graph([Onnx.Node("Identity", ["g"], ["i"])], [], [Onnx.Info("i", ElementType.Float, -1, 3)]);
        NodeProto[] nodes =
        [
            .. Condition(),
            Onnx.Node("Gemm", ["x", "w", "b"], ["g"]),
            isNorm
                ? Onnx.Node(
                    "If",
                    ["positive"],
                    ["logits"],
                    Onnx.Subgraph("then_branch", body),
                    Onnx.Subgraph("else_branch", other)
                )
                : Onnx.Node(
                    "Scan",
                    ["g", "steps"],
                    ["logits", "all"],
                    Int("num_scan_inputs", 1),
                    Onnx.Subgraph("body", body)
                ),
        ];
        var path = Save(
            nodes,
            ("one", Tensor.From<float>([3], [1, 1, 1])),
            ("ratio", Tensor.From<float>([], [0.5f])),
            ("training", Tensor.From<bool>([], [true])),
            ("steps", Tensor.From<float>([2], [1, 2]))
        );
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path));
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
        if (isNorm)
        {
            var frozen = Rewriter.Rewrite(path, new RewriteOptions { BatchNorm = BatchNormMode.Frozen });
            Assert.Equal(["w", "b", "one"], frozen.Package.Manifest.Trained);
        }
    }

    /// <summary>Where the data decide a rank inside a branch, that value is named.</summary>
    [Fact]
    public void AnUnknownRankInABranchIsNamed()
    {
        var branch = Onnx.Graph(
            [
                Onnx.Node("Reshape", ["g", "dims"], ["r"]),
                Onnx.Node("ReduceMean", ["r", "one"], ["n"], Int("keepdims", 0)),
                Onnx.Node("Reshape", ["n", "threes"], ["t"]),
            ],
            [],
            [Onnx.Info("t", ElementType.Float, -1, 3)]
        );
        var other = Onnx.Graph([Onnx.Node("Identity", ["g"], ["i"])], [], [Onnx.Info("i", ElementType.Float, -1, 3)]);
        NodeProto[] nodes =
        [
            .. Condition(),
            Onnx.Node("Gemm", ["x", "w", "b"], ["g"]),
            Onnx.Node("NonZero", ["x"], ["places"]),
            Onnx.Node("Reshape", ["places", "all"], ["dims"]),
            Onnx.Node(
                "If",
                ["positive"],
                ["logits"],
                Onnx.Subgraph("then_branch", branch),
                Onnx.Subgraph("else_branch", other)
            ),
        ];
        var path = Save(nodes, ("one", Onnx.Ints(1)), ("all", Onnx.Ints(-1)));
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path));
        Assert.Equal("MAC0105", e.Diagnostic.Id);
        Assert.Contains("Reshape 'r", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void OnTheGradientsWayTheyAreNamedTogether()
    {
        var path = Save([
            .. Condition(),
            Onnx.Node("Gemm", ["x", "w", "b"], ["g"]),
            If("g", "h"),
            Loop("h", "k"),
            Onnx.Node("Reshape", ["k", "threes"], ["logits"]),
        ]);
        var report = Rewriter.Inspect(path);
        Assert.Equal(["Loop"], report.OperatorsWithoutGradient.Select(o => o.Operator));
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path));
        Assert.Equal(("MAC0101", path), (e.Diagnostic.Id, e.Diagnostic.Where));
        Assert.Contains("Loop (Loop_k: how often it runs", e.Message, StringComparison.Ordinal);
    }

    /// <summary>
    /// ONNX Runtime knows no rank of what a loop carries, and shows it like a scalar's: the gradient of a factor would
    /// be summed.
    /// </summary>
    [Fact]
    public void AnUnknownRankIsNoScalar()
    {
        var path = Save([
            Onnx.Node("Gemm", ["x", "w", "b"], ["g"]),
            Loop("x", "k"),
            Onnx.Node("Mul", ["g", "k"], ["m"]),
            Onnx.Node("Reshape", ["m", "threes"], ["logits"]),
        ]);
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path));
        Assert.Equal("MAC0105", e.Diagnostic.Id);
    }

    [Fact]
    public void OperatorsThatNobodyKnowsAreNamedTogether()
    {
        var path = Save([
            Onnx.Node("my.domain", "Foo", ["x"], ["f"]),
            Onnx.Node("Gemm", ["f", "w", "b"], ["g"]),
            Onnx.Node("Bar", ["g"], ["h"]),
            Onnx.Node("Bar", ["h"], ["logits"]),
        ]);
        foreach (var action in new Action[] { () => Rewriter.Inspect(path), () => Rewriter.Rewrite(path) })
        {
            var e = Assert.Throws<MacOnnxException>(action);
            Assert.Equal(("MAC0013", path), (e.Diagnostic.Id, e.Diagnostic.Where));
            Assert.Contains("my.domain::Foo (Foo_f), Bar (Bar_h, Bar_logits)", e.Message, StringComparison.Ordinal);
        }
    }

    private string Save(NodeProto[] nodes, params (string Name, Tensor Tensor)[] more)
    {
        var model = Onnx.Model(
            Onnx.Graph(
                nodes,
                [Onnx.Info("x", ElementType.Float, -1, 4)],
                [Onnx.Info("logits", ElementType.Float, -1, 3)],
                [
                    ("w", Onnx.Floats(4, 3)),
                    ("b", Onnx.Floats(3)),
                    ("zero", Tensor.From<float>([], [0])),
                    ("half", Tensor.From<float>([], [0.5f])),
                    ("threes", Onnx.Ints(-1, 3)),
                    ("fours", Onnx.Ints(-1, 4)),
                    ("three", Tensor.From<long>([], [3])),
                    ("yes", new Tensor(ElementType.Bool, [], new byte[] { 1 })),
                    .. more,
                ]
            )
        );
        return _folder.File("m.onnx", model.ToByteArray());
    }

    /// <summary>What decides at run time: the sum of the input is positive.</summary>
    private static NodeProto[] Condition() =>
        [
            Onnx.Node("ReduceSum", ["x"], ["sum"], Int("keepdims", 0)),
            Onnx.Node("Greater", ["sum", "zero"], ["positive"]),
        ];

    private static NodeProto If(string input, string output) =>
        Onnx.Node(
            "If",
            ["positive"],
            [output],
            Onnx.Subgraph("then_branch", Onnx.Graph([Onnx.Node("Mul", [input, "half"], ["then"])], [], [Info("then")])),
            Onnx.Subgraph("else_branch", Onnx.Graph([Onnx.Node("Sub", [input, "half"], ["else"])], [], [Info("else")]))
        );

    /// <summary>A loop that is not seen to count only: its condition is computed in the body.</summary>
    private static NodeProto Loop(string input, string output) =>
        Onnx.Node(
            "Loop",
            ["three", "yes", input],
            [output],
            Onnx.Subgraph(
                "body",
                Onnx.Graph(
                    [
                        Onnx.Node("Not", ["on"], ["off"]),
                        Onnx.Node("Not", ["off"], ["on_out"]),
                        Onnx.Node("Add", ["state", "half"], ["state_out"]),
                    ],
                    [Onnx.Info("i", ElementType.Int64), Onnx.Info("on", ElementType.Bool), Info("state")],
                    [Onnx.Info("on_out", ElementType.Bool), Info("state_out")]
                )
            )
        );

    private static ValueInfoProto Info(string name) =>
        new()
        {
            Name = name,
            Type = new TypeProto { TensorType = new() { ElemType = (int)ElementType.Float } },
        };
}
