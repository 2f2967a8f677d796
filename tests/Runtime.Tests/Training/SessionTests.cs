using System.Text.Json.Nodes;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Tests.Support;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>What a session promises for models with awkward names, types and shapes, and between its calls.</summary>
public sealed class SessionTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>Names of parameters and outputs are the model's own: none of them may meet a buffer of ours.</summary>
    [Theory]
    [InlineData("h", "h_new")]
    [InlineData("epsilon", "damping")]
    [InlineData("damping", "epsilon")]
    [InlineData("beta1", "loss")]
    [InlineData("learning_rate", "gradient_norm")]
    [InlineData("w", "w_grad")]
    [InlineData("loss_count", "evaluation_loss")]
    [InlineData("update_statistics", "labels_0")]
    public void AnyNameTrainsAndEvaluates(string weight, string output)
    {
        var model = TinyModel.Dense(weight, output);
        foreach (var kind in Enum.GetValues<OptimizerKind>().Where(k => k != OptimizerKind.Keep))
        {
            var options = TinyModel.Options with { Optimizer = kind };
            using var session = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), options).Package);
            using var data = model.Batch(4);
            var before = session.GetState()[weight].ToDouble();
            Assert.True(float.IsFinite(session.EvalStep(data.Values).Loss));
            Assert.Equal(before, session.GetState()[weight].ToDouble());
            var first = session.TrainStep(data.Values);
            Assert.True(session.OptimizerStep());
            Assert.NotEqual(before, session.GetState()[weight].ToDouble());
            Assert.True(session.EvalStep(data.Values).Loss < first, $"{kind} does not lower the loss.");
        }
    }

    [Theory]
    [InlineData]
    [InlineData(1)]
    [InlineData(1, 1)]
    public void AnOutputOfOneNumberIsALoss(params int[] dims)
    {
        var model = TinyModel.OwnLoss([.. dims.Select(d => (long)d)]);
        var options = TinyModel.Options with { Loss = LossKind.Output };
        using var session = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), options).Package);
        using var data = model.Batch(3);
        var losses = Enumerable
            .Range(0, 5)
            .Select(_ =>
            {
                var loss = session.TrainStep(data.Values);
                session.OptimizerStep();
                return loss;
            })
            .ToArray();
        Assert.True(losses[^1] < losses[0]);
        Assert.Equal(session.TrainStep(data.Values), session.EvalStep(data.Values).Loss, 1e-6f);
    }

    /// <summary>Master weights are float: ten updates, each far below a float16 step of 0.001, still add up.</summary>
    [Fact]
    public void Float16WeightsTrainInFloat()
    {
        var model = TinyModel.Dense("w", "y", ElementType.Float16);
        var path = model.Save(_folder);
        var options = TinyModel.Options with
        {
            Hyperparameters = new() { LearningRate = 1e-5f, Momentum = 0 },
        };
        using var session = new MacTrainingSession(Rewriter.Rewrite(path, options).Package);
        using var data = model.Batch(4);
        var first = session.GetState()["w"];
        Assert.Equal(ElementType.Float, first.Type);
        for (var step = 0; step < 10; step++)
        {
            session.TrainStep(data.Values);
            Assert.True(session.OptimizerStep());
        }

        var moved = first.ToDouble().Zip(session.GetState()["w"].ToDouble(), (a, b) => Math.Abs(a - b)).Max();
        Assert.InRange(moved, 1e-6, 1e-3);
        session.ExportInferenceModel(_folder.File("trained.onnx"));
        using var exported = new InferenceSession(_folder.File("trained.onnx"));
        Assert.Equal(
            Microsoft.ML.OnnxRuntime.Tensors.TensorElementType.Float16,
            exported.InputMetadata["x"].ElementDataType
        );
    }

    /// <summary>The scale changes nothing but rounding, and falls where it makes numbers overflow.</summary>
    [Fact]
    public void LossScalesCancel()
    {
        var model = TinyModel.Dense("w", "y", ElementType.Float16);
        var path = model.Save(_folder);
        double[] Gradient(float scale)
        {
            var options = TinyModel.Options with { Hyperparameters = new() { LossScale = scale } };
            using var session = new MacTrainingSession(Rewriter.Rewrite(path, options).Package);
            using var data = model.Batch(4);
            session.TrainStep(data.Values);
            return session.Gradient("w").ToDouble();
        }

        // Float16 has 11 bits: 1e-3 of the largest gradient.
        var (one, many) = (Gradient(1), Gradient(1024));
        Assert.All(one.Zip(many), p => Assert.Equal(p.First, p.Second, 2e-3 * one.Max(Math.Abs)));

        var dynamic = TinyModel.Options with { Hyperparameters = new() { LearningRate = 0.01f } };
        using var session = new MacTrainingSession(Rewriter.Rewrite(path, dynamic).Package);
        using var large = model.Batch(4, scale: 200);
        var applied = Enumerable
            .Range(0, 16)
            .Count(_ =>
            {
                session.TrainStep(large.Values);
                return session.OptimizerStep();
            });
        Assert.InRange(applied, 1, 15);
    }

    [Fact]
    public void DoubleWeightsAreRefusedByName()
    {
        var path = TinyModel.Dense("layer.weight", "y", ElementType.Double).Save(_folder);
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path, TinyModel.Options));
        Assert.Equal(("MAC0103", "layer.weight"), (e.Diagnostic.Id, e.Diagnostic.Where));
    }

    /// <summary>A Gemm may add one number to all units, or one to each row: no bias of a layer.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(4, 1)]
    public void AGemmMayAddWhatIsNoBias(params int[] dims)
    {
        var model = TinyModel.Gemm([.. dims.Select(d => (long)d)]);
        using var session = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), TinyModel.Options).Package);
        using var data = model.Batch(4);
        var first = session.TrainStep(data.Values);
        Assert.True(session.OptimizerStep());
        Assert.True(session.TrainStep(data.Values) < first);
    }

    [Fact]
    public void TheFirstLayersInputMayBeDroppedOut()
    {
        var model = TinyModel.Dense("w", "y", dropout: true);
        var options = TinyModel.Options with { FirstLayer = FirstLayerMode.Full };
        using var session = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), options).Package);
        using var data = model.Batch(8);
        session.ComputeFirstLayer([(data.Values, 8)]);
        session.TrainStep(data.Values);
        Assert.True(session.OptimizerStep());

        // Inference mode: A is the second moment of what is fed.
        var x = data.X;
        double Moment(int i, int j) => Enumerable.Range(0, 8).Average(n => x[(n * 3) + i] * x[(n * 3) + j]);
        var found = session.GetState()["w.input_moment"].ToDouble();
        Assert.Equal(Moment(0, 1), found[1], 1e-6);
        Assert.Equal(Moment(2, 2), found[8], 1e-6);
    }

    [Fact]
    public void ALargestNormOfZeroClipsNothing()
    {
        var model = TinyModel.Dense("w", "y");
        var clips = TinyModel.Options with { Hyperparameters = new() { MaxGradientNorm = 1 } };
        using var session = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), clips).Package);
        using var plain = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), TinyModel.Options).Package);
        session.Hyperparameters = plain.Hyperparameters;
        using var data = model.Batch(4);
        foreach (var each in new[] { session, plain })
        {
            each.TrainStep(data.Values);
            each.OptimizerStep();
        }

        Assert.Equal(plain.GetState()["w"].ToDouble(), session.GetState()["w"].ToDouble());
    }

    /// <summary>Every batch is the same, so that the unbiased average is its mean, however the decay changes.</summary>
    [Fact]
    public void TheAverageStaysUnbiasedWhenTheDecayChanges()
    {
        var model = TinyModel.Dense("w", "y");
        using var session = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), TinyModel.Options).Package);
        using var data = model.Batch(4);
        foreach (var decay in new[] { 0.9f, 0.5f, 0.99f, 0 })
        {
            session.Hyperparameters = session.Hyperparameters with
            {
                StatDecay = decay,
                StatEvery = 1,
                RefreshEvery = 1,
            };
            session.TrainStep(data.Values);
            session.OptimizerStep();
            var expected = Enumerable.Range(0, 3).Select(i => Enumerable.Range(0, 4).Average(n => data.X[(n * 3) + i]));
            Assert.All(
                expected.Zip(session.GetState()["w.mac_p"].ToDouble()),
                p => Assert.Equal(p.First, p.Second, 1e-6)
            );
        }
    }

    /// <summary>A step's statistics are those that its train step was asked for.</summary>
    [Fact]
    public void AnIntervalThatChangesWithinAStepTakesEffectInTheNext()
    {
        var model = TinyModel.Dense("w", "y");
        using var session = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), TinyModel.Options).Package);
        using var data = model.Batch(4);
        session.Hyperparameters = session.Hyperparameters with { StatEvery = 7, RefreshEvery = 1 };
        for (var step = 0; step < 2; step++)
        {
            session.TrainStep(data.Values);
            session.OptimizerStep();
        }

        var before = session.GetState()["w.mac_running_mean"].ToDouble();
        session.TrainStep(data.Values);
        session.Hyperparameters = session.Hyperparameters with { StatEvery = 1 };
        session.OptimizerStep();
        Assert.Equal(before, session.GetState()["w.mac_running_mean"].ToDouble());
    }

    /// <summary>Two batches with different numbers of labels that count are their joined batch.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AccumulatedBatchesWeighWhatTheLossIsTheMeanOver(bool classWeights)
    {
        var model = TinyModel.Classifier();
        var options = new RewriteOptions { ClassWeights = classWeights ? [1, 3] : null };
        using var session = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), options).Package);
        using var all = model.Batch(8, labels: [0, -100, -100, -100, 1, 1, 0, 1]);
        using var first = model.Batch(4, labels: [0, -100, -100, -100]);
        using var second = model.Batch(4, labels: [1, 1, 0, 1], from: 4);
        session.TrainStep(all.Values, 8);
        var (expected, norm) = (session.Gradient("w").ToDouble(), session.GradientNorm);
        session.ResetGradients();
        session.TrainStep(first.Values, 4);
        session.TrainStep(second.Values, 4);

        // Two float32 means of a few numbers against one.
        Assert.All(expected.Zip(session.Gradient("w").ToDouble()), p => Assert.Equal(p.First, p.Second, 1e-6));
        Assert.Equal(norm, session.GradientNorm, 1e-5f);
    }

    [Fact]
    public void ACheckpointHoldsTheSeed()
    {
        var package = Rewriter.Rewrite(TinyModel.Dense("w", "y").Save(_folder), TinyModel.Options).Package;
        using var session = new MacTrainingSession(package) { Seed = ulong.MaxValue - 5 };
        session.SaveCheckpoint(_folder.File("a.safetensors"));
        using var other = new MacTrainingSession(package);
        other.LoadCheckpoint(_folder.File("a.safetensors"));
        Assert.Equal(ulong.MaxValue - 5, other.Seed);
    }

    [Fact]
    public void APackageIsCompleteAndUnchangedOrRefused()
    {
        var package = Rewriter.Rewrite(TinyModel.Dense("w", "y").Save(_folder), TinyModel.Options).Package;
        var folder = _folder.File("p.mac");
        package.Save(folder);
        Assert.Equal(package.Manifest.Trained, TrainingPackage.Load(folder).Manifest.Trained);
        foreach (var file in Directory.EnumerateFiles(folder).ToArray())
        {
            var bytes = File.ReadAllBytes(file);
            File.WriteAllBytes(file, [.. bytes[..^3], (byte)(bytes[^3] ^ 1), .. bytes[^2..]]);
            Assert.Throws<MacOnnxException>(() => TrainingPackage.Load(folder));
            File.Delete(file);
            Assert.Throws<MacOnnxException>(() => TrainingPackage.Load(folder));
            File.WriteAllBytes(file, bytes);
        }

        // A folder in a file's place makes saving fail half way: what is left is not a package.
        File.Delete(Path.Combine(folder, PackageFiles.Checkpoint));
        Directory.CreateDirectory(Path.Combine(folder, PackageFiles.Checkpoint));
        Assert.Equal("MAC0401", Assert.Throws<MacOnnxException>(() => package.Save(folder)).Diagnostic.Id);
        Assert.Equal("MAC0402", Assert.Throws<MacOnnxException>(() => TrainingPackage.Load(folder)).Diagnostic.Id);
    }

    /// <summary>Declared sizes are believed when a graph has them too: 1 GB would be allocated otherwise.</summary>
    [Fact]
    public void ABufferThatDoesNotFitItsGraphIsNotAllocated()
    {
        Rewriter.Rewrite(TinyModel.Dense("w", "y").Save(_folder), TinyModel.Options).Package.Save(_folder.File("p"));
        var path = _folder.File($"p/{PackageFiles.Manifest}");
        var text = File.ReadAllText(path);
        var buffers = JsonNode.Parse(text)!["buffers"]!.AsArray().Count;
        for (var i = 0; i < buffers; i++)
        {
            var manifest = JsonNode.Parse(text)!;
            manifest["buffers"]![i]!["dims"] = new JsonArray(1L << 28);
            File.WriteAllText(path, manifest.ToJsonString());
            var e = Assert.Throws<MacOnnxException>(() =>
            {
                using var session = new MacTrainingSession(TrainingPackage.Load(_folder.File("p")));
                using var data = TinyModel.Dense("w", "y").Batch(2);
                session.EvalStep(data.Values);
                session.TrainStep(data.Values);
                session.TrainStep(data.Values);
            });
            Assert.Equal("MAC0403", e.Diagnostic.Id);
        }
    }

    [Fact]
    public void AFormat1PackageGetsAClearMessage()
    {
        var folder = _folder.File("old.mac");
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, PackageFiles.Manifest), """{ "format": 1, "model": "a.onnx" }""");
        var e = Assert.Throws<MacOnnxException>(() => TrainingPackage.Load(folder));
        Assert.Equal("MAC0405", e.Diagnostic.Id);
        Assert.Contains("format 1; this version reads 2", e.Message, StringComparison.Ordinal);
    }
}
