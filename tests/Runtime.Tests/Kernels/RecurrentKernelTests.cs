using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Lowering;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.Runtime.Kernels;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Kernels;

/// <summary>The kernels of recurrent steps, forward and backward, on random shapes.</summary>
public sealed class RecurrentKernelTests
{
    /// <summary>
    /// Outputs and gradients are those that ONNX Runtime computes of the same graph in double, where no kernel takes a
    /// call; and two threads give the bits that one gives.
    /// </summary>
    /// <param name="width">The width of the kernels' vectors in bits.</param>
    [Theory]
    [InlineData(512)]
    [InlineData(256)]
    [InlineData(128)]
    public void RandomShapesGiveWhatDoublesGive(int width)
    {
        for (var seed = 0; seed < 36; seed++)
        {
            var random = new Random(seed);
            var shape = Shape.Random(seed, random);
            var inputs = shape.Inputs(random);
            var expected = Run(shape.Model(ElementType.Double), inputs, ElementType.Double, 0, 1);
            var model = shape.Model(ElementType.Float);
            var one = Run(model, inputs, ElementType.Float, width, 1);
            var two = Run(model, inputs, ElementType.Float, width, 2);
            for (var i = 0; i < expected.Length; i++)
            {
                Assert.Equal(one[i], two[i]);
                var scale = expected[i].Select(Math.Abs).DefaultIfEmpty(0).Max() + 1e-3;

                // Float32 rounding of up to 20 steps, each a sum of up to 300 products of numbers below 1;
                // pre-activations of large inputs are rounded to 1e-4.
                var tolerance = shape.Size > 1 ? 1e-3 : 1e-5;
                Assert.All(
                    expected[i].Zip(one[i]).Index(),
                    p =>
                        Assert.True(
                            Math.Abs(p.Item.First - p.Item.Second) <= tolerance * scale,
                            $"{shape}, output {i}[{p.Index}]: {p.Item.Second} instead of {p.Item.First} (of {scale})"
                        )
                );
            }
        }
    }

    private static double[][] Run(byte[] model, List<double[]> inputs, ElementType type, int width, int threads)
    {
        using var options = new SessionOptions
        {
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
            IntraOpNumThreads = threads,
        };
        if (width > 0)
        {
            Simd.Width = width;
            KernelRegistry.AddTo(options);
        }

        try
        {
            using var session = new InferenceSession(model, options);
            using var run = new RunOptions();
            var names = session.InputNames.ToArray();
            var feeds = names
                .Select(n =>
                {
                    var dims = session.InputMetadata[n].Dimensions.Select(d => (long)d).ToArray();
                    var numbers = inputs[int.Parse(n[5..], System.Globalization.CultureInfo.InvariantCulture)];
                    return OrtValues.Of(
                        type == ElementType.Double
                            ? Tensor.From<double>(dims, numbers)
                            : Tensor.From<float>(dims, [.. numbers.Select(v => (float)v)])
                    );
                })
                .ToArray();
            using var results = session.Run(run, names, feeds, session.OutputNames);
            Array.ForEach(feeds, f => f.Dispose());
            return
            [
                .. results.Select(r =>
                    type == ElementType.Double
                        ? r.GetTensorDataAsSpan<double>().ToArray()
                        : [.. r.GetTensorDataAsSpan<float>().ToArray().Select(v => (double)v)]
                ),
            ];
        }
        finally
        {
            Simd.Width = 0;
        }
    }

