using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ops;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Curvature;

/// <summary>
/// The weighted activation mean of values in layouts that the exported models do not have, against its definition in
/// double.
/// </summary>
public class ValueRowsTests : AttentionGraph
{
    public static TheoryData<string, bool, bool> Cases =>
        [
            .. from layout in new[]
            {
                "batch first",
                "tokens first",
                "keys before queries",
                "heads in the batch",
                "batch in the heads",
                "channels first",
            }
            from dynamic in new[] { false, true }
            from joint in new[] { false, true }
            where !dynamic || layout is "batch first" or "tokens first" or "keys before queries" or "channels first"
            select (layout, dynamic, joint),
        ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void StatisticEqualsItsDefinition(string layout, bool dynamic, bool joint)
    {
        long[] dims = layout switch
        {
            "tokens first" => [Tokens, Batch, Width],
            "channels first" => [Batch, Width, Tokens, 1],
            _ => [Batch, Tokens, Width],
        };
        var x = Input("x", dims);
        if (dynamic)
        {
            x.Declared = new(
                ElementType.Float,
                [
                    .. dims.Select(d =>
                        d is Batch or Tokens ? new DeclaredDim(null, $"dimension_{d}") : new DeclaredDim(d, null)
                    ),
                ]
            );
        }

        Graph.Outputs.Add(Attention(x, layout));
        var model = ModelProto.Parser.ParseFrom(ModelWriter.ToBytes(Graph));
        ModelReader.Normalize(model, "case");
        var options = new RewriteOptions
        {
            Loss = LossKind.Mse,
            ValueStatistic = joint ? ValueStatistic.Joint : ValueStatistic.Product,
        };
        var context = Pipeline.Run(new(model, options, "case"));
        var layers = context.Plan.Blocks.Select(b => b.Layer);
        var layer = Assert.Single(layers, l => l.Values is not null);
        Assert.Equal("v", layer.Weight.Name);
        Assert.Equal(dynamic || joint, layer.Values!.SeparateTokens is null);
        var graph = context.Training;
        var statistics = graph.Outputs.Where(o => context.Statistics.ContainsKey(o.Name)).ToArray();
        graph.Outputs.Clear();
        graph.Outputs.AddRange(statistics.Append(layer.Values.Tokens.Probabilities));
        graph.Prune();
        graph.Inputs.RemoveAll(i => !graph.Nodes.Any(n => n.Reads.Contains(i)));
        var input = Ir.Tensor.From<float>(
            [.. x.KnownShape.Dims.Select(d => d.Size)],
            [.. Enumerable.Range(0, Batch * Tokens * Width).Select(i => MathF.Sin(1.3f * i) + (i % 7 * 0.1f))]
        );
        var results = Run(context, graph, input);
        var found = results.TryGetValue("v.mac_value_mean", out var mean)
            ? mean
            : Product(results["v.mac_token_weights"], results["v.mac_token_means"]);
        var expected = Expected(
            results[layer.Values.Tokens.Probabilities.Name],
            input.Span<float>().ToArray(),
            layout,
            joint
        );
        Assert.All(expected.Zip(found), p => Assert.Equal(p.First, p.Second, 1e-5));
    }

    private Value Attention(Value x, string layout)
    {
        if (layout == "keys before queries")
        {
            Term Split(string name) => Dense(x, name, Heads * Size).Reshape(0, 0, Heads, Size);
            var p = new Term(B, B.Op("Einsum", [Split("k").V, Split("q").V], Text("equation", "bkhd,bqhd->hbkq"))).Op(
                "Softmax",
                Int("axis", -2)
            );
            return B.Op("Einsum", [p.V, Split("v").V], Text("equation", "hbkq,bkhd->bqhd"));
        }

        if (layout == "channels first")
        {
            Term Image(string name) => Pointwise(x, name, Heads * Size).Reshape(0, Heads, Size, -1);
            var p = new Term(B, B.Op("Einsum", [Image("q").V, Image("k").V], Text("equation", "bhdi,bhdj->bhij"))).Op(
                "Softmax",
                Int("axis", -1)
            );
            return B.Op("Einsum", [p.V, Image("v").V], Text("equation", "bhij,bhdj->bhdi"));
        }

        Term Part(string name)
        {
            var y = Dense(x, name, Heads * Size);
            return layout switch
            {
                "batch first" => y.Reshape(0, 0, Heads, Size).Transpose(0, 2, 1, 3),
                "tokens first" => y.Reshape(0, 0, Heads, Size).Transpose(1, 2, 0, 3),
                "heads in the batch" => y.Reshape(Batch, Tokens, Heads, Size)
                    .Transpose(0, 2, 1, 3)
                    .Reshape(Batch * Heads, Tokens, Size),
                _ => y.Reshape(Batch, Tokens, Heads, Size).Transpose(2, 0, 1, 3).Reshape(Heads * Batch, Tokens, Size),
            };
        }

        return Part("q").MatMul(Part("k"), transposeOther: true).Op("Softmax", Int("axis", -1)).Op("MatMul", Part("v"));
    }

    private static double[] Expected(float[] p, float[] x, string layout, bool joint)
    {
        // The probability that query q of sample n gives key k in head h.
        double P(int n, int h, int q, int k) =>
            p[
                layout switch
                {
                    "keys before queries" => (((((h * Batch) + n) * Tokens) + k) * Tokens) + q,
                    "batch in the heads" => (((((h * Batch) + n) * Tokens) + q) * Tokens) + k,
                    _ => (((((n * Heads) + h) * Tokens) + q) * Tokens) + k,
                }
            ];
        double X(int n, int k, int i) =>
            x[
                layout switch
                {
                    "tokens first" => (((k * Batch) + n) * Width) + i,
                    "channels first" => (((n * Width) + i) * Tokens) + k,
                    _ => (((n * Tokens) + k) * Width) + i,
                }
            ];
        double W(int n, int k) => Enumerable.Range(0, Heads * Tokens).Average(hq => P(n, hq / Tokens, hq % Tokens, k));
        var (samples, tokens) = (Enumerable.Range(0, Batch).ToArray(), Enumerable.Range(0, Tokens).ToArray());
        return
        [
            .. Enumerable
                .Range(0, Width)
                .Select(i =>
                    joint
                        ? samples.Average(n => tokens.Sum(k => W(n, k) * X(n, k, i)))
                        : tokens.Sum(k => samples.Average(n => W(n, k)) * samples.Average(n => X(n, k, i)))
                ),
        ];
    }

    private static float[] Product(float[] weights, float[] means) =>
        [.. Enumerable.Range(0, Width).Select(i => weights.Select((w, t) => w * means[(t * Width) + i]).Sum())];

    private static Dictionary<string, float[]> Run(RewriteContext context, Graph graph, Ir.Tensor x)
    {
        using var options = new SessionOptions
        {
            IntraOpNumThreads = 1,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
        };
        using var session = new InferenceSession(ModelWriter.ToBytes(graph), options);
        var weights = context.Plan.Kept.ToDictionary(p => p.Name, p => p.Initial, StringComparer.Ordinal);
        var values = session.InputNames.ToDictionary(
            n => n,
            n =>
                n == "update_statistics" ? OrtValue.CreateTensorValueFromMemory(new[] { true }, [])
                : (n == "x" ? x : weights[n]) is var t
                    ? OrtValue.CreateTensorValueFromMemory(t.Span<float>().ToArray(), [.. t.Dims])
                : null!
        );
        using var run = new RunOptions();
        var names = graph.Outputs.Select(o => o.Name).ToArray();
        using var results = session.Run(run, [.. values.Keys], [.. values.Values], names);
        return names.Zip(results).ToDictionary(r => r.First, r => r.Second.GetTensorDataAsSpan<float>().ToArray());
    }
}
