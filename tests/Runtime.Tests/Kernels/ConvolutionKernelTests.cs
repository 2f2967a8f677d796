using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.Runtime.Kernels;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Kernels;

/// <summary>Convolutions of random shapes against sums in double, for each width of vectors.</summary>
public sealed class ConvolutionKernelTests
{
    private const int Shapes = 400;

    public static TheoryData<int> Widths => [512, 256, 128];

    [Theory]
    [MemberData(nameof(Widths))]
    public void RandomConvolutionsAreThoseOfDoubles(int width)
    {
        Simd.Width = width;
        try
        {
            for (var seed = 0; seed < Shapes; seed++)
            {
                var random = new Random((seed * 3) + width);
                var c = Case.Create(random);
                var found = Run(c, threads: 1);
                var (y, dX, dW) = c.Reference();

                // Products of numbers in [-1, 1], at most a few hundred a sum, rounded to float32 each; relative to the
                // largest element.
                Close(c, seed, "Y", y, found[0]);
                Close(c, seed, "dX", dX, found[1]);
                Close(c, seed, "dW", dW, found[2]);
            }
        }
        finally
        {
            Simd.Width = 0;
        }
    }

    /// <summary>
    /// Parts do not depend on the threads: enough work for several, of images, of output channels where images are few,
    /// and of filters where the weights are large.
    /// </summary>
    [Theory]
    [InlineData(16, 12, 24, 1, 18)]
    [InlineData(1, 40, 70, 1, 30)]
    [InlineData(3, 320, 320, 1, 6)]
    [InlineData(4, 32, 32, 32, 40)]
    public void ResultsDoNotDependOnTheNumberOfThreads(int batch, int channels, int filters, int groups, int size)
    {
        var c = new Case
        {
            Batch = batch,
            Groups = groups,
            Channels = channels,
            Filters = filters,
            Size = [size, size],
            Kernel = [3, 3],
            Strides = [1, 1],
            Dilations = [1, 1],
            Pads = [1, 1, 1, 1],
        };
        c.Fill(new Random(4));
        Assert.Equal(Run(c, threads: 1), Run(c, threads: 2));
    }

    private static float[][] Run(Case c, int threads)
    {
        var graph = new Graph { Name = "convolution" };
        graph.Opsets[""] = OpsetUpgrade.Target;
        var b = new GraphBuilder(graph);
        Tensor[] tensors = [c.X, c.W, c.Bias, c.DY];
        var inputs = tensors
            .Select((t, i) => b.Input($"input{i}", ElementType.Float, Shape.Of(t.Dims.AsSpan())))
            .ToArray();
        Value Node(string opType, params Value[] values) =>
            b.Node(
                opType,
                FunctionCall.Domain,
                values,
                1,
                Ints("kernel_shape", c.Kernel),
                Ints("strides", c.Strides),
                Ints("dilations", c.Dilations),
                Ints("pads", c.Pads),
                Int("group", c.Groups),
                Ints("size", c.Size)
            ).Outputs[0];
        graph.Outputs.AddRange([
            Node("ConvWithBias", inputs[..3]),
            Node("ConvDataGrad", inputs[3], inputs[1]),
            Node("ConvWeightGrad", inputs[3], inputs[0]),
            Node("Conv", inputs[..2]),
        ]);
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
        float[][] found = [.. results.Select(r => r.GetTensorDataAsSpan<float>().ToArray())];
        var plane = found[0].Length / (c.Batch * c.Filters);
        var bias = c.Bias.Span<float>();
        for (var i = 0; i < found[0].Length; i++)
        {
            // The bias is where a sum starts: another rounding of each term.
            Assert.Equal(found[0][i], found[3][i] + bias[i / plane % c.Filters], 1e-3);
        }

        return found;
    }

    private static void Close(Case c, int seed, string what, double[] expected, float[] found)
    {
        Assert.Equal(expected.Length, found.Length);
        var scale = Math.Max(1e-9, expected.Max(Math.Abs));
        for (var i = 0; i < expected.Length; i++)
        {
            Assert.True(
                Math.Abs(expected[i] - found[i]) <= 1e-5 * scale,
                $"{c}, seed {seed}: {what}[{i}] is {found[i]} instead of {expected[i]}, of at most {scale}"
            );
        }
    }

    private sealed record Case
    {
        public required int Batch { get; init; }

        public required int Groups { get; init; }

        public required int Channels { get; init; }

        public required int Filters { get; init; }

        public required long[] Size { get; init; }

        public required long[] Kernel { get; init; }

        public required long[] Strides { get; init; }

        public required long[] Dilations { get; init; }

        public required long[] Pads { get; init; }

        public Tensor X { get; private set; } = null!;

        public Tensor W { get; private set; } = null!;

        public Tensor Bias { get; private set; } = null!;

        public Tensor DY { get; private set; } = null!;

        private long[] Outputs =>
            [
                .. Kernel.Select(
                    (k, a) =>
                        ((Size[a] + Pads[a] + Pads[Kernel.Length + a] - ((k - 1) * Dilations[a]) - 1) / Strides[a]) + 1
                ),
            ];

