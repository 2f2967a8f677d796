using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

public class GradientTests
{
    public static TheoryData<string> Cases => [.. GradientCases.All.Keys];

    public static TheoryData<string, string> NotDifferentiable =>
        [.. OpTable.All.Values.Where(r => r.Gradient is null).Select(r => (r.Domain, r.OpType)).Order()];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Gradient_is_the_slope_of_the_loss(string name) => GradientCheck.Run(GradientCases.All[name]);

    [Fact]
    public void Every_differentiable_row_has_a_case()
    {
        var tested = GradientCases.All.Values.Select(c => (c.Domain, c.Op)).ToHashSet();
        var missing = OpTable.All.Values.Where(r => r.Gradient is not null && !tested.Contains((r.Domain, r.OpType)));
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
        Assert.Empty(Backward.Differentiate(graph, y, [x]));
    }
}
