using Google.Protobuf;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>Graphs that hold forward, backward and update: found, cut out, kept or replaced.</summary>
public sealed class WholeGraphTests
{
    private const string Ms = "com.microsoft";

    /// <summary>
    /// Artifacts of onnxruntime-training 1.19.2 with its optimizer put into the training graph train as they did apart.
    /// Tolerances are those of <see cref="GeneratedArtifactsTests"/>.
    /// </summary>
    [Theory]
    [InlineData("mlp_ce_adamw", "AdamWOptimizer")]
    [InlineData("mlp_ce_adamw", "AdamOptimizer")]
    [InlineData("l1", "AdamWOptimizer")]
    [InlineData("mlp_mse_sgd", "SGDOptimizerV2")]
    [InlineData("mlp_mse_sgd", "SGDOptimizer")]
    [InlineData("mlp_mse_sgd", "w - lr g")]
    [InlineData("mlp_mse_sgd", "w - g lr")]
    [InlineData("mlp_mse_sgd", "w + -lr g")]
    public void KeptUpdatesAreThoseOfTheArtifacts(string name, string update)
    {
        var data = new GeneratedArtifacts(name);
        var model = Whole(data, update);
        Assert.True(TrainingArtifacts.Read(model.ToByteArray()).HoldTraining);
        foreach (var rebuilds in new[] { false, true })
        {
            // The learning rate is the graph's own.
            var (package, report) = Rewriter.Rewrite(
                TrainingArtifacts.Read(model.ToByteArray()),
                new() { Optimizer = OptimizerKind.Keep, RebuildsBackward = rebuilds }
            );
            Assert.Equal(data.Trainable.Count(), package.Manifest.Trained.Length);
            Assert.Contains(report.Notes, n => n.StartsWith("The optimizer is kept", StringComparison.Ordinal));
            using var session = new MacTrainingSession(package);
            for (var step = 0; step < 8; step++)
            {
                Assert.Equal(data.Losses[step], session.TrainStep(data.Batch(package, step)), 1e-4);
                Assert.True(session.OptimizerStep());
            }

            foreach (var parameter in data.Trainable)
            {
                GeneratedArtifacts.Near(
                    data.Golden[$"step8/{parameter}"],
                    session.GetState()[parameter],
                    2e-5,
                    parameter
                );
            }
        }
    }

    [Theory]
    [InlineData("AdamWOptimizer")]
    [InlineData("LambOptimizer")]
    [InlineData("w - lr g")]
    public void TheUpdateIsReplacedByMac(string update)
    {
        var data = new GeneratedArtifacts("mlp_ce_adamw");
        var options = new RewriteOptions { Hyperparameters = new() { LearningRate = 0.02f } };
        var (whole, report) = Rewriter.Rewrite(TrainingArtifacts.Read(Whole(data, update).ToByteArray()), options);
        Assert.Contains(report.Parameters, p => p.Treatment == "MAC dense");
        var (apart, _) = Rewriter.Rewrite(TrainingArtifacts.ReadFolder(data.Folder), options);
        using var first = new MacTrainingSession(whole);
        using var second = new MacTrainingSession(apart);
        for (var step = 0; step < 3; step++)
        {
            var batch = data.Batch(whole, step);
            Assert.Equal(second.TrainStep(batch), first.TrainStep(batch));
            first.OptimizerStep();
            second.OptimizerStep();
        }
    }

