using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>
/// Functions local to a model: the inlined model computes what ONNX Runtime computes with the functions.
/// </summary>
public sealed class FunctionTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void NestedFunctionsWithAttributesAreInlined()
    {
        var inner = Function(
            "Inner",
            ["a"],
            ["b"],
            ["alpha"],
            Onnx.Node("LeakyRelu", ["a"], ["b"], Reference("alpha", "alpha", AttributeProto.Types.AttributeType.Float))
        );
        var outer = Function(
            "Outer",
            ["x", "y"],
            ["z"],
            ["slope"],
            Onnx.Node(
                "local",
                "Inner",
                ["x"],
                ["t"],
                Reference("alpha", "slope", AttributeProto.Types.AttributeType.Float)
            ),
            Onnx.Node("local", "Inner", ["y"], ["u"], Float("alpha", 0.5)),
            Onnx.Node("Sub", ["t", "u"], ["z"])
        );
        Same(
            Model(
                [
                    Onnx.Node("local", "Outer", ["x", "y"], ["m"], Float("slope", 0.25)),
                    Onnx.Node("local", "Outer", ["m", "x"], ["out"], Float("slope", -2)),
                ],
                inner,
                outer
            )
        );
    }

    /// <summary>Without a value the function's default holds; without one of those, the operator's own.</summary>
    [Fact]
    public void AttributesHaveDefaults()
    {
        var function = Function(
            "F",
            ["a"],
            ["b"],
            ["axis"],
            Onnx.Node("LeakyRelu", ["a"], ["t"], Reference("alpha", "alpha", AttributeProto.Types.AttributeType.Float)),
            Onnx.Node("Softmax", ["t"], ["b"], Reference("axis", "axis", AttributeProto.Types.AttributeType.Int))
        );
        function.AttributeProto.Add(AttributeFormat.ToProto(Float("alpha", 0.75)));
        Same(
            Model(
                [
                    Onnx.Node("local", "F", ["x"], ["s"]),
                    Onnx.Node("local", "F", ["y"], ["t"], Int("axis", 0), Float("alpha", 3)),
                    Onnx.Node("Add", ["s", "t"], ["out"]),
                ],
                function
            )
        );
    }

    /// <summary>
    /// Calls within the branches of an If, branches within a function, and a name that both use for something of their
    /// own.
    /// </summary>
    [Fact]
    public void FunctionsAndBranchesNest()
    {
        var square = Function(
            "Square",
            ["a"],
            ["b"],
            [],
            Onnx.Node("Mul", ["a", "a"], ["t"]),
            Onnx.Node("Identity", ["t"], ["b"])
        );
        var choose = Function(
            "Choose",
            ["a", "b"],
            ["c"],
            [],
            Onnx.Node("ReduceMax", ["a"], ["t"], Int("keepdims", 0)),
            Onnx.Node("ReduceMax", ["b"], ["u"], Int("keepdims", 0)),
            Onnx.Node("Greater", ["t", "u"], ["larger"]),
            If("larger", "c", Branch("a"), Branch("b"))
        );
        Same(
            Model(
                [
                    Onnx.Node("ReduceSum", ["x"], ["t"], Int("keepdims", 0)),
                    Onnx.Node("Cast", ["t"], ["positive"], Int("to", (long)ElementType.Bool)),
                    If("positive", "m", Branch("x"), Branch("y")),
                    Onnx.Node("local", "Choose", ["m", "y"], ["n"]),
                    Onnx.Node("local", "Choose", ["y", "n"], ["out"]),
                ],
                square,
                choose
            )
        );

        static GraphProto Branch(string captured) =>
            Onnx.Graph(
                [Onnx.Node("local", "Square", [captured], ["t2"]), Onnx.Node("Neg", ["t2"], ["r"])],
                [],
                [Onnx.Info("r", ElementType.Float, 2, 3)]
            );
    }

    [Fact]
    public void OptionalInputsAndOutputsMayBeLeftOut()
    {
        var function = Function(
            "F",
            ["a", "low", "high"],
            ["b", "c"],
            [],
            Onnx.Node("Clip", ["a", "low", "high"], ["b"]),
            Onnx.Node("Neg", ["b"], ["c"])
        );
        Same(
            Model(
                [
                    Onnx.Node("local", "F", ["x", "", "zero"], ["", "n"]),
                    Onnx.Node("local", "F", ["n"], ["m", "unread"]),
                    Onnx.Node("Add", ["n", "m"], ["out"]),
                ],
                function
            )
        );
    }

    /// <summary>What would be large is counted, not made: refusing it takes less than the model itself.</summary>
    [Fact]
    public void InliningThatGrowsTooLargeIsRefusedFirst()
    {
        var large = Onnx.Node("Constant", [], ["b"], Float("value_float", 1));
        large.DocString = new string('x', 100_000);
        var wide = Onnx.Node("Sum", [.. Enumerable.Repeat("a", 10_000)], ["b"]);
        Refused("large constant", [Function("F", ["a"], ["b"], [], large)], 10_000);
        Refused("long names", [Function("F", ["a"], ["b"], [], wide)], 10, new string('n', 100_000));

        // 2^20 nodes by 20 functions.
        Refused(
            "doubling",
            [
                Function("F", ["a"], ["b"], [], Call("F1", "a", "m"), Call("F1", "m", "b")),
                .. Enumerable
                    .Range(1, 20)
                    .Select(i =>
                        Function($"F{i}", ["a"], ["b"], [], Call($"F{i + 1}", "a", "m"), Call($"F{i + 1}", "m", "b"))
                    ),
                Function("F21", ["a"], ["b"], [], Onnx.Node("Neg", ["a"], ["b"])),
            ],
            1
        );

        static NodeProto Call(string function, string from, string to) => Onnx.Node("local", function, [from], [to]);

        static void Refused(string what, FunctionProto[] functions, int calls, string name = "")
        {
            var call = Call("F", "x", "out");
            call.Name = name;
            var model = Model([.. Enumerable.Repeat(call, calls)], functions);
            var before = GC.GetAllocatedBytesForCurrentThread();
            var e = Assert.Throws<MacOnnxException>(() => FunctionInliner.Apply(model, "m.onnx"));
            Assert.Equal("MAC0006", e.Diagnostic.Id);
            Assert.Contains("500000 nodes or 512 MB", e.Message, StringComparison.Ordinal);
            var used = GC.GetAllocatedBytesForCurrentThread() - before;
            Assert.True(used < 10_000_000, $"{what}: {used} bytes");
        }
    }

    /// <summary>
    /// A chain that the graph calls from its end, so that every call is but one deeper than the last.
    /// </summary>
    [Fact]
    public void NestingIsBoundedInWhateverOrderFunctionsAreMet()
    {
        const int length = 5_000;
        FunctionProto[] functions =
        [
            Function("F0", ["a"], ["b"], [], Onnx.Node("Neg", ["a"], ["b"])),
            .. Enumerable
                .Range(1, length)
                .Select(i => Function($"F{i}", ["a"], ["b"], [], Onnx.Node("local", $"F{i - 1}", ["a"], ["b"]))),
        ];
        var calls = Enumerable.Range(0, length).Select(i => Onnx.Node("local", $"F{i}", ["x"], [$"o{i}"]));
        var e = Assert.Throws<MacOnnxException>(() => FunctionInliner.Apply(Model([.. calls], functions), "m.onnx"));
        Assert.Contains("64 deep", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void RecursionIsRefused(int cycle)
    {
        FunctionProto[] functions =
        [
            .. Enumerable
                .Range(0, cycle)
                .Select(i =>
                    Function($"F{i}", ["a"], ["b"], [], Onnx.Node("local", $"F{(i + 1) % cycle}", ["a"], ["b"]))
                ),
        ];
        var e = Assert.Throws<MacOnnxException>(() =>
            FunctionInliner.Apply(Model([Onnx.Node("local", "F0", ["x"], ["out"])], functions), "m.onnx")
        );
        Assert.Equal("MAC0006", e.Diagnostic.Id);
        Assert.Contains("call themselves", e.Message, StringComparison.Ordinal);
    }

    /// <summary>Each function calls the next ten times: a million nodes, were it inlined.</summary>
    [Fact]
    public void FunctionsThatGrowWithoutBoundAreRefused()
    {
        FunctionProto[] functions =
        [
            .. Enumerable
                .Range(0, 6)
                .Select(i =>
                    Function(
                        $"F{i}",
                        ["a"],
                        ["b"],
                        [],
                        [
                            .. Enumerable
                                .Range(0, 10)
                                .Select(k =>
                                    Onnx.Node(
                                        i < 5 ? "local" : "",
                                        i < 5 ? $"F{i + 1}" : "Neg",
                                        ["a"],
                                        [k == 0 ? "b" : $"b{k}"]
                                    )
                                ),
                        ]
                    )
                ),
        ];
        var e = Assert.Throws<MacOnnxException>(() =>
            FunctionInliner.Apply(Model([Onnx.Node("local", "F0", ["x"], ["out"])], functions), "m.onnx")
        );
        Assert.Contains("nodes", e.Message, StringComparison.Ordinal);
    }

    /// <summary>A weight and a batch normalization within a function train and are exported.</summary>
    [Fact]
    public void WhatIsInAFunctionTrainsAndIsExported()
    {
        var weight = Onnx.Floats(3, 2);
        var function = Function(
            "Layer",
            ["a", "scale", "bias", "mean", "var"],
            ["b"],
            [],
            Onnx.Node("Constant", [], ["w"], Attr.Tensor("value", weight)),
            Onnx.Node("MatMul", ["a", "w"], ["t"]),
            Onnx.Node(
                "BatchNormalization",
                ["t", "scale", "bias", "mean", "var"],
                ["b", "m", "v"],
                Int("training_mode", 1)
            )
        );
        function.OpsetImport[0].Version = 17;
        var model = Onnx.Model(
            Onnx.Graph(
                [Onnx.Node("local", "Layer", ["x", "scale", "bias", "mean", "var"], ["logits"])],
                [Onnx.Info("x", ElementType.Float, -1, 3)],
                [Onnx.Info("logits", ElementType.Float, -1, 2)],
                ("scale", Onnx.Floats(2)),
                ("bias", Onnx.Floats(2)),
                ("mean", Onnx.Floats(2)),
                ("var", Tensor.From<float>([2], [1, 2]))
            ),
            18,
            function
        );
        var package = Rewriter.Rewrite(_folder.File("m.onnx", model.ToByteArray())).Package;
        var name = Assert.Single(package.Weights.Keys, k => k.EndsWith("/w", StringComparison.Ordinal));
        Assert.Contains(name, package.Manifest.Trained);
        var weights = package.Weights.ToDictionary();
        weights[name] = Tensor.From<float>([3, 2], [1, 0, 0, 1, 0, 0]);
        package.ExportInferenceModel(_folder.File("t.onnx"), weights);
        var found = Onnx.Run(
                _folder.File("t.onnx"),
                new Dictionary<string, Tensor> { ["x"] = Tensor.From<float>([1, 3], [3, 4, 5]) }
            )["logits"]
            .Span<float>();
        for (var i = 0; i < 2; i++)
        {
            float P(string parameter) => weights[parameter].Span<float>()[i];
            Assert.Equal(((3 + i - P("mean")) / Math.Sqrt(P("var") + 1e-5) * P("scale")) + P("bias"), found[i], 1e-5);
        }
    }

    private static void Same(ModelProto model)
    {
        var original = model.ToByteArray();
        ModelReader.Normalize(model, "m.onnx");
        Assert.Empty(model.Functions);
        Assert.All(AllNodes(model.Graph), n => Assert.Equal("", n.Domain));
        var inputs = Onnx.Inputs(original);
        Onnx.Equal(Onnx.Run(original, inputs), Onnx.Run(model.ToByteArray(), inputs), 0);
    }

    private static IEnumerable<NodeProto> AllNodes(GraphProto graph) =>
        graph.Node.Concat(
            graph.Node.SelectMany(n => n.Attribute).SelectMany(OpsetUpgrade.Subgraphs).SelectMany(AllNodes)
        );

    private static ModelProto Model(NodeProto[] nodes, params FunctionProto[] functions) =>
        Onnx.Model(
            Onnx.Graph(
                nodes,
                [Onnx.Info("x", ElementType.Float, 2, 3), Onnx.Info("y", ElementType.Float, 2, 3)],
                [Onnx.Info("out", ElementType.Float, 2, 3)],
                ("zero", Tensor.From<float>([], [0]))
            ),
            21,
            functions
        );

    private static FunctionProto Function(
        string name,
        string[] inputs,
        string[] outputs,
        string[] attributes,
        params NodeProto[] nodes
    )
    {
        var function = new FunctionProto { Name = name, Domain = "local" };
        function.Input.AddRange(inputs);
        function.Output.AddRange(outputs);
        function.Attribute.AddRange(attributes);
        function.Node.AddRange(nodes);
        function.OpsetImport.AddRange([
            new OperatorSetIdProto { Domain = "", Version = 21 },
            new OperatorSetIdProto { Domain = "local", Version = 1 },
        ]);
        return function;
    }

    private static NodeProto If(string condition, string output, GraphProto then, GraphProto otherwise) =>
        Onnx.Node(
            "If",
            [condition],
            [output],
            Onnx.Subgraph("then_branch", then),
            Onnx.Subgraph("else_branch", otherwise)
        );

    private static Attr Reference(string name, string of, AttributeProto.Types.AttributeType type) =>
        new(
            name,
            new AttributeProto
            {
                Name = name,
                RefAttrName = of,
                Type = type,
            }
        );
}
