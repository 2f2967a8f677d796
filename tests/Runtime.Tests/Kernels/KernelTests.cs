using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Lowering;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Optimizer;
using MacOnnx.Runtime.Kernels;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Kernels;

/// <summary>
/// Each kernel gives what the function does that defines its operator in standard operators, run by ONNX Runtime.
/// </summary>
public sealed class KernelTests
{
    private delegate IEnumerable<Value> Emit(GraphBuilder b, Func<long[], Value> input);

    private static readonly Dictionary<string, Emit> Cases = new(StringComparer.Ordinal)
    {
        ["SquaredNorm"] = (b, input) => [GradientNorm.Append(b, [new(b, input([131, 517])), new(b, input([3]))])],
        ["SumLeading"] = (b, input) =>
            [
                Broadcasting.Undo(new(b, input([37, 5, 203])), Shape.Of(37, 5, 203), input([203])),
                Broadcasting.Undo(new(b, input([9, 5, 3])), Shape.Of(9, 5, 3), input([5, 3])),
            ],
        ["ReluGrad"] = (b, input) =>
            Gradient(b, "ReluGrad", [input([129, 301]), new Term(b, input([129, 301])).Relu()]),
        ["GeluGrad"] = (b, input) =>
            Gradient(b, "GeluGrad", [input([129, 301]), .. ValueAnd("Gelu", b, new Term(b, input([129, 301])) * 4.0)]),
        ["GeluGrad at zero"] = (b, input) =>
            Gradient(b, "GeluGrad", [input([3, 5]), .. ValueAnd("Gelu", b, new Term(b, input([3, 5])) * 0.0)]),
        ["SoftmaxGrad"] = (b, input) =>
            Gradient(
                b,
                "SoftmaxGrad",
                [input([7, 40, 61]), Shaped(b.Op("Softmax", [input([7, 40, 61])]), 7, 40, 61)],
                Int("axis", 2)
            ),
        ["SoftmaxGrad of one"] = (b, input) =>
            Gradient(b, "SoftmaxGrad", [input([5, 1]), Shaped(b.Op("Softmax", [input([5, 1])]), 5, 1)], Int("axis", 1)),
        ["LayerNormGrad"] = (b, input) => LayerNorm(b, input, 2, 33, 9, 67),
        ["LayerNormGrad over two axes"] = (b, input) => LayerNorm(b, input, 1, 50, 3, 5),
        ["Conv"] = (b, input) =>
            [
                Shaped(
                    b.Op("Conv", [input([3, 7, 19, 21]), input([9, 7, 3, 3])], Ints("pads", 1, 0, 1, 1)),
                    3,
                    9,
                    19,
                    20
                ),
            ],
        ["ConvWithBias"] = (b, input) => [b.Op("Conv", [input([3, 5, 40]), input([9, 5, 3]), input([9])])],
        ["ConvDataGrad"] = (b, input) =>
            Convolution(b, "ConvDataGrad", [input([2, 6, 9, 20]), input([6, 5, 3, 3]), input([2, 5, 17, 40])], 2, 1),
        ["ConvDataGrad, depthwise"] = (b, input) =>
            Convolution(b, "ConvDataGrad", [input([2, 6, 16, 32]), input([6, 1, 3, 3]), input([2, 6, 16, 32])], 1, 6),
        ["ConvWeightGrad"] = (b, input) =>
            Convolution(b, "ConvWeightGrad", [input([2, 6, 9, 20]), input([2, 5, 17, 40])], 2, 1),
        ["ConvWeightGrad, depthwise"] = (b, input) =>
            Convolution(b, "ConvWeightGrad", [input([2, 6, 16, 32]), input([2, 6, 16, 32])], 1, 6),
        ["BatchNorm"] = (b, input) => BatchNorm(b, input, hasRelu: false),
        ["BatchNormRelu"] = (b, input) => BatchNorm(b, input, hasRelu: true),
        ["BatchNormGrad"] = (b, input) => BatchNormGrad(b, input, isTraining: true, hasRelu: false),
        ["BatchNormGrad, frozen"] = (b, input) => BatchNormGrad(b, input, isTraining: false, hasRelu: false),
        ["BatchNormReluGrad"] = (b, input) => BatchNormGrad(b, input, isTraining: true, hasRelu: true),
        ["MaxPoolGrad tiles"] = (b, input) => MaxPool(b, input, [8, 6, 28, 28], [2, 2], [2, 2], [0, 0, 0, 0]),
        ["MaxPoolGrad with rest"] = (b, input) => MaxPool(b, input, [2, 3, 7, 9], [2, 2], [2, 2], [0, 0, 0, 0]),
        ["MaxPoolGrad overlapping, padded"] = (b, input) =>
            MaxPool(b, input, [2, 3, 9, 11], [3, 3], [2, 2], [1, 1, 1, 1]),
        ["MaxPoolGrad dilated"] = (b, input) =>
            MaxPool(b, input, [2, 3, 9, 11], [2, 3], [1, 2], [0, 1, 1, 0], Ints("dilations", 2, 1)),
        ["MaxPoolGrad, ceil"] = (b, input) =>
            MaxPool(b, input, [2, 3, 8, 10], [3, 3], [2, 2], [0, 0, 0, 0], Int("ceil_mode", 1)),
        ["MaxPoolGrad, one axis"] = (b, input) => MaxPool(b, input, [2, 3, 40], [3], [2], [1, 1]),
    };