    private sealed record Shape(
        string Op,
        string Direction,
        long Steps,
        long Batch,
        long In,
        long Hidden,
        int[]? Lengths,
        double Size
    )
    {
        private long Directions => Direction == "bidirectional" ? 2 : 1;

        private long Gates =>
            Op switch
            {
                "LSTM" => 4,
                "GRU" => 3,
                _ => 1,
            };

        private long[][] Dims =>
            [
                [Steps, Batch, In],
                [Directions, Gates * Hidden, In],
                [Directions, Gates * Hidden, Hidden],
                [Directions, 2 * Gates * Hidden],
                [Directions, Batch, Hidden],
                .. Op == "LSTM"
                    ?
                    [
                        [Directions, Batch, Hidden],
                    ]
                    : Array.Empty<long[]>(),
                [Steps, Directions, Batch, Hidden],
                [Directions, Batch, Hidden],
                .. Op == "LSTM"
                    ?
                    [
                        [Directions, Batch, Hidden],
                    ]
                    : Array.Empty<long[]>(),
            ];

        public static Shape Random(int seed, Random random)
        {
            var (steps, batch, hidden) = (random.Next(1, 20), random.Next(1, 40), random.Next(1, 150));
            return new(
                new[] { "LSTM", "GRU", "RNN" }[seed % 3],
                new[] { "forward", "reverse", "bidirectional" }[seed / 3 % 3],
                steps,
                batch,
                random.Next(1, 10),
                hidden,
                random.Next(2) == 0 ? null : [.. Enumerable.Range(0, batch).Select(_ => random.Next(1, steps + 1))],
                random.Next(6) == 0 ? 1000 : 1
            );
        }

        /// <summary>
        /// Gives numbers below 1 for weights; the inputs are at times so large that gates are closed.
        /// </summary>
        public List<double[]> Inputs(Random random) =>
            [
                .. Dims.Index()
                    .Select(d =>
                        Enumerable
                            .Range(0, (int)Tensor.CountOf(d.Item))
                            .Select(_ =>
                                (float)(random.NextDouble() - 0.5)
                                * (d.Index == 0 ? Size : 1)
                                * (float)(d.Index == 2 ? 1 / Math.Sqrt(Hidden) : 1)
                            )
                            .Select(v => (double)(float)v)
                            .ToArray()
                    ),
            ];

        /// <summary>Makes the graph of outputs and gradients, with the calls that kernels take.</summary>
        public byte[] Model(ElementType type)
        {
            var graph = new Graph { Name = "recurrent" };
            graph.Opsets[""] = OpsetUpgrade.Target;
            var b = new GraphBuilder(graph);
            var all = Dims.Select((d, i) => b.Input($"input{i}", type, GraphRewriter.Ir.Shape.Of(d))).ToArray();
            var lengths = Lengths is null ? null : b.Constant(Tensor.From<int>([Batch], Lengths));
            var states = Op == "LSTM" ? 2 : 1;
            Value?[] operands =
            [
                .. all[..4],
                lengths,
                .. all[4..(4 + states)],
                .. states == 1 ? [null] : Array.Empty<Value?>(),
                null,
            ];
            Value?[] gradients = [.. all[(4 + states)..], .. states == 1 ? [null] : Array.Empty<Value?>()];
            Attr[] attributes =
            [
                Int("hidden_size", Hidden),
                Text("direction", Direction),
                Int("linear_before_reset", 1),
            ];
            var node = new Node(Op, "", "node", operands, attributes);
            var saved = Enumerable.Range(0, (int)Directions).Sum(d => RecurrentCell.Of(node, d).SavedCount);
            var forward = b.Node($"{Op}Forward", OpTable.GradientDomain, operands, 1 + states + saved, attributes);
            var backward = b.Node(
                $"{Op}Grad",
                OpTable.GradientDomain,
                [.. operands, .. gradients, .. forward.Outputs.Skip(1 + states)],
                Recurrent.InputCount,
                attributes
            );
            graph.Outputs.AddRange(forward.Outputs.Take(1 + states));
            graph.Outputs.AddRange(
                backward
                    .Outputs.Index()
                    .Where(o => operands[o.Index] is not null && o.Index != Recurrent.Lengths)
                    .Select(o => o.Item)
            );
            Lower.Apply(graph);
            Assert.Equal(
                type == ElementType.Float ? 2 * Directions : 0,
                graph.Nodes.Count(n =>
                    n.Domain == FunctionCall.Domain && n.OpType.Contains("ward", StringComparison.Ordinal)
                )
            );
            return ModelWriter.ToBytes(graph);
        }
    }
}
