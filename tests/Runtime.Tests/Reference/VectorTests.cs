using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Data;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>MAC's state after each of twelve steps against a float64 reference that equals the authors' code.</summary>
public sealed class VectorTests
{
    /// <summary>
    /// Float32 rounding moves a parameter by 3e-7 and each of twenty plausible mistakes by 1e-3 or more.
    /// </summary>
    private const double Tolerance = 2e-5;

    public static TheoryData<string, string, string> Cases { get; } =
    [
        .. from model in new[]
        {
            ("mlp", "coupled"),
            ("mlp", "decoupled"),
            ("mlp", "nesterov"),
            ("mlp", "cov3_inv2"),
            ("cnn", "coupled"),
            ("cnn", "decoupled"),
            ("cnn", "depthwise_per_group"),
            ("vit", "coupled"),
        }
        from file in new[] { "op14", "op14_dyn", "op16", "op16_dyn" }
        select (model.Item1, model.Item2, file),
    ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void EveryStepMatches(string model, string configuration, string file)
    {
        var folder = Shared.Folder("mac-vectors");
        var expectedPath = Path.Combine(folder, $"{model}_{configuration}.npz");
        var options = Options(configuration, model);
        var (package, report) = Rewriter.Rewrite(Path.Combine(folder, $"{model}_{file}.onnx"), options);
        using var session = new MacTrainingSession(package, o => o.IntraOpNumThreads = 1);
        var inputs = NpzFile.Read(Path.Combine(folder, $"{model}_inputs.npz"));
        var expected = NpzFile.Read(expectedPath, [.. NpzFile.Names(expectedPath).Where(n => n != "config")]);
        var losses = expected["loss"].Span<double>();
        for (var step = 0; step < 12; step++)
        {
            using var x = OrtValues.Of(Slice(inputs["x"], step));
            using var y = OrtValues.Of(Slice(inputs["y"], step));
            var loss = session.TrainStep([x, y]);
            Assert.Equal(losses[step], loss, Tolerance);
            Assert.True(session.OptimizerStep());
            var state = session.GetState();
            foreach (var name in package.Manifest.Trained)
            {
                var want = expected[$"step{step:00}/param/{name}"].Span<double>();
                var have = state[name].Span<float>();
                for (var i = 0; i < want.Length; i++)
                {
                    Assert.True(
                        Math.Abs(want[i] - have[i]) <= Tolerance,
                        $"step {step}, {name}[{i}]: {want[i]} expected, {have[i]} found"
                    );
                }
            }

            foreach (
                var (name, want) in expected.Where(e =>
                    e.Key.StartsWith($"step{step:00}/buffer/", StringComparison.Ordinal)
                )
            )
            {
                var key = name.Split('/')[2];
                if (
                    state.TryGetValue(key.Replace("_onnx", "", StringComparison.Ordinal), out var have)
                    && (
                        key.EndsWith("_onnx", StringComparison.Ordinal)
                        || key.EndsWith("mean", StringComparison.Ordinal)
                    )
                )
                {
                    Assert.True(
                        want.Span<double>()
                            .ToArray()
                            .Zip(have.ToDouble())
                            .All(p => Math.Abs(p.First - p.Second) <= Tolerance),
                        $"step {step}, {key}"
                    );
                }
            }
        }

        Assert.NotEmpty(report.Parameters);
    }

    private static RewriteOptions Options(string configuration, string model)
    {
        var decoupled = configuration == "decoupled";
        var (damping, decay) = decoupled ? (0.5f, 0.9f) : (1f, 0.95f);
        var (every, refresh) = configuration == "cov3_inv2" ? (3, 2) : (2, 4);
        var rate = model == "cnn" ? 0.2f : 0.1f;
        return new RewriteOptions
        {
            Nesterov = configuration == "nesterov",
            WeightDecayMode = decoupled ? WeightDecayMode.Decoupled : WeightDecayMode.Coupled,
            NoDecay = decoupled ? null : "^$",
            Depthwise = configuration == "depthwise_per_group" ? DepthwiseMode.PerGroup : DepthwiseMode.Pooled,
            Hyperparameters = new()
            {
                LearningRate = rate,
                Momentum = 0.9f,
                WeightDecay = decoupled ? 5e-2f : 5e-3f,
                Damping = damping,
                StatDecay = decay,
                StatEvery = every,
                RefreshEvery = refresh,
            },
        };
    }

    private static Tensor Slice(Tensor all, int index)
    {
        var bytes = all.Data.Length / (int)all.Dims[0];
        return new Tensor(all.Type, all.Dims.RemoveAt(0), all.Data.Slice(index * bytes, bytes));
    }
}
