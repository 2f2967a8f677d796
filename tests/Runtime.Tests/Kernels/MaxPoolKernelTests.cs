using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.Runtime.Kernels;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Kernels;

/// <summary>Gradients of max pools of 2 x 2, which have a loop of their own, for each width of vectors.</summary>
public sealed class MaxPoolKernelTests
{
    [Theory]
    [InlineData(512)]
    [InlineData(256)]
    [InlineData(128)]
    public void TheFirstMaximumOfEachWindowGetsTheGradient(int width)
    {
        Simd.Width = width;
        try
        {
            for (var seed = 0; seed < 100; seed++)
            {
                var random = new Random(seed);
                long[] dims = [random.Next(1, 3), random.Next(1, 4), random.Next(2, 9), random.Next(2, 80)];
                var (planes, height, columns) = ((int)(dims[0] * dims[1]), (int)dims[2], (int)dims[3]);
                // Few values, so that windows have several maxima.
                float[] x = [.. Enumerable.Range(0, planes * height * columns).Select(_ => (float)random.Next(4))];
                var windows = planes * (height / 2) * (columns / 2);
                float[] y = new float[windows],
                    dY = [.. Enumerable.Range(0, windows).Select(_ => random.NextSingle())],
                    expected = new float[x.Length];
                for (var w = 0; w < windows; w++)
                {
                    var (row, column) = (w / (columns / 2), w % (columns / 2));
                    var first = ((((row / (height / 2)) * height) + (row % (height / 2) * 2)) * columns) + (2 * column);
                    int[] places = [first, first + 1, first + columns, first + columns + 1];
                    y[w] = places.Max(p => x[p]);
                    expected[places.First(p => x[p] == y[w])] = dY[w];
                }

                Assert.Equal(expected, Run(dims, x, y, dY));
            }
        }
        finally
        {
            Simd.Width = 0;
        }
    }

    private static float[] Run(long[] dims, float[] x, float[] y, float[] dY)
    {
        long[] windows = [dims[0], dims[1], dims[2] / 2, dims[3] / 2];
        Tensor[] tensors =
        [
            Tensor.From<float>(windows, dY),
            Tensor.From<float>(dims, x),
            Tensor.From<float>(windows, y),
        ];
        var graph = new Graph { Name = "pool" };
        graph.Opsets[""] = OpsetUpgrade.Target;
        var b = new GraphBuilder(graph);
        var inputs = tensors
            .Select((t, i) => b.Input($"input{i}", ElementType.Float, Shape.Of(t.Dims.AsSpan())))
            .ToArray();
        graph.Outputs.AddRange(
            b.Node(
                "MaxPoolGrad",
                FunctionCall.Domain,
                inputs,
                1,
                Ints("kernel_shape", 2, 2),
                Ints("strides", 2, 2),
                Ints("dilations", 1, 1),
                Ints("pads", 0, 0, 0, 0)
            ).Outputs
        );
        using var options = new SessionOptions();
        KernelRegistry.AddTo(options);
        using var session = new InferenceSession(ModelWriter.ToBytes(graph), options);
        using var run = new RunOptions();
        using var results = session.Run(
            run,
            [.. inputs.Select(i => i.Name)],
            [.. tensors.Select(OrtValues.Of)],
            [.. session.OutputNames]
        );
        return results[0].GetTensorDataAsSpan<float>().ToArray();
    }
}
