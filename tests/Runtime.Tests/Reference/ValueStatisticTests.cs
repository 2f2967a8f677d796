using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>The attention-weighted activation mean of value projections, and what it does to the gradient.</summary>
public sealed class ValueStatisticTests
{
    public static TheoryData<string, string, bool> Cases =>
        [
            .. from model in new[]
            {
                ("vit_sdpa", "dynamo_eval_op23"),
                ("vit_torchvision", "ts_train_op17"),
                ("encoder_postnorm", "ts_train_op17"),
                ("encoder_prenorm", "dynamo_train_op23"),
                ("gpt2_hf", "dynamo_eval_op20"),
                ("gpt_tied", "ts_train_op17"),
                ("llama_hf", "ts_train_op17"),
                ("bert", "ts_eval_op17"),
                ("swin", "ts_train_op17"),
                ("mha_cross", "ts_train_op17"),
                ("mha_cross", "dynamo_train_op20"),
                ("t5_hf", "ts_train_op17"),
            }
            from joint in new[] { false, true }
            select (model.Item1, model.Item2, joint),
        ];

    /// <summary>
    /// The statistic equals its definition, computed here in double from the probabilities and inputs of the same run.
    /// </summary>
    [Theory]
    [MemberData(nameof(Cases))]
    public void StatisticEqualsItsDefinition(string model, string file, bool joint)
    {
        var folder = Path.Combine(Shared.Folder("pytorch-models"), model);
        using var document = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "case.json")));
        var path = Path.Combine(folder, file + ".onnx");
        var proto = ModelReader.Read(path);
        ModelReader.Normalize(proto, path);
        var options = AutogradFixture.OptionsOf(document.RootElement) with
        {
            ValueStatistic = joint ? ValueStatistic.Joint : ValueStatistic.Product,
        };
        var context = Pipeline.Run(new(proto, options, path));
        var layers = context
            .Plan.Blocks.Select(b => b.Layer)
            .OfType<DenseLayer>()
            .Where(l => l.Values is not null)
            .ToArray();
        Assert.Equal(context.Plan.Attention.Length, layers.Length);
        var graph = context.Training;
        var statistics = graph.Outputs.Where(o => context.Statistics.ContainsKey(o.Name)).ToArray();
        graph.Outputs.Clear();
        graph.Outputs.AddRange(
            statistics.Concat(layers.SelectMany(l => new[] { l.Values!.Tokens.Probabilities, l.Input })).Distinct()
        );
        graph.Prune();
        var results = Run(context, graph, NpzFile.Read(Path.Combine(folder, "inputs.npz")));
        foreach (var layer in layers)
        {
            var expected = Expected(results[layer.Values!.Tokens.Probabilities.Name], results[layer.Input.Name], joint);
            var found = results.TryGetValue($"{layer.Name}.mac_value_mean", out var mean)
                ? mean.ToDouble()
                : Product(results[$"{layer.Name}.mac_token_weights"], results[$"{layer.Name}.mac_token_means"]);
            Assert.Equal(expected.Length, found.Length);

            // Float32 means of at most some thousand numbers of size 1 to 10.
            Assert.All(expected.Zip(found), p => Assert.Equal(p.First, p.Second, 2e-5));
        }
    }

    [Theory]
    [InlineData("vit_op16")]
    [InlineData("vit_op16_dyn")]
    public void AccumulatedBatchesGiveTheStatisticOfTheWhole(string file)
    {
        var folder = Shared.Folder("mac-vectors");
        var inputs = NpzFile.Read(Path.Combine(folder, "vit_inputs.npz"));
        Tensor[] all = [inputs["x"], inputs["y"]];
        using var session = new MacTrainingSession(
            Rewriter.Rewrite(Path.Combine(folder, $"{file}.onnx")).Package,
            o => o.IntraOpNumThreads = 1
        );
        Step(session, all, 0, 1);
        Step(session, all, 1, 1);
        session.OptimizerStep();
        using var other = new MacTrainingSession(
            Rewriter.Rewrite(Path.Combine(folder, "vit_op16_dyn.onnx")).Package,
            o => o.IntraOpNumThreads = 1
        );
        Step(other, all, 0, 2);
        other.OptimizerStep();
        var (first, second) = (session.GetState(), other.GetState());
        foreach (var name in first.Keys.Where(n => n.EndsWith(".mac_running_mean", StringComparison.Ordinal)))
        {
            Assert.All(first[name].ToDouble().Zip(second[name].ToDouble()), p => Assert.Equal(p.First, p.Second, 1e-6));
        }
    }

    /// <summary>
    /// A step without momentum and decay takes off lr times the preconditioned gradient: the value units by the
    /// weighted mean, the others by the plain one.
    /// </summary>
    [Theory]
    [InlineData("gpt2_hf", "dynamo_eval_op20", "model.transformer.h.0.attn.c_attn", 96, true)]
    [InlineData("vit_plain", "ts_train_op16", "blocks.1.attn.qkv", 64, false)]
    public void ValueUnitsArePreconditionedByTheirOwnMean(
        string model,
        string file,
        string layer,
        int firstValue,
        bool columns
    )
    {
        var folder = Path.Combine(Shared.Folder("pytorch-models"), model);
        using var document = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "case.json")));
        var h = new Hyperparameters
        {
            LearningRate = 1,
            Momentum = 0,
            WeightDecay = 0,
            Damping = 0.5f,
            StatEvery = 1,
            RefreshEvery = 1,
        };
        var (package, _) = Rewriter.Rewrite(
            Path.Combine(folder, file + ".onnx"),
            AutogradFixture.OptionsOf(document.RootElement) with
            {
                Hyperparameters = h,
            }
        );
        using var session = new MacTrainingSession(package, o => o.IntraOpNumThreads = 1);
        var arrays = NpzFile.Read(Path.Combine(folder, "inputs.npz"));
        Step(
            session,
            [
                .. package
                    .Manifest.Inputs.Select(i => i.Name)
                    .Append(package.Manifest.Target!.Name)
                    .Select(n => arrays[n]),
            ],
            null,
            1
        );
        var (weight, bias) = ($"{layer}.weight", $"{layer}.bias");
        var (g, db) = (session.Gradient(weight).ToDouble(), session.Gradient(bias).ToDouble());
        var before = session.GetState();
        var (old, oldBias) = (before[weight].ToDouble(), before[bias].ToDouble());
        Assert.True(session.OptimizerStep());
        var state = session.GetState();
        var p = state[$"{weight}.mac_p"];
        Assert.Equal(2, p.Dims[0]);
        var (means, size, units) = (p.ToDouble(), (int)p.Dims[1], db.Length);
        for (var unit = 0; unit < units; unit++)
        {
            var row = means.AsSpan((unit >= firstValue ? 1 : 0) * size, size).ToArray();
            int At(int i) => columns ? (i * units) + unit : (unit * size) + i;
            var along = (row.Select((m, i) => m * g[At(i)]).Sum() + db[unit]) / (h.Damping + row.Sum(m => m * m) + 1);
            for (var i = 0; i < size; i++)
            {
                Assert.Equal(old[At(i)] - g[At(i)] + (along * row[i]), state[weight].Span<float>()[At(i)], 1e-5);
            }

            Assert.Equal(oldBias[unit] - db[unit] + along, state[bias].Span<float>()[unit], 1e-5);
        }
    }

    private static void Step(MacTrainingSession session, IReadOnlyList<Tensor> arrays, int? batch, int count)
    {
        var values = arrays.Select(a => OrtValues.Of(batch is { } first ? Batches(a, first, count) : a)).ToArray();
        session.TrainStep(values);
        Array.ForEach(values, v => v.Dispose());
    }

    private static Tensor Batches(Tensor all, int first, int count)
    {
        var bytes = all.Data.Length / (int)all.Dims[0];
        return new Tensor(
            all.Type,
            [count * all.Dims[1], .. all.Dims[2..]],
            all.Data.Slice(first * bytes, count * bytes)
        );
    }

    private static double[] Product(Tensor weights, Tensor means)
    {
        var (w, m) = (weights.ToDouble(), means.ToDouble());
        var size = m.Length / w.Length;
        return [.. Enumerable.Range(0, size).Select(i => w.Select((v, t) => v * m[(t * size) + i]).Sum())];
    }

    /// <summary>
    /// Probabilities are [samples (, heads), queries, tokens], or both first axes in one; inputs [samples, tokens, in],
    /// flat, or tokens first.
    /// </summary>
    private static double[] Expected(Tensor probabilities, Tensor input, bool joint)
    {
        var (tokens, size) = ((int)probabilities.Dims[^1], (int)input.Dims[^1]);
        var (p, x) = (probabilities.ToDouble(), input.ToDouble());
        var samples = x.Length / size / tokens;
        Assert.NotEqual(samples, tokens);
        var tokensFirst = input.Dims.Length == 3 && input.Dims[0] == tokens && input.Dims[1] == samples;
        var attention = new double[samples, tokens];
        var each = p.Length / samples / tokens;
        for (var i = 0; i < p.Length; i++)
        {
            attention[i / tokens / each, i % tokens] += p[i] / each;
        }

        double X(int n, int t, int i) => x[((tokensFirst ? (t * samples) + n : (n * tokens) + t) * size) + i];
        var result = new double[size];
        for (var i = 0; i < size; i++)
        {
            for (var t = 0; t < tokens; t++)
            {
                var (w, mean) = (0.0, 0.0);
                for (var n = 0; n < samples; n++)
                {
                    result[i] += joint ? attention[n, t] * X(n, t, i) / samples : 0;
                    (w, mean) = (w + (attention[n, t] / samples), mean + (X(n, t, i) / samples));
                }

                result[i] += joint ? 0 : w * mean;
            }
        }

        return result;
    }

    private static Dictionary<string, Tensor> Run(
        RewriteContext context,
        Graph graph,
        IReadOnlyDictionary<string, Tensor> arrays
    )
    {
        var weights = context.Plan.Kept.ToDictionary(p => p.Name, p => p.Initial, StringComparer.Ordinal);
        Tensor Feed(Value input) =>
            input.Name == "update_statistics" ? Tensor.From<bool>([], [true])
            : weights.TryGetValue(input.Name, out var weight) ? weight
            : arrays.TryGetValue(input.Name, out var array) ? array
            : new Tensor(
                input.Type,
                [.. input.KnownShape.Dims.Select(d => d.Size)],
                new byte[input.KnownShape.Count * input.Type.Size()]
            );
        using var options = new SessionOptions { LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL };
        using var session = new InferenceSession(ModelWriter.ToBytes(graph), options);
        using var run = new RunOptions();
        var values = graph.Inputs.Select(i => OrtValues.Of(Feed(i))).ToArray();
        using var results = session.Run(
            run,
            [.. graph.Inputs.Select(i => i.Name)],
            values,
            [.. graph.Outputs.Select(o => o.Name)]
        );
        var found = graph
            .Outputs.Zip(
                results,
                (o, r) =>
                    (
                        o.Name,
                        new Tensor(o.Type, [.. r.GetTensorTypeAndShape().Shape], r.GetTensorMutableRawData().ToArray())
                    )
            )
            .ToDictionary(r => r.Name, r => r.Item2, StringComparer.Ordinal);
        Array.ForEach(values, v => v.Dispose());
        return found;
    }
}