    /// <summary>
    /// LAMB in double precision, from the formulas of its paper (arXiv 1904.00962, algorithm 2) with ONNX Runtime's
    /// bounds on the ratio; each parameter has numbers of its own. Float32 sums of twelve elements differ by 1e-6.
    /// </summary>
    [Theory]
    [InlineData(1, true, 0f, float.PositiveInfinity, 0f)]
    [InlineData(1, false, 0f, float.PositiveInfinity, 0f)]
    [InlineData(5, true, 0.5f, 1.5f, 0f)]
    [InlineData(0, true, 0f, 2f, 0f)]
    [InlineData(1, true, 0f, float.PositiveInfinity, 0.75f)]
    public void LambIsExact(int firstStep, bool corrects, float least, float largest, float clip)
    {
        const int size = 12;
        string[] names = ["a", "b", "zero"];
        float[] decays = [0.01f, 0f, 0.1f],
            betas = [0.9f, 0.8f, 0.9f],
            epsilons = [1e-6f, 1e-4f, 1e-6f];
        var random = new Random(3);
        float[] Numbers(double scale) =>
            [.. Enumerable.Range(0, size).Select(_ => (float)((random.NextDouble() - 0.5) * scale))];
        var (weights, firsts) = (
            names.ToDictionary(n => n, n => Numbers(n == "zero" ? 0 : 2)),
            names.ToDictionary(n => n, _ => Numbers(0.2))
        );
        var seconds = names.ToDictionary(n => n, _ => Numbers(0.2).Select(Math.Abs).ToArray());
        var model = Product(names, weights, size);
        var graph = model.Graph;
        List<string> inputs = ["", "", clip > 0 ? "norm" : "", "lr", "t"];
        foreach (var name in names)
        {
            inputs.AddRange([name, $"{name}_grad", $"{name}_m", $"{name}_v", ""]);
            Constant(graph, $"{name}_m", Tensor.From<float>([size], firsts[name]));
            Constant(graph, $"{name}_v", Tensor.From<float>([size], seconds[name]));
        }

        Constant(graph, "lr", Tensor.From<float>([], [0.05f]));
        Constant(graph, "t", Tensor.From<long>([], [firstStep]));
        if (clip > 0)
        {
            Add(graph, Ms, "ReduceAllL2", [.. names.Select(n => $"{n}_grad")], ["norm"]);
        }

        Add(
            graph,
            Ms,
            "LambOptimizer",
            [.. inputs],
            ["t_new", .. names.SelectMany(n => (string[])[$"{n}_new", "", $"{n}_m_new", $"{n}_v_new", ""])],
            Floats("alpha", betas),
            Floats("beta", [0.999f, 0.99f, 0.999f]),
            Floats("lambda", decays),
            Floats("epsilon", epsilons),
            Floats("max_norm_clip", [.. names.Select(_ => clip)]),
            Attr.Float("ratio_min", least),
            Attr.Float("ratio_max", largest),
            Attr.Int("do_bias_correction", corrects ? 1 : 0)
        );
        var (package, _) = Rewriter.Rewrite(
            TrainingArtifacts.Read(model.ToByteArray()),
            new() { Optimizer = OptimizerKind.Keep }
        );
        using var session = new MacTrainingSession(package);
        var w = names.ToDictionary(n => n, n => weights[n].Select(v => (double)v).ToArray());
        var m = names.ToDictionary(n => n, n => firsts[n].Select(v => (double)v).ToArray());
        var v = names.ToDictionary(n => n, n => seconds[n].Select(x => (double)x).ToArray());
        for (var t = firstStep; t < firstStep + 4; t++)
        {
            var gradients = names.ToDictionary(n => n, _ => Numbers(2));
            session.TrainStep([
                .. package.Manifest.Inputs.Select(i =>
                    OrtValues.Of(Tensor.From<float>([size], gradients[i.Name[2..]]))
                ),
            ]);
            session.OptimizerStep();
            var norm = Math.Sqrt(gradients.Values.Sum(g => g.Sum(e => (double)e * e)));
            var scale = clip > 0 && norm > clip ? clip / norm : 1;
            foreach (var (index, name) in names.Index())
            {
                double beta1 = betas[index],
                    beta2 = index == 1 ? 0.99f : 0.999f;
                double Correction(double beta) => corrects && t > 0 ? 1 - Math.Pow(beta, t) : 1;
                var direction = new double[size];
                for (var i = 0; i < size; i++)
                {
                    var g = gradients[name][i] * scale;
                    m[name][i] = (beta1 * m[name][i]) + ((1 - beta1) * g);
                    v[name][i] = (beta2 * v[name][i]) + ((1 - beta2) * g * g);
                    direction[i] =
                        (decays[index] * w[name][i])
                        + (
                            m[name][i]
                            / Correction(beta1)
                            / (Math.Sqrt(v[name][i] / Correction(beta2)) + epsilons[index])
                        );
                }

                double Norm(double[] x) => Math.Sqrt(x.Sum(e => e * e));
                var ratio =
                    Norm(w[name]) == 0 || Norm(direction) == 0
                        ? 1
                        : Math.Clamp(Norm(w[name]) / Norm(direction), least, largest);
                for (var i = 0; i < size; i++)
                {
                    w[name][i] -= 0.05f * ratio * direction[i];
                }

                var found = session.GetState()[name].ToDouble();
                Assert.All(w[name].Zip(found), p => Assert.Equal(p.First, p.Second, 2e-6));
            }
        }
    }

