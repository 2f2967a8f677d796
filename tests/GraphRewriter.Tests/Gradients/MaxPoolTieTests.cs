using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Lowering;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

public class MaxPoolTieTests
{
    /// <summary>As in PyTorch, the first of several maxima takes the gradient, whichever lowering is used.</summary>
    [Fact]
    public void First_maximum_takes_the_gradient()
    {
        float[] x = [0, 0, 1, 1, 1, 0, 0, 0, 1, 0, 2, 2, 0, 1, 2, 2];
        Assert.Equal(
            [0f, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0],
            Gradient(x, Ints("kernel_shape", 2, 2), Ints("strides", 2, 2))
        );
        Assert.Equal(
            [0f, 0, 2, 0, 2, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0, 0],
            Gradient(x, Ints("kernel_shape", 2, 2), Ints("strides", 1, 1))
        );
        Assert.Equal(
            [1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Gradient(new float[16], Ints("kernel_shape", 3, 3), Ints("strides", 3, 3))
        );
    }

    [Fact]
    public void First_global_maximum_takes_the_gradient()
    {
        var gradient = Gradient([0, 0, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1]);
        Assert.Equal([0f, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], gradient);
    }

    /// <summary>
    /// Gives the gradient of the sum of a pool (global where no attributes are given) of a 4 x 4 image.
    /// </summary>
    private static float[] Gradient(float[] x, params Attr[] attributes)
    {
        var graph = new Graph { Name = "pool", Opsets = { [""] = 21 } };
        var builder = new GraphBuilder(graph);
        var input = builder.Input("x", ElementType.Float, Shape.Of(1, 1, 4, 4));
        var pooled = builder.Op(attributes.Length > 0 ? "MaxPool" : "GlobalMaxPool", [input], attributes);
        graph.Outputs.Add(builder.Op("ReduceSum", [pooled], Int("keepdims", 0)));
        ShapeInference.Apply(graph, "case");
        graph.Outputs.Add(
            Backward.Differentiate(
                graph,
                graph.Outputs[0],
                new GraphBuilder(graph).Scalar(1, ElementType.Float),
                [input]
            )[input]
        );
        Lower.Apply(graph);
        using var session = new InferenceSession(ModelWriter.ToBytes(graph));
        using var run = new RunOptions();
        using var value = OrtValue.CreateTensorValueFromMemory(x, [1, 1, 4, 4]);
        using var results = session.Run(run, ["x"], [value], [graph.Outputs[1].Name]);
        return results[0].GetTensorDataAsSpan<float>().ToArray();
    }
}
