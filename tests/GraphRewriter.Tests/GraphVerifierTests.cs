using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>Each fault that verifying a graph after a pass finds, and that a sound graph has none.</summary>
public sealed class GraphVerifierTests
{
    private readonly Graph _graph = new() { Name = "g" };
    private readonly GraphBuilder _b;
    private readonly Value _x;
    private readonly Value _y;

    public GraphVerifierTests()
    {
        _graph.Opsets[""] = 17;
        _b = new(_graph);
        _x = _b.Input("x", ElementType.Float, Shape.Of(2, 3));
        _y = Node("Neg", "y", _x).Outputs[0];
        (_y.Type, _y.Shape) = (ElementType.Float, Shape.Of(2, 3));
        _graph.Outputs.Add(_y);
    }

    [Fact]
    public void ASoundGraphHasNone()
    {
        Assert.Null(GraphVerifier.Find(_graph, hasShapes: true));
        Assert.Null(ShapeInference.FindFalseOutput(_graph));
    }

    [Fact]
    public void AnOutputHasTheTypeThatItDeclares()
    {
        _y.Type = ElementType.Double;
        Assert.Equal("the output 'y' is not Double[2,3], as it is declared", ShapeInference.FindFalseOutput(_graph));
    }

    [Theory]
    [InlineData(2L, 4L)]
    [InlineData(6L)]
    [InlineData(1L, 2L, 3L)]
    public void AnOutputHasTheShapeThatItDeclares(params long[] dims)
    {
        _y.Shape = Shape.Of(dims);
        Assert.Contains(
            "the output 'y' is not Float[",
            ShapeInference.FindFalseOutput(_graph),
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void ANodeReadsWhatIsComputedBeforeIt()
    {
        var late = Node("Abs", "late", _x);
        _graph.InsertBefore(_y.Producer!, Node("Exp", "early", late.Outputs[0], attach: false));
        Assert.Contains("reads 'late', which nothing before it computes", Fault(), StringComparison.Ordinal);
    }

    [Fact]
    public void NamesAreUnique()
    {
        Node("Abs", "a", _x);
        Node("Exp", "a", _x);
        Assert.Equal("two values are called 'a'", Fault());
    }

    [Fact]
    public void AnInputIsThereOnce()
    {
        _graph.Inputs.Add(_x);
        Assert.Equal("the input 'x' appears twice", Fault());
    }

    [Fact]
    public void AnInputIsNotComputed()
    {
        _graph.Inputs.Add(_y);
        Assert.Equal("the input 'y' is also computed", Fault());
    }

    [Fact]
    public void OutputsAreComputed()
    {
        _graph.Outputs.Add(new("lost", _graph));
        Assert.Equal("nothing computes the output 'lost'", Fault());
    }

    [Fact]
    public void TypesAreKnownOnceShapesAre()
    {
        _y.Type = ElementType.Undefined;
        Assert.Null(GraphVerifier.Find(_graph, hasShapes: false));
        Assert.Equal("the type of 'y' is not known", Fault());
    }

    private string? Fault() => GraphVerifier.Find(_graph, hasShapes: true);

    private Node Node(string op, string output, Value input, bool attach = true)
    {
        var node = new Node(op, "", op, [input], [], [new(output, _graph)]);
        if (attach)
        {
            _graph.Add(node);
        }

        return node;
    }
}
