using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>Models that hold their training algorithm: ONNX's reader of it takes the steps of a session.</summary>
public sealed class TrainingInfoTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>
    /// Seven steps, in which statistics and preconditioners are due in some. Both run the same float32 operators, but
    /// ONNX Runtime optimizes one large graph otherwise than three.
    /// </summary>
    [Theory]
    [InlineData("digits-mlp.onnx", OptimizerKind.Mac)]
    [InlineData("digits-mlp.onnx", OptimizerKind.MacAdamW)]
    [InlineData("digits-mlp.onnx", OptimizerKind.Sgd)]
    [InlineData("digits-mlp.onnx", OptimizerKind.Smac)]
    [InlineData("digits-mlp.onnx", OptimizerKind.Muon)]
    [InlineData("digits-cnn.onnx", OptimizerKind.Mac)]
    public void ItsStepsAreThoseOfThePackage(string name, OptimizerKind optimizer)
    {
        var (package, path) = Write(
            Repository.Models(name),
            new()
            {
                Optimizer = optimizer,
                Hyperparameters = new()
                {
                    LearningRate = 0.02f,
                    WeightDecay = 1e-3f,
                    StatEvery = 2,
                    RefreshEvery = 3,
                    MaxGradientNorm = 1,
                    Ema = 0.9f,
                },
            }
        );
        var step = OnnxTraining.ReadTrainingInfo(path);
        using var session = new MacTrainingSession(package, useKernels: false);
        using var runner = new InferenceSession(step.Model.ToArray());
        var state = step.State.ToDictionary();
        for (var n = 0; n < 7; n++)
        {
            var data = RandomBatch.Make(package.Manifest, (ulong)n);
            string[] names = [.. package.Manifest.Inputs.Select(i => i.Name), package.Manifest.Target!.Name];
            var loss = session.TrainStep([.. names.Select(i => OrtValues.Of(data[i]))]);
            session.OptimizerStep();
            var results = Run(runner, state.Concat(names.Select(i => KeyValuePair.Create(i, data[i]))));
            Assert.Equal(loss, results["loss"].Span<float>()[0], 1e-5);
            foreach (var (initializer, output) in step.Updates)
            {
                state[initializer] = results[output];
            }
        }

        Assert.Equal([7], state["step"].ToInt64());
        var expected = session.GetState();
        Assert.Equal(expected.Keys.Append("step").Order(), state.Keys.Order());
        foreach (var (tensor, value) in expected)
        {
            GeneratedArtifacts.Near(value, state[tensor], 1e-4, tensor);
        }
    }

    /// <summary>Where the statistics of a batch normalization are states, and where the graph was an
    /// artifact's.</summary>
    [Fact]
    public void ArtifactsAreWrittenToo()
    {
        var data = new GeneratedArtifacts("cnn_bn_ce_adamw");
        var (package, _) = Rewriter.Rewrite(TrainingArtifacts.ReadFolder(data.Folder), data.Keep);
        var path = _folder.File("m.onnx");
        package.SaveTrainingInfo(path);
        var step = OnnxTraining.ReadTrainingInfo(path);
        using var runner = new InferenceSession(step.Model.ToArray());
        var state = step.State.ToDictionary();
        for (var n = 0; n < 8; n++)
        {
            var batch = package.Manifest.Inputs.Zip(data.Batch(package, n));
            var results = Run(
                runner,
                state.Concat(batch.Select(b => KeyValuePair.Create(b.First.Name, OrtValues.ToTensor(b.Second))))
            );
            Assert.Equal(data.Losses[n], results["loss"].Span<float>()[0], 1e-4);
            foreach (var (initializer, output) in step.Updates)
            {
                state[initializer] = results[output];
            }
        }

        foreach (var parameter in data.Trainable)
        {
            GeneratedArtifacts.Near(data.Golden[$"step8/{parameter}"], state[parameter], 2e-5, parameter);
        }
    }

    /// <summary>What ONNX asks of the graph that inference and algorithm make together, and of the bindings.</summary>
    [Fact]
    public void TheFileIsAsOnnxAsks()
    {
        var (package, path) = Write(Repository.Models("digits-cnn.onnx"), new());
        var model = ModelReader.Read(path);
        Assert.Empty(model.Functions);
        var info = Assert.Single(model.TrainingInfo);
        var together = model.Graph.Clone();
        together.MergeFrom(info.Algorithm);
        Valid(together, model);
        Valid(model.Graph, model);
        Valid(info.Initialization, model);
        Assert.Empty(info.Initialization.Input);
        var outputs = info.Algorithm.Output.Select(o => o.Name).ToHashSet();
        var initializers = together.Initializer.ToDictionary(i => i.Name);
        Assert.All(info.UpdateBinding, b => Assert.True(initializers.ContainsKey(b.Key) && outputs.Contains(b.Value)));
        var starts = info.Initialization.Output.Select(o => o.Name).ToHashSet();
        Assert.All(
            info.InitializationBinding,
            b => Assert.True(initializers.ContainsKey(b.Key) && starts.Contains(b.Value))
        );
        Assert.Equal(
            package.Manifest.Buffers.Count(b => b.Role == BufferRole.State) + 1,
            info.InitializationBinding.Count
        );

        // The graph of the model itself predicts.
        using var session = new InferenceSession(path);
        Assert.Equal([.. package.Manifest.Outputs], session.OutputNames);
    }

    /// <summary>
    /// The checker of ONNX itself, on the file, on inference and algorithm together, and on the initialization.
    /// Versions before operator set 18 take the axes of reductions as attributes.
    /// </summary>
    [Fact]
    public void OnnxsCheckerAcceptsIt()
    {
        var (_, path) = Write(Repository.Models("digits-cnn.onnx"), new());
        Assert.SkipUnless(RunPython("import onnx, numpy") == 0, "No Python here has the package onnx.");
        Assert.Equal(
            0,
            RunPython(
                $$"""
                import onnx
                from onnx import numpy_helper

                def with_attributes(graph):
                    for node in graph.node:
                        for attribute in node.attribute:
                            if attribute.HasField("g"):
                                with_attributes(attribute.g)
                        if node.op_type in ("ReduceMean", "ReduceMax", "ReduceSumSquare") and len(node.input) == 2:
                            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
                            node.attribute.append(onnx.helper.make_attribute("axes", axes))
                            del node.input[1]

                model = onnx.load({{System.Text.Json.JsonSerializer.Serialize(path)}})
                onnx.checker.check_model(model, full_check=True)
                info = onnx.TrainingInfoProto()
                info.CopyFrom(model.training_info[0])
                model.graph.MergeFrom(info.algorithm)
                del model.training_info[:]
                constants = {tensor.name: tensor for tensor in model.graph.initializer}
                constants.update({n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"})
                if onnx.defs.onnx_opset_version() < 18:
                    with_attributes(model.graph)
                onnx.checker.check_model(model, full_check=True)
                model.graph.CopyFrom(info.initialization)
                onnx.checker.check_model(model, full_check=True)
                """
            )
        );
    }

    [Theory]
    [InlineData(OptimizerKind.Kfac, "inverts")]
    [InlineData(OptimizerKind.Foof, "inverts")]
    public void WhatNoGraphComputesIsRefused(OptimizerKind optimizer, string why)
    {
        var error = Assert.Throws<MacOnnxException>(() =>
            Write(Repository.Models("digits-mlp.onnx"), new() { Optimizer = optimizer })
        );
        Assert.Equal("MAC0809", error.Diagnostic.Id);
        Assert.Contains(why, error.Message, StringComparison.Ordinal);
    }

    private (TrainingPackage Package, string Path) Write(string model, RewriteOptions options)
    {
        var (package, _) = Rewriter.Rewrite(model, options);
        var path = _folder.File("model.onnx");
        package.SaveTrainingInfo(path);
        return (package, path);
    }

    /// <summary>Names are given once, before they are read, and domains are imported.</summary>
    private static void Valid(GraphProto graph, ModelProto model)
    {
        var known = graph.Initializer.Select(i => i.Name).ToList();
        known.AddRange(graph.Input.Select(i => i.Name).Except(known));
        Assert.Distinct(known);
        var names = known.ToHashSet();
        var domains = model.OpsetImport.Select(o => o.Domain).ToHashSet();
        foreach (var node in graph.Node)
        {
            Assert.All(node.Input, i => Assert.True(i.Length == 0 || names.Contains(i), $"{node.Name} reads {i}"));
            Assert.All(node.Output, o => Assert.True(o.Length == 0 || names.Add(o), $"{node.Name} gives {o}"));
            Assert.Contains(node.Domain, domains);
        }

        Assert.All(graph.Output, o => Assert.Contains(o.Name, names));
        Assert.Distinct(graph.Output.Select(o => o.Name));
    }

    private static Dictionary<string, Tensor> Run(
        InferenceSession session,
        IEnumerable<KeyValuePair<string, Tensor>> inputs
    )
    {
        using var options = new RunOptions();
        var given = inputs.ToDictionary(i => i.Key, i => OrtValues.Of(i.Value));
        using var results = session.Run(options, given, session.OutputNames);
        var tensors = session.OutputNames.Zip(results).ToDictionary(r => r.First, r => OrtValues.ToTensor(r.Second));
        Assert.All(given.Values, v => v.Dispose());
        return tensors;
    }

    /// <summary>Runs the Python that MACONNX_PYTHON names, else the system's.</summary>
    private static int RunPython(string code)
    {
        try
        {
            var python = Environment.GetEnvironmentVariable("MACONNX_PYTHON") ?? "/usr/bin/python3";
            using var process = System.Diagnostics.Process.Start(python, ["-c", code]);
            process.WaitForExit();
            return process.ExitCode;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return -1;
        }
    }
}