    public static TheoryData<string> CaseNames => [.. Cases.Keys];

    public static TheoryData<string, RewriteOptions> Packages =>
        new()
        {
            {
                "digits-mlp",
                new() { Hyperparameters = Rates }
            },
            {
                "digits-cnn",
                new() { Hyperparameters = Rates, Nesterov = true }
            },
            {
                "digits-cnn",
                new()
                {
                    Hyperparameters = Rates,
                    WeightDecayMode = WeightDecayMode.Decoupled,
                    NoDecay = "^$",
                }
            },
            {
                "digits-cnn",
                new()
                {
                    Hyperparameters = Rates,
                    Optimizer = OptimizerKind.Sgd,
                    Nesterov = true,
                    WeightDecayMode = WeightDecayMode.Decoupled,
                }
            },
            {
                "digits-cnn",
                new() { Hyperparameters = Rates, Optimizer = OptimizerKind.AdamW }
            },
            {
                "digits-mlp",
                new()
                {
                    Hyperparameters = Rates,
                    Optimizer = OptimizerKind.AdamW,
                    WeightDecayMode = WeightDecayMode.Coupled,
                }
            },
            {
                "digits-cnn",
                new() { Hyperparameters = Rates, Optimizer = OptimizerKind.MacAdamW }
            },
            {
                "digits-mlp",
                new()
                {
                    Hyperparameters = Rates,
                    Optimizer = OptimizerKind.MacAdamW,
                    WeightDecayMode = WeightDecayMode.Coupled,
                    NoDecay = "^$",
                }
            },
            {
                "vit-fashion",
                new() { Hyperparameters = Rates with { Epsilon = 1e-3f }, Optimizer = OptimizerKind.MacAdamW }
            },
            {
                "chargpt",
                new() { Hyperparameters = Rates with { Epsilon = 1e-3f }, Optimizer = OptimizerKind.MacAdamW }
            },
            {
                "vit-fashion",
                new() { Hyperparameters = Rates }
            },
            {
                "chargpt",
                new() { Hyperparameters = Rates, Nesterov = true }
            },
        };

    private static Hyperparameters Rates =>
        new()
        {
            LearningRate = 0.01f,
            WeightDecay = 0.01f,
            StatEvery = 1,
            RefreshEvery = 2,
        };

    [Theory]
    [MemberData(nameof(CaseNames))]
    public void KernelGivesWhatItsFunctionGives(string name)
    {
        var graph = new Graph { Name = name };
        graph.Opsets[""] = OpsetUpgrade.Target;
        var inputs = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        var random = new Random(1);
        var outputs = Cases[name]
            (
                new GraphBuilder(graph),
                dims =>
                {
                    // Tenths: so that pools meet equal elements.
                    var input = new GraphBuilder(graph).Input(
                        $"input{inputs.Count}",
                        ElementType.Float,
                        Shape.Of(dims)
                    );
                    inputs[input.Name] = Tensor.From<float>(
                        dims,
                        [.. Enumerable.Range(0, (int)Tensor.CountOf(dims)).Select(_ => random.Next(-15, 15) / 10f)]
                    );
                    return input;
                }
            )
            .ToArray();
        graph.Outputs.AddRange(outputs);
        Lower.Apply(graph);
        var model = ModelWriter.ToBytes(graph);
        Assert.Contains(
            graph.Nodes,
            n => n.Domain == FunctionCall.Domain && name.StartsWith(n.OpType, StringComparison.Ordinal)
        );
        var expected = Run(model, inputs, useKernels: false);
        foreach (var (found, wanted) in Run(model, inputs, useKernels: true).Zip(expected))
        {
            // Both round every operation to float32, in sums of up to 7,500 terms in another order.
            Close(name, wanted, found, 2e-5f);
        }
    }