    /// <summary>Weights of half precision that the forward part reads are casts of the optimizer's, and gradients are
    /// divided by the loss scale.</summary>
    [Fact]
    public void MixedPrecisionBecomesCastsOfTheParameters()
    {
        const int size = 6;
        var weights = new Dictionary<string, float[]> { ["a"] = [.. Enumerable.Range(1, size).Select(i => i / 7f)] };
        var model = Product(["a"], weights, size, ElementType.Float16);
        Constant(model.Graph, "scale", Tensor.From<float>([], [128]));
        Constant(model.Graph, "lr", Tensor.From<float>([], [0.5f]));
        Constant(model.Graph, "t", Tensor.From<long>([], [1]));
        Constant(model.Graph, "m", Tensor.From<float>([size], new float[size]));
        Constant(model.Graph, "v", Tensor.From<float>([size], new float[size]));
        Add(
            model.Graph,
            Ms,
            "AdamOptimizer",
            ["lr", "t", "a", "a_grad", "m", "v", "a_half", "scale"],
            ["t_new", "m_new", "v_new", "a_new", "", "a_half_new"],
            Attr.Float("epsilon", 1)
        );
        var (package, _) = Rewriter.Rewrite(
            TrainingArtifacts.Read(model.ToByteArray()),
            new() { Optimizer = OptimizerKind.Keep }
        );
        Assert.Equal(["a"], package.Manifest.Trained);
        Assert.Equal(weights["a"], package.Weights["a"].Span<float>().ToArray());
        using var session = new MacTrainingSession(package);
        float[] gradient = [.. Enumerable.Range(0, size).Select(i => (i - 2) * 64f)];
        session.TrainStep([OrtValues.Of(Tensor.From<float>([size], gradient))]);
        var expected = gradient.Select(g => g / 128);
        Assert.Equal(expected, session.Gradient("a").Span<float>().ToArray());
        session.OptimizerStep();

        // In the first step both corrected moments are the gradient: w - lr g / (|g| + 1).
        var moved = weights["a"].Zip(gradient, (w, g) => w - (0.5f * (g / 128) / (MathF.Abs(g / 128) + 1)));
        Assert.All(
            moved.Zip(session.GetState()["a"].Span<float>().ToArray()),
            p => Assert.Equal(p.First, p.Second, 1e-6)
        );
    }

