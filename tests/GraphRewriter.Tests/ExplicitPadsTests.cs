using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests;

public class ExplicitPadsTests
{
    public static TheoryData<string, string, long, long, long> Cases
    {
        get
        {
            var cases = new TheoryData<string, string, long, long, long>();
            foreach (var op in new[] { "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool" })
            {
                foreach (
                    var mode in new[] { "SAME_UPPER", "SAME_LOWER", "VALID", "output_shape", "output_shape SAME_UPPER" }
                )
                {
                    foreach (
                        var (size, kernel, stride) in new[] { (7, 3, 2), (8, 4, 3), (6, 4, 1), (9, 2, 3), (7, 1, 2) }
                    )
                    {
                        // ONNX Runtime itself fails on the SAME max-pool whose windows leave gaps.
                        if (
                            op == "ConvTranspose"
                            || (
                                !mode.StartsWith("output_shape", StringComparison.Ordinal)
                                && (op, kernel, stride) != ("MaxPool", 2, 3)
                            )
                        )
                        {
                            cases.Add(op, mode, size, kernel, stride);
                        }
                    }
                }
            }

            return cases;
        }
    }

    /// <summary>The rewritten node gives exactly what ONNX Runtime makes of the original.</summary>
    [Theory]
    [MemberData(nameof(Cases))]
    public void Explicit_pads_change_nothing(string op, string mode, long size, long kernel, long stride)
    {
        var graph = GraphOf(op, mode, size, kernel, stride);
        var x = Ir.Tensor.From<float>(
            [1, 1, size, size],
            [.. Enumerable.Range(0, (int)(size * size)).Select(i => MathF.Sin(i) + 1.1f)]
        );
        var expected = Run(graph, x);

        ExplicitPads.Apply(graph);
        ShapeInference.Apply(graph, "case");
        ExplicitPads.Apply(graph);
        Assert.DoesNotContain(graph.Nodes[0].Attributes.All, a => a.Name is "auto_pad" or "output_shape");
        Assert.Equal(expected, Run(graph, x));
    }

    private static Graph GraphOf(string op, string mode, long size, long kernel, long stride)
    {
        var graph = new Graph { Name = op, Opsets = { [""] = 21 } };
        var builder = new GraphBuilder(graph);
        var x = builder.Input("x", ElementType.Float, Shape.Of(1, 1, size, size));
        var weights = builder.Constant(
            Ir.Tensor.From<float>(
                [1, 1, kernel, kernel],
                [.. Enumerable.Range(1, (int)(kernel * kernel)).Select(i => (float)i)]
            )
        );
        var attributes = new List<Attr> { Ints("kernel_shape", kernel, kernel), Ints("strides", stride, stride) };
        if (mode.StartsWith("output_shape", StringComparison.Ordinal))
        {
            attributes.Add(Ints("output_shape", (size * stride) - 1, size * stride));
            mode = mode.Length > 12 ? mode[13..] : "NOTSET";
        }

        attributes.Add(Text("auto_pad", mode));
        graph.Outputs.Add(
            builder.Op(op, op.StartsWith("Conv", StringComparison.Ordinal) ? [x, weights] : [x], [.. attributes])
        );
        return graph;
    }

    private static float[] Run(Graph graph, Tensor x)
    {
        using var options = new SessionOptions { LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL };
        using var session = new InferenceSession(ModelWriter.ToBytes(graph), options);
        using var run = new RunOptions();
        using var input = OrtValue.CreateTensorValueFromMemory(x.Span<float>().ToArray(), [.. x.Dims]);
        using var results = session.Run(run, ["x"], [input], [graph.Outputs[0].Name]);
        return
        [
            .. results[0].GetTensorTypeAndShape().Shape.Select(d => (float)d),
            .. results[0].GetTensorDataAsSpan<float>(),
        ];
    }
}