    [Theory]
    [MemberData(nameof(Packages))]
    public void PackageTrainsTheSameWithAndWithoutKernels(string model, RewriteOptions options)
    {
        var (package, _) = Rewriter.Rewrite(Path.Combine(Repository.Root, "models", $"{model}.onnx"), options);
        using var with = new MacTrainingSession(package);
        using var without = new MacTrainingSession(package, useKernels: false);
        var random = new Random(2);
        for (var step = 0; step < 3; step++)
        {
            var batch = Batch(package, random);
            // Two float32 computations of one loss.
            Assert.Equal(without.TrainStep(batch), with.TrainStep(batch), 1e-4f);
            Assert.True(with.OptimizerStep() && without.OptimizerStep());
        }

        var found = with.GetState();
        foreach (var (name, expected) in without.GetState())
        {
            // Three steps of two float32 computations; AdamW divides by the gradient's own size, so that an element
            // whose gradient is all rounding may move by the rate. Attention's keys have many: epsilon outweighs them.
            Close(
                name,
                expected.Span<float>(),
                found[name].Span<float>(),
                options.Methods.Update == UpdateKind.AdamW ? 2e-3f : 1e-4f
            );
        }
    }

    [Fact]
    public void KernelsTakeTensorsOfAnyRank()
    {
        var graph = new Graph { Name = "rank" };
        graph.Opsets[""] = OpsetUpgrade.Target;
        var b = new GraphBuilder(graph);
        long[] dims = [1, 1, 1, 1, 1, 1, 1, 1, 1, 2];
        graph.Outputs.Add(GradientNorm.Append(b, [new(b, b.Input("x", ElementType.Float, Shape.Of(dims)))]));
        var found = Run(
            ModelWriter.ToBytes(graph),
            new() { ["x"] = Tensor.From<float>(dims, [3, 4]) },
            useKernels: true
        );
        Assert.Equal(5f, Assert.Single(Assert.Single(found)));
    }

    /// <summary>Units may have activation means of their own, or none: then their gradient is left as it is.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void MacTakesEachUnitsOwnMeanInput(bool isOutputFirst)
    {
        const int In = 70,
            Units = 5;
        long[] vectorOfUnit = [0, -1, 1, 1, 0];
        long[] dims = isOutputFirst ? [Units, In] : [In, Units];
        var random = new Random(3);
        Tensor Numbers(params long[] sizes) =>
            Tensor.From<float>(
                sizes,
                [.. Enumerable.Range(0, (int)Tensor.CountOf(sizes)).Select(_ => random.NextSingle() - 0.5f)]
            );
        Tensor[] inputs =
        [
            Numbers(dims),
            Numbers(dims),
            Numbers(dims),
            Numbers(),
            Numbers(),
            Numbers(),
            Numbers(2, In),
            Numbers(2, 1),
            Numbers(Units),
            Numbers(Units),
            Numbers(Units),
        ];
        var graph = new Graph { Name = "mac" };
        graph.Opsets[""] = OpsetUpgrade.Target;
        var b = new GraphBuilder(graph);
        var values = inputs
            .Select((t, i) => b.Input($"input{i}", ElementType.Float, Shape.Of(t.Dims.AsSpan())))
            .ToArray();
        graph.Outputs.AddRange(
            b.Node(
                "MacMomentumUpdateWithBias",
                FunctionCall.Domain,
                values,
                4,
                Int("decays", true),
                Int("output_first", isOutputFirst),
                Ints("mean_of_unit", vectorOfUnit)
            ).Outputs
        );
        var found = Run(
            ModelWriter.ToBytes(graph),
            values.Zip(inputs).ToDictionary(p => p.First.Name, p => p.Second),
            useKernels: true
        );

        var data = inputs.Select(t => t.Span<float>().ToArray().Select(x => (double)x).ToArray()).ToArray();
        var (w, v, g, lr, mu, wd, p, scales) = (
            data[0],
            data[1],
            data[2],
            data[3][0],
            data[4][0],
            data[5][0],
            data[6],
            data[7]
        );
        for (var unit = 0; unit < Units; unit++)
        {
            int At(int i) => isOutputFirst ? (unit * In) + i : (i * Units) + unit;
            var vector = vectorOfUnit[unit];
            double Mean(int i) => vector < 0 ? 0 : p[(vector * In) + i];
            var c =
                vector < 0
                    ? 0
                    : scales[vector] * (Enumerable.Range(0, In).Sum(i => g[At(i)] * Mean(i)) + data[10][unit]);
            for (var i = 0; i < In; i++)
            {
                var next = (mu * v[At(i)]) + g[At(i)] + (wd * w[At(i)]) + (c * Mean(i));

                // float32 sums of 70 products.
                Assert.Equal(next, found[1][At(i)], 1e-5);
                Assert.Equal(w[At(i)] - (lr * next), found[0][At(i)], 1e-5);
            }

            Assert.Equal((mu * data[9][unit]) + data[10][unit] + c, found[3][unit], 1e-5);
        }
    }