    [Theory]
    [InlineData("scale as an input", "MAC0804")]
    [InlineData("another norm", "MAC0802")]
    [InlineData("mode 2", "MAC0802")]
    [InlineData("no value", "MAC0804")]
    [InlineData("no loss", "MAC0804")]
    public void WhatCannotBeKeptIsRefused(string fault, string id)
    {
        var model = Product(["a"], new() { ["a"] = [1, 2] }, 2);
        var graph = model.Graph;
        string[] inputs = ["lr", "t", "a", "a_grad", "m", "v", "", "", ""];
        switch (fault)
        {
            case "scale as an input":
                graph.Input.Add(DeclarationFormat.ToProto("s", ElementType.Float, []));
                inputs[7] = "s";
                break;
            case "another norm":
                Constant(graph, "n", Tensor.From<float>([], [2]));
                inputs[8] = "n";
                break;
            case "no value":
                graph.Initializer.Clear();
                graph.Input.Add(DeclarationFormat.ToProto("a", ElementType.Float, [new(2, null)]));
                break;
            case "no loss":
                graph.Output.Clear();
                break;
        }

        Add(
            graph,
            Ms,
            "AdamOptimizer",
            inputs,
            ["t_new", "m_new", "v_new", "a_new"],
            Attr.Int("weight_decay_mode", fault == "mode 2" ? 2 : 0)
        );
        var error = Assert.Throws<MacOnnxException>(() =>
            Rewriter.Rewrite(TrainingArtifacts.Read(model.ToByteArray()), new() { Optimizer = OptimizerKind.Keep })
        );
        Assert.True(error.Diagnostic.Id == id, error.Message);
    }

    /// <summary>
    /// A weight whose gradient multiplies another value than the layer does is reported; its gradient is kept.
    /// </summary>
    [Theory]
    [InlineData("x", "shift", null)]
    [InlineData("x/flat", "shift", null)]
    [InlineData("other", "shift", "'w' is applied to 'x', but its gradient in the graph is a product with 'other'.")]
    [InlineData("x", "w", "is no product with a value of the forward part.")]
    public void LayersAreCheckedAgainstTheBackwardPart(string factor, string updated, string? note)
    {
        var model = new ModelProto
        {
            IrVersion = 8,
            Graph = new() { Name = "layer" },
        };
        model.OpsetImport.Add(new OperatorSetIdProto { Version = 17 });
        var graph = model.Graph;
        foreach (var (name, width) in new[] { ("x", 3), ("other", 3), ("target", 2) })
        {
            graph.Input.Add(DeclarationFormat.ToProto(name, ElementType.Float, [new(4, null), new(width, null)]));
        }

        Constant(graph, "w", Tensor.From<float>([3, 2], [1, 2, 3, 4, 5, 6]));
        Constant(graph, "lr", Tensor.From<float>([], [0.1f]));
        Constant(graph, "shape", Tensor.From<long>([2], [-1, 3]));
        Add(graph, "", "MatMul", ["x", "w"], ["y"]);
        Add(graph, "", "Sub", ["y", "target"], ["dy"]);
        Add(graph, "", "Mul", ["dy", "dy"], ["squares"]);
        Add(graph, "", "ReduceSum", ["squares"], ["loss"], Attr.Int("keepdims", 0));
        Add(graph, "", "Reshape", ["x", "shape"], ["x/flat"]);
        Add(graph, "", "Add", ["dy", "dy"], ["dy2"]);
        Add(graph, "", "Gemm", [factor, "dy2"], ["dw"], Attr.Int("transA", 1));
        Add(graph, "", "Mul", ["dw", "dw"], ["dw2"]);
        Add(graph, "", "Mul", [updated == "w" ? "dw2" : "dw", "lr"], ["change"]);
        Add(graph, "", "Sub", ["w", "change"], ["w_new"]);
        graph.Output.Add(DeclarationFormat.ToProto("loss", ElementType.Float, []));
        graph.Output.Add(new ValueInfoProto { Name = "w_new" });
        var (_, report) = Rewriter.Rewrite(TrainingArtifacts.Read(model.ToByteArray()));
        Assert.Contains(report.Parameters, p => p.Treatment == "MAC dense");
        var differences = report.Notes.Where(n => n.Contains("its gradient in the graph", StringComparison.Ordinal));
        Assert.Equal(note is null ? 0 : 1, differences.Count());
        Assert.All(differences, d => Assert.Contains(note!, d, StringComparison.Ordinal));
    }

