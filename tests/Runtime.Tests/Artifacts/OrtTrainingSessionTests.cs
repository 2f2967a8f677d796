using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.Runtime.OnDevice;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Tests.Artifacts;

/// <summary>The members of ONNX Runtime's former training session do what they did.</summary>
public sealed class OrtTrainingSessionTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void TheTrainingLoopOfTheGoldenRun()
    {
        var data = new GeneratedArtifacts("mlp_ce_adamw");
        var state = OrtCheckpoint.LoadCheckpoint(In(data, "checkpoint"));
        using var session = Session(data, state);
        Assert.Equal(["input", "labels"], session.InputNames(training: true));
        Assert.Equal(["input", "labels"], session.InputNames(training: false));
        Assert.Equal("onnx::loss::2", Assert.Single(session.OutputNames(training: true)));
        Assert.Equal(0.001f, session.GetLearningRate());
        session.SetLearningRate(data.LearningRate);
        for (var step = 0; step < 8; step++)
        {
            if (step == 4)
            {
                state.AddProperty("epoch", 1L);
                OrtCheckpoint.SaveCheckpoint(state, _folder.File("step4"), includeOptimizerState: true);
            }

            using var losses = session.TrainStep(data.Batch(session.Session.Package, step));
            Assert.Equal(data.Losses[step], Number(losses), 1e-4);
            session.OptimizerStep();
            session.LazyResetGrad();
        }

        using (var evaluation = session.EvalStep(data.EvaluationBatch(session.Session.Package)))
        {
            Assert.Equal(data.EvaluationLoss(8), Number(evaluation), 1e-4);
        }

        Exports(session, data);

        // What was saved after step 4 is what ONNX Runtime saved there, and goes on in the same way.
        var (saved, theirs) = (
            OrtCheckpointFile.Read(_folder.File("step4")),
            OrtCheckpointFile.Read(In(data, "checkpoint_step4"))
        );
        Assert.Equal(theirs.Trainable.Keys, saved.Trainable.Keys);
        Assert.Equal(4, saved.Groups[0].Step);
        Assert.Equal(theirs.Groups[0].Momentums.Keys, saved.Groups[0].Momentums.Keys);
        Assert.All(theirs.Groups[0].Momentums, p => Assert.Equal(p.Value.Keys, saved.Groups[0].Momentums[p.Key].Keys));
        Assert.Equal(1L, saved.Properties["epoch"]);
        using var resumed = Session(data, OrtCheckpoint.LoadCheckpoint(_folder.File("step4")));
        resumed.SetLearningRate(data.LearningRate);
        for (var step = 4; step < 8; step++)
        {
            using var losses = resumed.TrainStep(data.Batch(session.Session.Package, step));
            Assert.Equal(data.Losses[step], Number(losses), 1e-4);
            resumed.OptimizerStep();
            resumed.LazyResetGrad();
        }
    }

    [Fact]
    public void GradientsStayUntilTheyAreReset()
    {
        var data = new GeneratedArtifacts("mlp_ce_adamw");
        using var session = Session(data, OrtCheckpoint.LoadCheckpoint(In(data, "checkpoint")));
        session.SetLearningRate(0);
        var batch = data.Batch(session.Session.Package, 0);
        session.TrainStep(batch).Dispose();
        session.OptimizerStep();
        var once = session.Session.Gradient("0.weight").Span<float>()[0];
        session.TrainStep(batch).Dispose();
        Assert.Equal(2 * once, session.Session.Gradient("0.weight").Span<float>()[0], 1e-6);
        session.LazyResetGrad();
        session.TrainStep(batch).Dispose();
        Assert.Equal(once, session.Session.Gradient("0.weight").Span<float>()[0], 1e-6);
    }

    [Fact]
    public void ParametersGoThroughOneBufferIntoANominalCheckpoint()
    {
        var data = new GeneratedArtifacts("mlp_ce_adamw");
        using var full = Session(data, OrtCheckpoint.LoadCheckpoint(In(data, "checkpoint")));
        using var buffer = full.ToBuffer(onlyTrainable: true);
        using var nominal = Session(data, OrtCheckpoint.LoadCheckpoint(In(data, "nominal_checkpoint")));
        nominal.FromBuffer(buffer, onlyTrainable: true);
        using var losses = nominal.TrainStep(data.Batch(full.Session.Package, 0));
        Assert.Equal(data.Losses[0], Number(losses), 1e-4);
        using var other = OrtValues.Of(GraphRewriter.Ir.Tensor.From<float>([1], [1]));
        Assert.Throws<ArgumentException>(() => nominal.FromBuffer(other, onlyTrainable: true));
    }

    [Fact]
    public void ParametersCanBeReadAndReplaced()
    {
        var data = new GeneratedArtifacts("lora");
        var state = OrtCheckpoint.LoadCheckpoint(In(data, "checkpoint"));
        using var before = state.GetParameter("first.A");
        using var session = Session(data, state);
        using var attached = state.GetParameter("first.A");
        Assert.True(before.GetTensorDataAsSpan<float>().SequenceEqual(attached.GetTensorDataAsSpan<float>()));
        using var zeros = OrtValues.Of(GraphRewriter.Ir.Tensor.From<float>([16, 3], new float[48]));
        state.UpdateParameter("first.A", zeros);
        Assert.All(session.Session.GetState()["first.A"].Span<float>().ToArray(), v => Assert.Equal(0, v));
        Assert.Throws<ArgumentException>(() => state.UpdateParameter("first.B", zeros));
        Assert.Throws<ArgumentException>(() => state.GetParameter("nothing"));

        // Graph order, frozen parameters in between: 10 of them, 4 trainable.
        using var all = session.ToBuffer(onlyTrainable: false);
        Assert.Equal(
            session
                .Session.GetState()
                .Where(s => !s.Key.Contains("exp_avg", StringComparison.Ordinal))
                .Sum(s => s.Value.ElementCount),
            all.GetTensorTypeAndShape().ElementCount
        );
    }

    [Fact]
    public void TheLinearScheduleRisesAndFalls()
    {
        var data = new GeneratedArtifacts("mlp_mse_sgd");
        using var session = Session(data, OrtCheckpoint.LoadCheckpoint(In(data, "checkpoint")));
        Assert.Throws<InvalidOperationException>(session.SchedulerStep);
        session.RegisterLinearLRScheduler(2, 6, 0.1f);
        var batch = data.Batch(session.Session.Package, 0);
        var rates = new List<float>();
        for (var step = 0; step < 7; step++)
        {
            session.TrainStep(batch).Dispose();
            session.OptimizerStep();
            session.SchedulerStep();
            session.LazyResetGrad();
            rates.Add(session.GetLearningRate());
        }

        Assert.All(rates.Zip([0.05f, 0.1f, 0.075f, 0.05f, 0.025f, 0, 0]), r => Assert.Equal(r.Second, r.First, 1e-7));
    }

    /// <summary>The exported model computes what ONNX Runtime's does.</summary>
    private void Exports(OrtTrainingSession session, GeneratedArtifacts data)
    {
        var path = _folder.File("inference.onnx");
        session.ExportModelForInferencing(path, ["output"]);
        using var model = new InferenceSession(path);
        using var input = data.EvaluationBatch(session.Session.Package)[0];
        using var run = new RunOptions();
        using var results = model.Run(run, ["input"], [input], ["output"]);
        var expected = data.Golden["inference_output"].Span<float>().ToArray();
        Assert.All(
            expected.Zip(results[0].GetTensorDataAsSpan<float>().ToArray()),
            p => Assert.Equal(p.First, p.Second, 1e-4)
        );
    }

    private static OrtTrainingSession Session(GeneratedArtifacts data, OrtCheckpoint state) =>
        new(state, In(data, "training_model.onnx"), In(data, "eval_model.onnx"), In(data, "optimizer_model.onnx"));

    private static string In(GeneratedArtifacts data, string file) => Path.Combine(data.Folder, file);

    private static float Number(IDisposableReadOnlyCollection<OrtValue> values) =>
        values[0].GetTensorDataAsSpan<float>()[0];
}