    /// <summary>
    /// Graphs may come from anywhere: a kernel must not read past a tensor that is smaller than its operator allows.
    /// </summary>
    [Theory]
    [InlineData("ReluGrad", "4,4", "4,3")]
    [InlineData("SoftmaxGrad", "4,3", "4,4")]
    [InlineData("GeluGrad", "4,4", "4,4", "2")]
    [InlineData("LayerNormGrad", "4,4", "4,4", "4", "4,1", "3,1")]
    [InlineData("BatchNorm", "2,3,4", "3", "2", "3", "3")]
    [InlineData("BatchNormReluGrad", "2,3,4", "2,3,4", "3", "3", "3", "2,3,3")]
    [InlineData("BatchNormGrad", "3", "3", "3", "3", "3")]
    [InlineData("Conv", "1,3,4,4", "2,2,2,2")]
    [InlineData("Conv", "1,3,4,4", "2,3,2,1")]
    [InlineData("Conv", "1,3,1,4", "2,3,2,2")]
    [InlineData("Conv", "1,3,4", "2,3,2,2")]
    [InlineData("ConvWithBias", "1,3,4,4", "2,3,2,2", "1")]
    [InlineData("ConvDataGrad", "1,2,2,2", "3,2,2,2")]
    [InlineData("ConvDataGrad", "1,2,2,3", "2,2,2,2")]
    [InlineData("ConvWeightGrad", "1,2,2,2", "2,2,4,4")]
    [InlineData("ConvWeightGrad", "1,2,3,2", "1,2,4,4")]
    [InlineData("MaxPoolGrad", "1,1,2,2", "1,1,4,4", "1,1,2,1")]
    [InlineData("MaxPoolGrad", "1,2,2,2", "1,1,4,4", "1,2,2,2")]
    [InlineData("RnnForward", "2,3,4", "4,3", "3,4")]
    [InlineData("GruForward", "2,3,12", "12,4", "3,4", "3")]
    [InlineData("LstmForward", "2,3,8", "8,2", "3,2", "2,2")]
    [InlineData("LstmForwardMasked", "2,3,8", "8,2", "3,2", "3,2", "2,1")]
    [InlineData("LstmForward", "2,3,8", "16", "3,2", "3,2")]
    [InlineData("RnnBackward", "2,3,4", "3,4", "4,4", "3,4", "2,2,4")]
    [InlineData("GruBackward", "2,3,4", "3,4", "12,4", "3,4", "2,3,4", "2,3,4", "2,3,4")]
    [InlineData("MomentumUpdate", "4", "4", "3", "", "", "")]
    [InlineData("MomentumUpdate", "4", "4", "4", "", "0", "")]
    [InlineData("AdamWUpdate", "4", "4", "4", "5", "", "", "", "", "", "", "")]
    [InlineData("MacMomentumUpdate", "4,4", "4,4", "4,4", "", "", "", "1,3", "1,1")]
    [InlineData("MacAdamWUpdate", "4,4", "4,4", "4,4", "4,4", "", "", "", "", "", "", "", "1,3", "1,1")]
    [InlineData("MacAdamWUpdate", "4,4", "4,4", "4,3", "4,4", "", "", "", "", "", "", "", "1,4", "1,1")]
    [InlineData("MacMomentumUpdate", "4,4", "4,4", "4,4", "", "", "", "2,4", "1,1")]
    [InlineData("MacMomentumUpdateWithBias", "4,4", "4,4", "4,4", "", "", "", "1,4", "1,1", "3", "3", "3")]
    public void TensorsThatDoNotFitAreRefused(string opType, params string[] dims)
    {
        var graph = new Graph { Name = "misfit" };
        graph.Opsets[""] = OpsetUpgrade.Target;
        var b = new GraphBuilder(graph);
        var inputs = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        foreach (var text in dims)
        {
            long[] sizes = [.. text.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(long.Parse)];
            inputs[b.Input($"input{inputs.Count}", ElementType.Float, null).Name] = Tensor.From<float>(
                sizes,
                new float[Tensor.CountOf(sizes)]
            );
        }

        graph.Outputs.AddRange(
            b.Node(
                opType,
                FunctionCall.Domain,
                [.. graph.Inputs],
                FunctionSignatures.All[opType].Outputs.Length,
                Int("axis", 1),
                Int("decays", true),
                Int("bias_decays", true),
                Int("output_first", true),
                Ints("kernel_shape", 2, 2),
                Int("group", 1),
                Float("epsilon", 1e-5),
                Ints("size", 4, 4),
                Ints("strides", 2, 2),
                Ints("dilations", 1, 1),
                Ints("pads", 0, 0, 0, 0)
            ).Outputs
        );
        Assert.Throws<OnnxRuntimeException>(() => Run(ModelWriter.ToBytes(graph), inputs, useKernels: true));
    }