    /// <summary>A forward model whose output is a difference is none.</summary>
    [Fact]
    public void ForwardModelsAreForwardModels()
    {
        var model = Product(["a"], new() { ["a"] = [1, 2] }, 2);
        model.Graph.Node.RemoveAt(model.Graph.Node.Count - 1);
        Assert.False(TrainingArtifacts.Read(model.ToByteArray()).HoldTraining);
    }

    /// <summary>Puts parameters and optimizer into the training graph of artifacts.</summary>
    private static ModelProto Whole(GeneratedArtifacts data, string update)
    {
        var model = ModelReader.Read(Path.Combine(data.Folder, TrainingArtifacts.TrainingFile));
        var graph = model.Graph;
        var checkpoint = OrtCheckpointFile.Read(Path.Combine(data.Folder, TrainingArtifacts.CheckpointFile));
        foreach (var (name, tensor) in checkpoint.Parameters)
        {
            graph.Input.Remove(graph.Input.First(i => i.Name == name));
            Constant(graph, name, tensor);
        }

        // Accumulators become what older graphs had, or go.
        foreach (var node in graph.Node.Where(n => n.OpType == "InPlaceAccumulatorV2").ToArray())
        {
            graph.Output.Remove(graph.Output.First(o => o.Name == node.Output[0]));
            graph.Input.Remove(graph.Input.First(i => i.Name == node.Input[0]));
            graph.Node.Remove(node);
            if (update == "SGDOptimizer")
            {
                var sum = $"{node.Input[1]}.sum";
                graph.Input.Add(new ValueInfoProto { Name = node.Input[0] });
                Add(graph, Ms, "InPlaceAccumulator", [node.Input[0], node.Input[1]], [sum]);
            }
        }

        graph.Input.Remove(graph.Input.First(i => i.Name == "lazy_reset_grad"));
        var (names, rate) = (checkpoint.Trainable.Keys.ToArray(), data.LearningRate);
        Constant(graph, "lr", Tensor.From<float>([], [update == "w + -lr g" ? -rate : rate]));
        Constant(graph, "t", Tensor.From<long>([], [1]));
        foreach (var name in names)
        {
            var zeros = Tensor.From<float>(
                checkpoint.Trainable[name].Dims.AsSpan(),
                new float[checkpoint.Trainable[name].ElementCount]
            );
            Constant(graph, $"{name}.m", zeros);
            Constant(graph, $"{name}.v", zeros);
        }

        string[] Each(string suffix) => [.. names.Select(n => n + suffix)];
        switch (update)
        {
            case "AdamWOptimizer" or "SGDOptimizerV2":
                var original = ModelReader.Read(Path.Combine(data.Folder, TrainingArtifacts.OptimizerFile)).Graph;
                var optimizer = original.Node.First(n => n.OpType == update).Clone();
                var clip = original.Node.FirstOrDefault(n => n.OpType == "InplaceClipGradNorm")?.Clone();
                Add(graph, "", "SequenceConstruct", names, ["params"]);
                Add(graph, "", "SequenceConstruct", Each("_grad"), ["gradients"]);
                Add(graph, "", "SequenceConstruct", Each(".m"), ["firsts"]);
                Add(graph, "", "SequenceConstruct", Each(".v"), ["seconds"]);
                if (clip is not null)
                {
                    clip.Input[0] = "gradients";
                    clip.Output[0] = "clipped";
                    graph.Node.Add(clip);
                }

                var g = clip is null ? "gradients" : "clipped";
                optimizer.Input.Clear();
                optimizer.Input.AddRange(
                    update == "AdamWOptimizer" ? ["lr", "t", "params", g, "firsts", "seconds"] : ["lr", "params", g]
                );
                graph.Node.Add(optimizer);
                graph.Output.AddRange(optimizer.Output.Select(o => new ValueInfoProto { Name = o }));
                break;
            case "AdamOptimizer":
                foreach (var n in names)
                {
                    Add(
                        graph,
                        Ms,
                        update,
                        ["lr", "t", n, $"{n}_grad", $"{n}.m", $"{n}.v"],
                        [$"{n}.t", $"{n}.m2", $"{n}.v2", $"{n}.new"],
                        Attr.Int("weight_decay_mode", 1),
                        Attr.Float("epsilon", 1e-6f)
                    );
                }

                break;
            case "SGDOptimizer":
                Array.ForEach(names, n => Add(graph, Ms, update, ["lr", n, $"{n}_grad.sum"], [$"{n}.new"]));
                break;
            case "LambOptimizer":
                Add(
                    graph,
                    Ms,
                    update,
                    [
                        "",
                        "",
                        "",
                        "lr",
                        "t",
                        .. names.SelectMany(n => (string[])[n, $"{n}_grad", $"{n}.m", $"{n}.v", ""]),
                    ],
                    ["t2", .. names.SelectMany(n => (string[])[$"{n}.new", "", $"{n}.m2", $"{n}.v2", ""])]
                );
                break;
            default:
                foreach (var n in names)
                {
                    Add(
                        graph,
                        "",
                        "Mul",
                        update == "w - g lr" ? [$"{n}_grad", "lr"] : ["lr", $"{n}_grad"],
                        [$"{n}.step"]
                    );
                    Add(graph, "", update == "w + -lr g" ? "Add" : "Sub", [n, $"{n}.step"], [$"{n}.new"]);
                }

                graph.Output.AddRange(Each(".new").Select(o => new ValueInfoProto { Name = o }));
                break;
        }

        return model;
    }

