using System.Collections;
using System.Reflection;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;
using MacOnnx.Runtime.Tests.Support;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>
/// A call during another one says so, whichever the two are, and the first one goes on. After the end each one says so.
/// </summary>
public sealed class ConcurrencyTests : IDisposable
{
    /// <summary>Gives a value that was computed before: no call is in the way.</summary>
    private static readonly string[] Values =
    [
        "get_Updates",
        "get_Diagnostics",
        "get_Seed",
        "get_Hyperparameters",
        "get_Package",
        "get_MissingState",
        "get_Validation",
        "get_Step",
    ];

    private readonly TempFolder _folder = new();
    private readonly ManualResetEventSlim _isIn = new();
    private readonly ManualResetEventSlim _mayLeave = new();

    public void Dispose()
    {
        _isIn.Dispose();
        _mayLeave.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public async Task ASessionTakesOneCallAtATime()
    {
        var model = TinyModel.Dense("w", "y");
        using var session = new MacTrainingSession(Rewriter.Rewrite(model.Save(_folder), TinyModel.Options).Package);
        using var data = model.Batch(2);
        var file = _folder.File("c.safetensors");
        session.SaveCheckpoint(file);
        var calls = new Dictionary<string, Action>
        {
            ["TrainStep"] = () => session.TrainStep(data.Values),
            ["EvalStep"] = () => session.EvalStep(data.Values),
            ["OptimizerStep"] = () => session.OptimizerStep(),
            ["ResetGradients"] = session.ResetGradients,
            ["GetState"] = () => session.GetState(),
            ["SetState"] = () => session.SetState(new Dictionary<string, Tensor>()),
            ["Gradient"] = () => session.Gradient("w"),
            ["SaveCheckpoint"] = () => session.SaveCheckpoint(file),
            ["LoadCheckpoint"] = () => session.LoadCheckpoint(file),
            ["ExportInferenceModel"] = () => session.ExportInferenceModel(_folder.File("e.onnx")),
            ["ComputeFirstLayer"] = () => session.ComputeFirstLayer([]),
            ["get_GradientNorm"] = () => _ = session.GradientNorm,
            ["get_LossCount"] = () => _ = session.LossCount,
            ["get_NeedsFirstLayer"] = () => _ = session.NeedsFirstLayer,
            ["set_Seed"] = () => session.Seed = 1,
            ["set_Hyperparameters"] = () => session.Hyperparameters = new(),
            ["Dispose"] = session.Dispose,
        };
        await During<MacTrainingSession>("TrainStep", () => session.TrainStep(new Blocking(data.Values, this)), calls);
        Assert.True(session.OptimizerStep());
        AfterTheEnd(calls);
    }

    [Fact]
    public async Task ATrainerTakesOneCallAtATime()
    {
        using var session = Digits.Session();
        using var trainer = new Trainer(session, new BlockingSource(this), new TrainerOptions { MaxSteps = 1 });
        var calls = new Dictionary<string, Action>
        {
            ["Run"] = () => trainer.Run(TestContext.Current.CancellationToken),
            ["Check"] = trainer.Check,
            ["Resume"] = () => trainer.Resume(),
            ["Dispose"] = trainer.Dispose,
        };
        await During<Trainer>("Run", calls["Run"], calls);
        Assert.Equal(1, trainer.Step);
        AfterTheEnd(calls);
    }

    [Fact]
    public async Task AnEvaluatorTakesOneCallAtATime()
    {
        using var session = Digits.Session();
        using var evaluator = new Evaluator(session, new BlockingSource(this));
        var calls = new Dictionary<string, Action>
        {
            ["Run"] = () => evaluator.Run(TestContext.Current.CancellationToken),
            ["Dispose"] = evaluator.Dispose,
        };
        await During<Evaluator>("Run", calls["Run"], calls);
        AfterTheEnd(calls);
    }

    /// <summary>Calls every public member while one waits in another thread for data, then lets that one end.</summary>
    private async Task During<T>(string name, Action first, Dictionary<string, Action> calls)
    {
        Assert.Equal(
            typeof(T)
                .GetMethods(BindingFlags.Public | BindingFlags.Instance | BindingFlags.DeclaredOnly)
                .Select(m => m.Name)
                .Except(Values)
                .Order(StringComparer.Ordinal),
            calls.Keys.Order(StringComparer.Ordinal)
        );
        var running = Task.Run(first, TestContext.Current.CancellationToken);
        _isIn.Wait(TestContext.Current.CancellationToken);
        try
        {
            foreach (var (member, call) in calls)
            {
                var e = Assert.Throws<InvalidOperationException>(call);
                var called = member[(member.IndexOf('_', StringComparison.Ordinal) + 1)..];
                Assert.StartsWith(
                    $"{typeof(T).Name}.{called} was called while {name} was running",
                    e.Message,
                    StringComparison.Ordinal
                );
            }
        }
        finally
        {
            _mayLeave.Set();
        }

        await running;
    }

    private static void AfterTheEnd(Dictionary<string, Action> calls)
    {
        calls["Dispose"]();
        calls["Dispose"]();
        Assert.All(calls.Where(c => c.Key != "Dispose"), c => Assert.Throws<ObjectDisposedException>(c.Value));
    }

    private void Wait()
    {
        _isIn.Set();
        _mayLeave.Wait(TestContext.Current.CancellationToken);
    }

    /// <summary>A batch whose first tensor takes its time.</summary>
    private sealed class Blocking(IReadOnlyList<OrtValue> values, ConcurrencyTests test) : IReadOnlyList<OrtValue>
    {
        public int Count => values.Count;

        public OrtValue this[int index]
        {
            get
            {
                test.Wait();
                return values[index];
            }
        }

        public IEnumerator<OrtValue> GetEnumerator()
        {
            test.Wait();
            return values.GetEnumerator();
        }

        IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
    }

    /// <summary>Digits, of which the first batch takes its time.</summary>
    private sealed class BlockingSource(ConcurrencyTests test) : IBatchSource
    {
        public long? BatchesPerEpoch => null;

        public IEnumerable<Batch> Epoch(long epoch, long firstBatch, CancellationToken cancellationToken)
        {
            test.Wait();
            using var loader = new BatchLoader(Digits.Data, 64, shuffle: false, seed: 0);
            foreach (var batch in loader.Epoch(epoch, firstBatch, cancellationToken))
            {
                yield return batch;
            }
        }
    }
}