    /// <summary>
    /// Whatever attributes and shapes a graph gives a kernel, it computes something or says that it cannot; a read or
    /// write beyond a tensor would end this process sooner or later.
    /// </summary>
    [Fact]
    public void NoGraphCrashesAKernel()
    {
        const int CasesEach = 150;
        var (computed, refused) = (0, 0);
        foreach (var entry in KernelRegistry.Entries)
        {
            for (var seed = 0; seed < CasesEach; seed++)
            {
                try
                {
                    Fuzz(entry, new Random(seed));
                    computed++;
                }
                catch (OnnxRuntimeException)
                {
                    refused++;
                }
            }
        }

        // Both happen often, or the cases are too tame or too wild to tell anything.
        Assert.InRange(computed, CasesEach, (CasesEach * KernelRegistry.Entries.Count) - CasesEach);
        Assert.Equal(CasesEach * KernelRegistry.Entries.Count, computed + refused);
    }

    private static void Fuzz(KernelEntry entry, Random random)
    {
        long[] hostile = [-1, 0, int.MaxValue, int.MinValue, long.MaxValue, long.MinValue, 1L << 28, 1L << 33, 100];
        long Number(int from, int to) =>
            random.Next(30) == 0 ? hostile[random.Next(hostile.Length)] : random.Next(from, to);
        long[] Numbers(int from, int to, int count) =>
            [.. Enumerable.Range(0, random.Next(20) == 0 ? random.Next(5) : count).Select(_ => Number(from, to))];
        long[] Dims(int rank) =>
            [.. Enumerable.Range(0, rank).Select(_ => (long)random.Next(random.Next(9) == 0 ? 0 : 1, 6))];
        var spatial = random.Next(1, 3);
        var common = Dims(random.Next(4) == 0 ? random.Next(10) : 2 + spatial);
        var channels = common.Length > 1 ? common[1] : 1;
        var graph = new Graph { Name = "fuzz" };
        graph.Opsets[""] = OpsetUpgrade.Target;
        var b = new GraphBuilder(graph);
        var inputs = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        for (var i = 0; i < entry.Signature.Inputs.Length; i++)
        {
            var dims = random.Next(8) switch
            {
                0 => Dims(common.Length),
                1 or 2 => [channels],
                3 => [],
                4 when common.Length > 2 => [random.Next(1, 6), channels, .. common[2..].Select(_ => 1L)],
                _ => common,
            };
            inputs[b.Input($"input{i}", ElementType.Float, null).Name] = Tensor.From<float>(
                dims,
                [.. Enumerable.Range(0, (int)Tensor.CountOf(dims)).Select(_ => random.NextSingle() - 0.5f)]
            );
        }

        Attr[] attributes =
        [
            Int("axis", Number(-1, 5)),
            Int("axes", Number(0, 4)),
            Int("decays", Number(0, 2)),
            Int("output_first", Number(0, 2)),
            Int("training_mode", Number(0, 2)),
            Float("epsilon", random.Next(4) - 1),
            Int("group", random.Next(3) == 0 ? channels : Number(1, 3)),
            Ints("kernel_shape", Numbers(1, 3, spatial)),
            Ints("strides", Numbers(1, 3, spatial)),
            Ints("dilations", Numbers(1, 3, spatial)),
            Ints("pads", Numbers(0, 2, 2 * spatial)),
            Ints("size", Numbers(1, 6, spatial)),
        ];
        graph.Outputs.AddRange(
            b.Node(
                entry.Signature.Name,
                FunctionCall.Domain,
                [.. graph.Inputs],
                entry.Signature.Outputs.Length,
                [
                    .. attributes.Where(_ => random.Next(50) > 0),
                    .. random.Next(3) == 0 ? [Ints("mean_of_unit", Numbers(-1, 3, 4))] : Array.Empty<Attr>(),
                ]
            ).Outputs
        );
        Run(ModelWriter.ToBytes(graph), inputs, useKernels: true);
    }