    /// <summary>Makes a graph whose loss is the sum of w x over all w, and whose gradients are the inputs x: both in a
    /// type of less precision where one is given.</summary>
    private static ModelProto Product(
        string[] names,
        Dictionary<string, float[]> weights,
        int size,
        ElementType type = ElementType.Float
    )
    {
        var model = new ModelProto
        {
            IrVersion = 8,
            Graph = new() { Name = "product" },
        };
        model.OpsetImport.Add(new OperatorSetIdProto { Version = 17 });
        model.OpsetImport.Add(new OperatorSetIdProto { Domain = Ms, Version = 1 });
        var graph = model.Graph;
        var terms = new List<string>();
        foreach (var name in names)
        {
            Constant(graph, name, Tensor.From<float>([size], weights[name]));
            graph.Input.Add(DeclarationFormat.ToProto($"x_{name}", ElementType.Float, [new(size, null)]));
            var (w, x) = (name, $"x_{name}");
            if (type == ElementType.Float16)
            {
                (w, x) = ($"{name}_half", $"{x}_half");
                Constant(graph, w, Tensor.From<float>([size], weights[name]).To(type));
                Add(graph, "", "Cast", [$"x_{name}"], [x], Attr.Int("to", (long)type));
            }

            Add(graph, "", "Mul", [w, x], [$"{name}_product"]);
            Add(graph, "", "ReduceSum", [$"{name}_product"], [$"{name}_sum"], Attr.Int("keepdims", 0));
            Add(graph, "", "Identity", [x], [$"{name}_grad"]);
            terms.Add($"{name}_sum");
        }

        Add(graph, "", "Sum", [.. terms], ["loss"]);
        graph.Output.Add(DeclarationFormat.ToProto("loss", type, []));
        return model;
    }

    private static void Constant(GraphProto graph, string name, Tensor tensor) =>
        graph.Initializer.Add(TensorFormat.ToProto(tensor, name));

    private static void Add(
        GraphProto graph,
        string domain,
        string opType,
        string[] inputs,
        string[] outputs,
        params Attr[] attributes
    )
    {
        var node = new NodeProto
        {
            OpType = opType,
            Domain = domain,
            Name = outputs[0],
        };
        node.Input.AddRange(inputs);
        node.Output.AddRange(outputs);
        node.Attribute.AddRange(attributes.Select(AttributeFormat.ToProto));
        graph.Node.Add(node);
    }

    private static Attr Floats(string name, float[] values) => Attr.Floats(name, values);
}
