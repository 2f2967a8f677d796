using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

public class GradientTests
{
    public static TheoryData<string> Cases => [.. GradientCases.All.Keys];

    public static TheoryData<string, string> NotDifferentiable =>
        [
            .. OpTable
                .All.Values.Where(r => r.Gradient is null && !r.IsObstacle)
                .Select(r => (r.Domain, r.OpType))
                .Order(),
        ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Gradient_is_the_slope_of_the_loss(string name) => GradientCheck.Run(GradientCases.All[name], false);

    [Theory]
    [MemberData(nameof(Cases))]
    public void Gradient_of_a_parameter_is_the_slope_of_the_loss(string name) =>
        GradientCheck.Run(GradientCases.All[name], true);

    [Fact]
    public void Every_differentiable_row_has_a_case()
    {
        var tested = GradientCases.All.Values.Select(c => (c.Domain, c.Op)).ToHashSet();

        // What is no operator of a model's, the straight-through rule of quantization, is no slope of the loss.
        var missing = OpTable.All.Values.Where(r =>
            r.Gradient is not null && r.Domain != OpTable.GradientDomain && !tested.Contains((r.Domain, r.OpType))
        );
        Assert.Empty(missing.Select(r => $"{r.Domain}::{r.OpType} at {r.File}:{r.Line} has no row in GradientCases"));
    }

    [Theory]
    [MemberData(nameof(NotDifferentiable))]
    public void Nothing_flows_back_through_a_row_without_gradient(string domain, string op)
    {
        var graph = new Graph { Name = "test" };
        var builder = new GraphBuilder(graph);
        var x = builder.Input("x", ElementType.Float, Shape.Of(2));
        var y = builder.OpIn(domain, op, [x]);
        (y.Type, y.Shape) = (ElementType.Float, Shape.Of(2));
        Assert.DoesNotContain(x, Backward.Differentiate(graph, y, seed: x, [x]).Keys);
    }

    [Fact]
    public void Dropout_in_training_passes_what_it_kept()
    {
        var x = new CaseInput(4, 25).In(1, 2);
        CaseInput Number(double value, bool constant = true) =>
            new()
            {
                Values = new[] { value },
                Differentiated = false,
                Constant = constant,
            };
        CaseInput Flag(bool constant) =>
            new()
            {
                Values = new[] { true },
                Differentiated = false,
                Constant = constant,
            };
        GradientCase[] rows =
        [
            new("Dropout", x, Number(0.4), Flag(true)),
            new("Dropout", x, CaseInput.None, Flag(true)),
            new("Dropout", x, Number(0.3, false), Flag(false)),
            new("Dropout", x, Number(0.3), Flag(true)) { Outputs = [true, false], Opset = 13 },
        ];
        foreach (var row in rows)
        {
            var once = GradientCheck.Once(row);
            Assert.InRange(once.Y.Count(y => y == 0), 10, 90);

            // y = x * kept / (1 - ratio), so that gradient * x = v * y; both sides are rounded a few times.
            Assert.All(
                once.X.Index(),
                p => Assert.Equal(once.V[p.Index] * once.Y[p.Index], once.Gradient[p.Index] * p.Item, 1e-6)
            );
        }
    }

    /// <summary>
    /// Where the function is flat or straight within rounding, so is what flows back: no overflow, no NaN.
    /// </summary>
    [Theory]
    [InlineData("Softplus", 0, 1)]
    [InlineData("Mish", 0, 1)]
    [InlineData("Sigmoid", 0, 0)]
    [InlineData("Tanh", 0, 0)]
    [InlineData("Gelu", 0, 1)]
    [InlineData("Gelu", 0, 1, "com.microsoft")]
    [InlineData("FastGelu", 0, 1, "com.microsoft")]
    [InlineData("QuickGelu", 0, 1, "com.microsoft")]
    [InlineData("HardSwish", 0, 1)]
    [InlineData("Elu", 0, 1)]
    [InlineData("Celu", 0, 1)]
    [InlineData("Softsign", 0, 0)]
    public void Gradient_far_from_zero_is_finite(string op, double left, double right, string domain = "")
    {
        var x = new CaseInput(4) { Values = new[] { -1e4, -120, 120, 1e4 } };
        var once = GradientCheck.Once(new(op, x) { Domain = domain, Type = ElementType.Float });

        // Softsign falls off as 1 / x^2, 7e-5 at 120; the others are exact but for rounding.
        Assert.All(
            once.Gradient.Index(),
            p => Assert.Equal(once.V[p.Index] * (p.Index < 2 ? left : right), p.Item, 1e-4)
        );
    }

    [Fact]
    public void Relu_is_exact_for_the_smallest_numbers()
    {
        var x = new CaseInput(4) { Values = new[] { -1e-37, 0, 1e-37, 1e-20 } };
        var once = GradientCheck.Once(new("Relu", x) { Type = ElementType.Float });
        Assert.Equal([false, false, true, true], once.Gradient.Select(g => g != 0));
    }

    [Fact]
    public void A_use_without_gradient_says_where_and_what()
    {
        GradientCase[] rows =
        [
            new("Einsum", new CaseInput(2, 2)) { Attributes = [Attr.Text("equation", "ii->i")] },
            new(
                "ScatterElements",
                new CaseInput(3),
                new CaseInput(1) { Values = new[] { 0L }, Differentiated = false },
                new CaseInput(1)
            )
            {
                Attributes = [Attr.Text("reduction", "mul")],
            },
        ];
        foreach (var row in rows)
        {
            var error = Assert.Throws<MacOnnxException>(() => GradientCheck.Open(row, false).Dispose());
            Assert.Contains($"{row.Op} 'node'", error.Message, StringComparison.Ordinal);
            Assert.Contains("MAC0102", error.Message, StringComparison.Ordinal);
        }
    }

    /// <summary>ONNX Runtime infers no rank where the axes are data.</summary>
    [Fact]
    public void A_rank_that_data_decide_is_named()
    {
        var row = new GradientCase(
            "ReduceSum",
            new CaseInput(2, 2),
            new CaseInput(1) { Values = new[] { 0L }, Differentiated = false }
        )
        {
            SizeFromData = true,
        };
        var error = Assert.Throws<MacOnnxException>(() => GradientCheck.Open(row, false).Dispose());
        Assert.Equal("MAC0105", error.Diagnostic.Id);
    }
}