    private static IEnumerable<Value> Gradient(GraphBuilder b, string opType, Value[] inputs, params Attr[] attributes)
    {
        var node = b.Node(opType, OpTable.GradientDomain, inputs, 1, attributes);
        node.Outputs[0].Shape = inputs[^1].Shape;
        return node.Outputs;
    }

    private static Value[] ValueAnd(string opType, GraphBuilder b, Value x)
    {
        x.Shape ??= x.Producer!.Inputs[0]!.Shape;
        return [x, Shaped(b.Op(opType, [x]), [.. x.KnownShape.Dims.Select(d => d.Size)])];
    }

    private static IEnumerable<Value> LayerNorm(GraphBuilder b, Func<long[], Value> input, int axis, params long[] dims)
    {
        var (dY, x, scale) = (input(dims), input(dims), input(dims[axis..]));
        var forward = b.Node("LayerNormalization", "", [x, scale], 3, Int("axis", axis));
        var node = b.Node(
            "LayerNormGrad",
            OpTable.GradientDomain,
            [dY, x, scale, forward.Outputs[1], forward.Outputs[2]],
            3,
            Int("axis", axis)
        );
        (node.Outputs[0].Shape, node.Outputs[1].Shape, node.Outputs[2].Shape) = (x.Shape, scale.Shape, scale.Shape);
        return node.Outputs;
    }

    private static IEnumerable<Value> BatchNorm(GraphBuilder b, Func<long[], Value> input, bool hasRelu)
    {
        var node = b.Node(
            "BatchNormalization",
            "",
            [input([5, 7, 9, 11]), input([7]), input([7]), input([7]), input([7])],
            3,
            Int("training_mode", 1),
            Float("momentum", 0)
        );
        Shaped(node.Outputs[0], 5, 7, 9, 11);
        return hasRelu ? [Shaped(b.Op("Relu", [node.Outputs[0]]), 5, 7, 9, 11), .. node.Outputs.Skip(1)] : node.Outputs;
    }

    private static IEnumerable<Value> BatchNormGrad(
        GraphBuilder b,
        Func<long[], Value> input,
        bool isTraining,
        bool hasRelu
    )
    {
        long[] dims = [5, 7, 9, 11];
        var (dY, variance) = (input(dims), new Term(b, input([7])));
        if (hasRelu)
        {
            dY = Shaped(b.Node("ReluGrad", OpTable.GradientDomain, [dY, input(dims)], 1).Outputs[0], dims);
        }

        var node = b.Node(
            "BatchNormGrad",
            OpTable.GradientDomain,
            [dY, input(dims), input([7]), input([7]), Shaped((variance * variance) + 0.1, 7)],
            3,
            Int("training_mode", isTraining)
        );
        Shaped(node.Outputs[0], dims);
        return node.Outputs;
    }

