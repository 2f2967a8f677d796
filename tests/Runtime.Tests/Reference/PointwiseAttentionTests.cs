using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.Runtime.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>
/// Attention over pixels whose projections are convolutions with a kernel of one position trains as the same attention
/// over tokens whose projections are products.
/// </summary>
public sealed class PointwiseAttentionTests
{
    private const int Batch = 2;
    private const int Width = 6;
    private const int Height = 3;
    private const int Pixels = 4 * Height;
    private const int Heads = 2;
    private const int Size = Width / Heads;

    private static readonly string[] Packed = ["qkv", "out"];
    private static readonly string[] Separate = ["q", "k", "v", "out"];

    /// <summary>Three steps of MAC with the same weights on the same data give the same parameters.</summary>
    [Theory]
    [InlineData(true, false, ValueStatistic.Product)]
    [InlineData(true, true, ValueStatistic.Joint)]
    [InlineData(false, true, ValueStatistic.Product)]
    [InlineData(false, false, ValueStatistic.Joint)]
    public void TrainsAsTheDenseForm(bool isPacked, bool isDynamic, ValueStatistic statistic)
    {
        var (image, dense) = (
            Train(true, isPacked, isDynamic, statistic),
            Train(false, isPacked, isDynamic, statistic)
        );
        foreach (var name in isPacked ? Packed : Separate)
        {
            var (units, expected) = (image[name].Length / Width, dense[name]);
            for (var i = 0; i < expected.Length; i++)
            {
                // Weights are [out, in, 1, 1] and [in, out]; float32 rounding of numbers of size 1 over three steps.
                Assert.Equal(expected[i], image[name][(i % units * Width) + (i / units)], 1e-5);
            }

            Assert.All(dense[$"{name}_bias"].Zip(image[$"{name}_bias"]), p => Assert.Equal(p.First, p.Second, 1e-5));
        }
    }

    private static Dictionary<string, double[]> Train(
        bool isImage,
        bool isPacked,
        bool isDynamic,
        ValueStatistic statistic
    )
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "model.onnx");
        File.WriteAllBytes(path, Model(isImage, isPacked, isDynamic));
        var h = new Hyperparameters
        {
            LearningRate = 0.3f,
            Damping = 0.5f,
            StatEvery = 1,
            RefreshEvery = 1,
        };
        var options = new RewriteOptions
        {
            Loss = LossKind.Mse,
            Hyperparameters = h,
            ValueStatistic = statistic,
        };
        var (package, report) = Rewriter.Rewrite(path, options);
        var value = report.Parameters.Single(p => p.Name == (isPacked ? "qkv" : "v"));
        Assert.Equal(isImage ? "MAC conv" : "MAC dense", value.Treatment);
        Assert.Contains("are attention's values", value.Reason, StringComparison.Ordinal);
        Assert.Equal(Heads, Assert.Single(report.Attention).Heads);
        using var session = new MacTrainingSession(package, o => o.IntraOpNumThreads = 1);
        for (var step = 0; step < 3; step++)
        {
            var feeds = new[] { 0, 1 }
                .Select(i => OrtValues.Of(Waves.Of((2 * step) + i, Batch, Width, Height, Pixels / Height)))
                .ToArray();
            session.TrainStep(feeds);
            Array.ForEach(feeds, f => f.Dispose());
            Assert.True(session.OptimizerStep());
        }

        return session.GetState().ToDictionary(s => s.Key, s => s.Value.ToDouble(), StringComparer.Ordinal);
    }

    /// <summary>x + out(attention(q(x), k(x), v(x))) of an image [batch, channels, height, width].</summary>
    private static byte[] Model(bool isImage, bool isPacked, bool isDynamic)
    {
        var graph = new Graph { Name = "pixels", Opsets = { [""] = 21 } };
        var b = new GraphBuilder(graph);
        var x = b.Input("x", ElementType.Float, Shape.Of(Batch, Width, Height, Pixels / Height));
        if (isDynamic)
        {
            x.Declared = new(
                ElementType.Float,
                [new(null, "batch"), new(Width, null), new(null, "height"), new(Pixels / Height, null)]
            );
        }

        var input = isImage ? new Term(b, x) : Tokens(new(b, x));
        Term[] parts = isPacked
            ?
            [
                .. b.Node(
                        "Split",
                        "",
                        [Project(input, "qkv", 3 * Width), b.Int64s(Width, Width, Width)],
                        3,
                        Int("axis", isImage ? 1 : -1)
                    )
                    .Outputs.Select(o => new Term(b, o)),
            ]
            : [.. Separate.Take(3).Select(name => Project(input, name, Width))];

        // Of pixels [batch, heads, size, pixels], of tokens [batch, heads, tokens, size].
        Term Head(int i) =>
            isImage ? parts[i].Reshape(0, Heads, Size, -1) : parts[i].Reshape(0, -1, Heads, Size).Transpose(0, 2, 1, 3);
        var (q, k, v) = (Head(0), Head(1), Head(2));
        Term result;
        if (isImage)
        {
            var p = new Term(b, b.Op("Einsum", [q.V, k.V], Text("equation", "bhdi,bhdj->bhij"))).Op(
                "Softmax",
                Int("axis", -1)
            );
            var image = v.Op("MatMul", p.Transpose(0, 1, 3, 2)).Reshape(0, Width, -1, Pixels / Height);
            result = Project(image, "out", Width);
        }
        else
        {
            var p = q.Op("MatMul", k.Transpose(0, 1, 3, 2)).Op("Softmax", Int("axis", -1));
            var tokens = p.Op("MatMul", v).Transpose(0, 2, 1, 3).Reshape(0, -1, Width);
            result = Project(tokens, "out", Width).Transpose(0, 2, 1).Reshape(0, Width, -1, Pixels / Height);
        }

        graph.Outputs.Add(new Term(b, x) + result);
        return ModelWriter.ToBytes(graph);

        Term Tokens(Term image) => image.Reshape(0, Width, -1).Transpose(0, 2, 1);

        Term Project(Term value, string name, int units)
        {
            var weights = Waves.Of(name[0], units, Width);
            var bias = new Term(b, graph.AddConstant($"{name}_bias", Waves.Of(name[0] + 1, units)));
            if (isImage)
            {
                var kernel = graph.AddConstant(name, new Tensor(weights.Type, [units, Width, 1, 1], weights.Data));
                return new(b, b.Op("Conv", [value, kernel, bias.V]));
            }

            var numbers = weights.Span<float>().ToArray();
            float[] turned =
            [
                .. Enumerable.Range(0, numbers.Length).Select(i => numbers[(i % units * Width) + (i / units)]),
            ];
            return value.Op("MatMul", new Term(b, graph.AddConstant(name, Tensor.From<float>([Width, units], turned))))
                + bias;
        }
    }
}
