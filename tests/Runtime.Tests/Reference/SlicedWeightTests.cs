using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.Runtime.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>
/// A packed projection that the graph slices for queries of one input and keys and values of another, as
/// nn.MultiheadAttention does.
/// </summary>
public sealed class SlicedWeightTests
{
    private const int Batch = 3;
    private const int Queries = 4;
    private const int Keys = 5;
    private const int Width = 6;
    private const int Heads = 2;
    private const int Size = Width / Heads;
    private const double Damping = 0.5;

    /// <summary>
    /// One refresh and step equal the algorithm computed here in double from the model's inputs and gradients.
    /// </summary>
    /// <param name="products">How many products take a slice: 3, or 2 where keys and values are one.</param>
    /// <param name="rows">Whether the weight is [out, in].</param>
    /// <param name="hasBias">Whether a packed bias is added.</param>
    /// <param name="statistic">How the values' inputs are weighted.</param>
    [Theory]
    [InlineData(3, true, true, ValueStatistic.Product)]
    [InlineData(2, true, true, ValueStatistic.Joint)]
    [InlineData(2, false, true, ValueStatistic.Product)]
    [InlineData(3, true, false, ValueStatistic.Joint)]
    [InlineData(3, false, true, ValueStatistic.None)]
    public void StepEqualsTheAlgorithm(int products, bool rows, bool hasBias, ValueStatistic statistic)
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "model.onnx");
        File.WriteAllBytes(path, Model(products, rows, hasBias));
        var h = new Hyperparameters
        {
            LearningRate = 1,
            Momentum = 0,
            WeightDecay = 0,
            Damping = (float)Damping,
            StatEvery = 1,
            RefreshEvery = 1,
        };
        var (package, report) = Rewriter.Rewrite(
            path,
            new RewriteOptions
            {
                Loss = LossKind.Mse,
                Hyperparameters = h,
                ValueStatistic = statistic,
            }
        );
        var attention = Assert.Single(report.Attention);
        Assert.Equal(
            ("packed[0:6]", "packed[6:12]", "packed[12:18]"),
            (Show(attention.Q), Show(attention.K), Show(attention.V))
        );
        Assert.Equal("MAC dense", report.Parameters.Single(p => p.Name == "packed").Treatment);
        var (query, source) = (Waves.Of(0, Batch, Queries, Width), Waves.Of(1, Batch, Keys, Width));
        using var session = new MacTrainingSession(package, o => o.IntraOpNumThreads = 1);
        var feeds = new[] { query, source, Waves.Of(2, Batch, Queries, Width) }.Select(OrtValues.Of).ToArray();
        session.TrainStep(feeds);
        Array.ForEach(feeds, f => f.Dispose());
        var g = session.Gradient("packed").ToDouble();
        var db = hasBias ? session.Gradient("packed_bias").ToDouble() : new double[3 * Width];
        var before = session.GetState();
        var (old, oldBias) = (before["packed"].ToDouble(), hasBias ? before["packed_bias"].ToDouble() : db);
        var means = Means(query.ToDouble(), source.ToDouble(), old, oldBias, rows, statistic);
        Assert.True(session.OptimizerStep());
        var state = session.GetState();
        var (updated, updatedBias) = (state["packed"].ToDouble(), hasBias ? state["packed_bias"].ToDouble() : db);
        for (var unit = 0; unit < 3 * Width; unit++)
        {
            var m = means[unit / Width];
            int At(int i) => rows ? (unit * Width) + i : (i * 3 * Width) + unit;
            var one = hasBias ? 1 : 0;
            var along =
                (m.Select((x, i) => x * g[At(i)]).Sum() + (one * db[unit])) / (Damping + m.Sum(x => x * x) + one);

            // Float32 rounding of numbers of size 1.
            for (var i = 0; i < Width; i++)
            {
                Assert.Equal(old[At(i)] - g[At(i)] + (along * m[i]), updated[At(i)], 1e-6);
            }

            if (hasBias)
            {
                Assert.Equal(oldBias[unit] - db[unit] + along, updatedBias[unit], 1e-6);
            }
        }
    }

    private static string Show(AttentionProjectionReport report) => report.Parameter + report.Show();

    /// <summary>The activation means of queries, keys and values.</summary>
    private static double[][] Means(
        double[] query,
        double[] source,
        double[] weight,
        double[] bias,
        bool rows,
        ValueStatistic statistic
    )
    {
        double W(int unit, int i) => weight[rows ? (unit * Width) + i : (i * 3 * Width) + unit];
        double Project(double[] x, int row, int unit) =>
            bias[unit] + Enumerable.Range(0, Width).Sum(i => x[(row * Width) + i] * W(unit, i));
        double Plain(double[] x, int i) => x.Where((_, n) => n % Width == i).Average();
        var attention = new double[Batch, Keys];
        var triples = Enumerable.Range(0, Batch * Heads * Queries);
        foreach (var (n, head, q) in triples.Select(r => (r / Queries / Heads, r / Queries % Heads, r % Queries)))
        {
            var exp = Enumerable
                .Range(0, Keys)
                .Select(k =>
                    Math.Exp(
                        Enumerable
                            .Range(head * Size, Size)
                            .Sum(u => Project(query, (n * Queries) + q, u) * Project(source, (n * Keys) + k, Width + u))
                            / 2
                    )
                )
                .ToArray();
            for (var k = 0; k < Keys; k++)
            {
                attention[n, k] += exp[k] / exp.Sum() / Heads / Queries;
            }
        }

        double Source(int n, int k, int i) => source[(((n * Keys) + k) * Width) + i];
        double Weighted(int i) =>
            Enumerable
                .Range(0, Keys)
                .Sum(k =>
                    statistic == ValueStatistic.Joint
                        ? Enumerable.Range(0, Batch).Average(n => attention[n, k] * Source(n, k, i))
                        : Enumerable.Range(0, Batch).Average(n => attention[n, k])
                            * Enumerable.Range(0, Batch).Average(n => Source(n, k, i))
                );
        double[] Of(Func<int, double> mean) => [.. Enumerable.Range(0, Width).Select(mean)];
        var keys = Of(i => Plain(source, i));
        return [Of(i => Plain(query, i)), keys, statistic == ValueStatistic.None ? keys : Of(Weighted)];
    }

    private static byte[] Model(int products, bool rows, bool hasBias)
    {
        var graph = new Graph { Name = "cross", Opsets = { [""] = 21 } };
        var b = new GraphBuilder(graph);
        var (query, source) = (
            b.Input("query", ElementType.Float, Shape.Of(Batch, Queries, Width)),
            b.Input("source", ElementType.Float, Shape.Of(Batch, Keys, Width))
        );
        long[] sizes = products == 3 ? [Width, Width, Width] : [Width, 2 * Width];
        var weights = Split(Parameter("packed", rows ? [3 * Width, Width] : [Width, 3 * Width]), rows ? 0 : 1);
        Term[] biases = hasBias ? Split(Parameter("packed_bias", 3 * Width), 0) : [];
        var projected = weights
            .Select(
                (w, i) =>
                {
                    var y = new Term(b, i == 0 ? query : source).Op("MatMul", rows ? w.Transpose(1, 0) : w);
                    return hasBias ? y + biases[i] : y;
                }
            )
            .ToArray();
        Term[] parts =
            products == 3
                ? projected
                :
                [
                    projected[0],
                    .. b.Node("Split", "", [projected[1].V, b.Int64s(Width, Width)], 2, Int("axis", -1))
                        .Outputs.Select(o => new Term(b, o)),
                ];
        Term Part(int i) => parts[i].Reshape(0, 0, Heads, Size).Transpose(0, 2, 1, 3);
        var scores = Part(0).Op("MatMul", Part(1).Transpose(0, 1, 3, 2)) * 0.5;
        var result = scores
            .Op("Softmax", Int("axis", -1))
            .Op("MatMul", Part(2))
            .Transpose(0, 2, 1, 3)
            .Reshape(0, 0, -1);
        result.V.Shape = Shape.Of(Batch, Queries, Width);
        graph.Outputs.Add(result);
        return ModelWriter.ToBytes(graph);

        Value Parameter(string name, params long[] dims) => graph.AddConstant(name, Waves.Of(name.Length, dims));

        Term[] Split(Value value, int axis) =>
            [
                .. b.Node("Split", "", [value, b.Int64s(sizes)], sizes.Length, Int("axis", axis))
                    .Outputs.Select(o => new Term(b, o)),
            ];
    }
}