    private static IEnumerable<Value> Convolution(
        GraphBuilder b,
        string opType,
        Value[] inputs,
        int stride,
        int group
    ) =>
        b.Node(
            opType,
            OpTable.GradientDomain,
            inputs,
            1,
            Ints("kernel_shape", 3, 3),
            Ints("strides", stride, stride),
            Ints("pads", 1, 1, 1, 1),
            Int("group", group)
        ).Outputs;

    private static IEnumerable<Value> MaxPool(
        GraphBuilder b,
        Func<long[], Value> input,
        long[] dims,
        long[] kernel,
        long[] strides,
        long[] pads,
        params Attr[] others
    )
    {
        Attr[] attributes =
        [
            Ints("kernel_shape", kernel),
            Ints("strides", strides),
            Ints("pads", pads),
            .. others.Any(a => a.Name == "dilations")
                ? others
                : [Ints("dilations", [.. kernel.Select(_ => 1L)]), .. others],
        ];
        var x = input(dims);
        var y = b.Op("MaxPool", [x], attributes);
        var isCeil = others.Any(a => a.Name == "ceil_mode");
        var dilations = new Attributes(attributes).Ints("dilations")!;
        y.Shape = Shape.Of([
            dims[0],
            dims[1],
            .. kernel.Select(
                (k, i) =>
                    (
                        (
                            dims[2 + i]
                            + pads[i]
                            + pads[kernel.Length + i]
                            - ((k - 1) * dilations[i])
                            - 1
                            + (isCeil ? strides[i] - 1 : 0)
                        ) / strides[i]
                    ) + 1
            ),
        ]);
        var dY = input([.. y.Shape.Dims.Select(d => d.Size)]);
        var node = b.Node("MaxPoolGrad", OpTable.GradientDomain, [dY, x, y], 1, attributes);
        node.Outputs[0].Shape = x.Shape;
        return node.Outputs;
    }

    private static Value Shaped(Value value, params long[] dims)
    {
        value.Shape = Shape.Of(dims);
        return value;
    }

    private static float[][] Run(byte[] model, Dictionary<string, Tensor> inputs, bool useKernels)
    {
        using var options = new SessionOptions { LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL };
        if (useKernels)
        {
            KernelRegistry.AddTo(options);
        }

        using var session = new InferenceSession(model, options);
        using var run = new RunOptions();
        using var results = session.Run(
            run,
            [.. inputs.Keys],
            [.. inputs.Values.Select(OrtValues.Of)],
            [.. session.OutputNames]
        );
        return [.. results.Select(r => r.GetTensorDataAsSpan<float>().ToArray())];
    }

    private static OrtValue[] Batch(TrainingPackage package, Random random)
    {
        var manifest = package.Manifest;
        return
        [
            .. manifest
                .Inputs.Append(manifest.Target!)
                .Select(info =>
                {
                    long[] dims =
                    [
                        .. info.Dims.Select(
                            (d, axis) =>
                                d >= 0 ? d
                                : axis == 0 ? 6
                                : 12
                        ),
                    ];
                    var count = (int)Tensor.CountOf(dims);
                    return OrtValues.Of(
                        info.Type == ElementType.Int64
                            ? Tensor.From<long>(
                                dims,
                                [.. Enumerable.Range(0, count).Select(_ => random.NextInt64(manifest.Classes!.Value))]
                            )
                            : Tensor.From<float>(dims, [.. Enumerable.Range(0, count).Select(_ => random.NextSingle())])
                    );
                }),
        ];
    }

    private static void Close(string name, ReadOnlySpan<float> expected, ReadOnlySpan<float> found, float tolerance)
    {
        Assert.Equal(expected.Length, found.Length);
        var scale = 1e-6f;
        foreach (var value in expected)
        {
            scale = Math.Max(scale, Math.Abs(value));
        }

        for (var i = 0; i < expected.Length; i++)
        {
            Assert.True(
                Math.Abs(expected[i] - found[i]) <= tolerance * scale,
                $"{name}[{i}]: {found[i]} instead of {expected[i]} (of at most {scale})"
            );
        }
    }
}
