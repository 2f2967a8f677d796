using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.Runtime.Kernels;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Kernels;

/// <summary>Batch normalizations of random shapes against sums in double, for each width of vectors.</summary>
public sealed class BatchNormKernelTests
{
    private const int Shapes = 400;
    private const double Epsilon = 1e-3;

    [Theory]
    [InlineData(512)]
    [InlineData(256)]
    [InlineData(128)]
    public void RandomNormalizationsAreThoseOfDoubles(int width)
    {
        Simd.Width = width;
        try
        {
            for (var seed = 0; seed < Shapes; seed++)
            {
                var random = new Random((seed * 3) + width);
                long[] dims =
                [
                    random.Next(2, 6),
                    random.Next(1, 6),
                    .. Enumerable.Range(0, random.Next(1, 4)).Select(a => (long)random.Next(a == 0 ? 8 : 1, 12)),
                ];
                var inputs = Inputs(dims, random);
                var hasRelu = seed % 2 == 0;
                var found = Run(inputs, hasRelu, threads: 1);
                foreach (var ((name, expected), values) in Reference(inputs, hasRelu, found[0]).Zip(found))
                {
                    // Every value is made of terms of size 1, whose rounding stays where they cancel.
                    var scale = Math.Max(expected.Max(Math.Abs), 1);
                    for (var i = 0; i < expected.Length; i++)
                    {
                        Assert.True(
                            Math.Abs(expected[i] - values[i]) <= 1e-5 * scale,
                            $"seed {seed}, {string.Join(',', dims)}: {name}[{i}] is {values[i]} instead of "
                                + $"{expected[i]}"
                        );
                    }
                }
            }
        }
        finally
        {
            Simd.Width = 0;
        }
    }

    [Fact]
    public void ResultsDoNotDependOnTheNumberOfThreads()
    {
        var inputs = Inputs([16, 24, 31, 17], new Random(5));
        Assert.Equal(Run(inputs, hasRelu: true, threads: 1), Run(inputs, hasRelu: true, threads: 2));
    }

    private static Tensor[] Inputs(long[] dims, Random random)
    {
        Tensor Numbers(float mean, params long[] sizes) =>
            Tensor.From<float>(
                sizes,
                [.. Enumerable.Range(0, (int)Tensor.CountOf(sizes)).Select(_ => mean + (2 * random.NextSingle()) - 1)]
            );
        return [Numbers(3, dims), Numbers(1, dims[1]), Numbers(0, dims[1]), Numbers(0, dims)];
    }

    private static float[][] Run(Tensor[] tensors, bool hasRelu, int threads)
    {
        var graph = new Graph { Name = "normalization" };
        graph.Opsets[""] = OpsetUpgrade.Target;
        var b = new GraphBuilder(graph);
        var inputs = tensors
            .Select((t, i) => b.Input($"input{i}", ElementType.Float, Shape.Of(t.Dims.AsSpan())))
            .ToArray();
        var (x, scale, bias, dY) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        var forward = b.Node(
            hasRelu ? "BatchNormRelu" : "BatchNorm",
            FunctionCall.Domain,
            [x, scale, bias, scale, bias],
            3,
            Float("epsilon", Epsilon)
        );
        var (y, mean, variance) = (forward.Outputs[0], forward.Outputs[1], forward.Outputs[2]);
        var backward = b.Node(
            hasRelu ? "BatchNormReluGrad" : "BatchNormGrad",
            FunctionCall.Domain,
            hasRelu ? [dY, x, scale, mean, variance, y] : [dY, x, scale, mean, variance],
            3,
            Float("epsilon", Epsilon),
            Int("training_mode", 1)
        );
        graph.Outputs.AddRange([.. forward.Outputs, .. backward.Outputs]);
        using var options = new SessionOptions { IntraOpNumThreads = threads };
        KernelRegistry.AddTo(options);
        using var session = new InferenceSession(ModelWriter.ToBytes(graph), options);
        using var run = new RunOptions();
        using var results = session.Run(
            run,
            [.. inputs.Select(i => i.Name)],
            [.. tensors.Select(OrtValues.Of)],
            [.. session.OutputNames]
        );
        return [.. results.Select(r => r.GetTensorDataAsSpan<float>().ToArray())];
    }

    /// <summary>
    /// The Relu's side of each element is that of the result, so that rounding at the kink is no error.
    /// </summary>
    private static IEnumerable<(string Name, double[] Values)> Reference(Tensor[] inputs, bool hasRelu, float[] found)
    {
        var (x, scale, bias, dY) = (
            inputs[0].ToDouble(),
            inputs[1].ToDouble(),
            inputs[2].ToDouble(),
            inputs[3].ToDouble()
        );
        var dims = inputs[0].Dims;
        var (channels, plane) = ((int)dims[1], (int)Tensor.CountOf(dims.AsSpan()[2..]));
        var channelOf = Enumerable.Range(0, x.Length).Select(i => i / plane % channels).ToArray();
        double[] MeanOf(Func<int, double> term)
        {
            var sums = new double[channels];
            for (var i = 0; i < x.Length; i++)
            {
                sums[channelOf[i]] += term(i) / (x.Length / channels);
            }

            return sums;
        }

        var mean = MeanOf(i => x[i]);
        var variance = MeanOf(i => Math.Pow(x[i] - mean[channelOf[i]], 2));
        var normalized = x.Select((v, i) => (v - mean[channelOf[i]]) / Math.Sqrt(variance[channelOf[i]] + Epsilon))
            .ToArray();
        double Through(int i) => !hasRelu || found[i] > 0 ? dY[i] : 0;
        var (gradient, along) = (MeanOf(Through), MeanOf(i => Through(i) * normalized[i]));
        yield return (
            "Y",
            [
                .. normalized.Select(
                    (n, i) => Math.Max((n * scale[channelOf[i]]) + bias[channelOf[i]], hasRelu ? 0 : double.MinValue)
                ),
            ]
        );
        yield return ("mean", mean);
        yield return ("variance", variance);
        yield return (
            "dX",
            [
                .. normalized.Select(
                    (n, i) =>
                        scale[channelOf[i]]
                        / Math.Sqrt(variance[channelOf[i]] + Epsilon)
                        * (Through(i) - gradient[channelOf[i]] - (n * along[channelOf[i]]))
                ),
            ]
        );
        yield return ("dScale", [.. along.Select(a => a * (x.Length / channels))]);
        yield return ("dBias", [.. gradient.Select(g => g * (x.Length / channels))]);
    }
}