        public static Case Create(Random random)
        {
            while (true)
            {
                var rank = random.Next(4) == 0 ? 1 : 2;
                long[] Numbers(int from, int to, int count) =>
                    [.. Enumerable.Range(0, count).Select(_ => (long)random.Next(from, to))];
                var groups = random.Next(4) == 0 ? random.Next(1, 4) : 1;
                var (channels, filters) = (random.Next(1, 14), random.Next(1, 20));
                if (random.Next(5) == 0)
                {
                    (groups, channels, filters) = (random.Next(1, 9), 1, 1);
                }

                var isPointwise = random.Next(6) == 0;
                if (!isPointwise && random.Next(3) == 0)
                {
                    return ThreeColumns(random, rank);
                }

                var isSmall = random.Next(4) == 0;
                var c = new Case
                {
                    Batch = isSmall ? random.Next(6, 20) : random.Next(1, 4),
                    Groups = groups,
                    Channels = groups * channels,
                    Filters = groups * filters,
                    Size =
                        isSmall ? Numbers(1, 8, rank)
                        : random.Next(3) == 0 ? [.. Numbers(1, 4, rank).Select(n => 8 * n)]
                        : Numbers(1, 24, rank),
                    Kernel = isPointwise ? Numbers(1, 2, rank) : Numbers(1, 6, rank),
                    Strides = random.Next(2) == 0 ? Numbers(1, 2, rank) : Numbers(1, 4, rank),
                    Dilations = random.Next(2) == 0 ? Numbers(1, 2, rank) : Numbers(1, 3, rank),
                    Pads = isPointwise && random.Next(2) == 0 ? new long[2 * rank] : Numbers(0, 4, 2 * rank),
                };
                if (
                    c
                        .Kernel.Index()
                        .All(k =>
                            c.Size[k.Index] + c.Pads[k.Index] + c.Pads[rank + k.Index]
                            > (k.Item - 1) * c.Dilations[k.Index]
                        )
                )
                {
                    c.Fill(random);
                    return c;
                }
            }
        }

        /// <summary>Gives a case that the plans of Winograd take.</summary>
        private static Case ThreeColumns(Random random, int rank)
        {
            var groups = random.Next(1, 3);
            var c = new Case
            {
                Batch = random.Next(1, 4),
                Groups = groups,
                Channels = groups * random.Next(8, 24),
                Filters = groups * random.Next(8, 24),
                Size = rank == 1 ? [random.Next(9, 70)] : [random.Next(4, 20), random.Next(9, 40)],
                Kernel = rank == 1 ? [3] : [random.Next(1, 4), 3],
                Strides = rank == 1 ? [1] : [1, 1],
                Dilations = rank == 1 ? [1] : [random.Next(1, 3), 1],
                Pads = [.. Enumerable.Range(0, 2 * rank).Select(_ => (long)random.Next(0, 4))],
            };
            c.Fill(random);
            return c;
        }

        public void Fill(Random random)
        {
            Tensor Numbers(params long[] dims) =>
                Tensor.From<float>(
                    dims,
                    [.. Enumerable.Range(0, (int)Tensor.CountOf(dims)).Select(_ => (2 * random.NextSingle()) - 1)]
                );
            X = Numbers([Batch, Channels, .. Size]);
            W = Numbers([Filters, Channels / Groups, .. Kernel]);
            Bias = Numbers(Filters);
            DY = Numbers([Batch, Filters, .. Outputs]);
        }

        public (double[] Y, double[] DX, double[] DW) Reference()
        {
            static (int Row, int Column) Two(ReadOnlySpan<long> values) =>
                values.Length == 1 ? (-1, (int)values[0]) : ((int)values[0], (int)values[1]);
            static (int Row, int Column) Or(int missing, (int Row, int Column) pair) =>
                pair.Row < 0 ? (missing, pair.Column) : pair;
            var rank = Kernel.Length;
            var (height, width) = Or(1, Two(Size));
            var (kh, kw) = Or(1, Two(Kernel));
            var (sh, sw) = Or(1, Two(Strides));
            var (dh, dw) = Or(1, Two(Dilations));
            var (ph, pw) = Or(0, Two(Pads.AsSpan(0, rank)));
            var (oh, ow) = Or(1, Two(Outputs));
            var (cg, mg) = (Channels / Groups, Filters / Groups);
            ReadOnlySpan<float> x = X.Span<float>(),
                w = W.Span<float>(),
                bias = Bias.Span<float>(),
                dY = DY.Span<float>();
            var (y, dX, dW) = (new double[dY.Length], new double[x.Length], new double[w.Length]);
            for (var n = 0; n < Batch; n++)
            {
                for (var m = 0; m < Filters; m++)
                {
                    for (var o = 0; o < oh * ow; o++)
                    {
                        var at = (((n * Filters) + m) * oh * ow) + o;
                        var sum = (double)bias[m];
                        for (var c = 0; c < cg; c++)
                        {
                            for (var k = 0; k < kh * kw; k++)
                            {
                                var row = (o / ow * sh) + (k / kw * dh) - ph;
                                var column = (o % ow * sw) + (k % kw * dw) - pw;
                                if (row < 0 || column < 0 || row >= height || column >= width)
                                {
                                    continue;
                                }

                                var i = (((((n * Channels) + (m / mg * cg) + c) * height) + row) * width) + column;
                                var j = (((m * cg) + c) * kh * kw) + k;
                                sum += (double)x[i] * w[j];
                                dX[i] += (double)dY[at] * w[j];
                                dW[j] += (double)dY[at] * x[i];
                            }
                        }

                        y[at] = sum;
                    }
                }
            }

            return (y, dX, dW);
        }
    }
}
