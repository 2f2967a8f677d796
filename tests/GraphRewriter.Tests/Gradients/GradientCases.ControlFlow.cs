using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

/// <summary>Operators with subgraphs. Values from outside are further inputs of the case, by name.</summary>
internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> ControlFlow =>
        [
            Choice(true),
            Choice(false),
            Choice(true) with
            {
                Outputs = [true, false],
            },
            Steps3(0, 0),
            Steps3(1, 0),
            Steps3(0, 1),
            Steps3(1, 1) with
            {
                Outputs = [true, false],
            },
            Steps3(0, 0) with
            {
                Outputs = [false, true],
            },
            new GradientCase("Scan", X(2), X(3, 2), X(2, 2))
            {
                Attributes = [Int("num_scan_inputs", 1), Graph("body", Nested())],
                Outputs = [true, true],
                NodeInputs = 2,
            },
        ];

    /// <summary>Two results of x1 and x2: products in one branch, a sum and x1 itself in the other.</summary>
    private static GradientCase Choice(bool condition)
    {
        var outer = Outer(out var x);
        var b = new GraphBuilder(outer);
        return new GradientCase("If", Data([], new[] { condition }), X(2, 3), X(2, 3))
        {
            Attributes =
            [
                Graph("then_branch", b.Body("then", inner => [(x(inner, 1) * x(inner, 2)).Tanh(), x(inner, 2).Exp()])),
                Graph("else_branch", b.Body("else", inner => [x(inner, 1) + x(inner, 2).Sigmoid(), x(inner, 1)])),
            ],
            Outputs = [true, true],
            NodeInputs = 1,
        };
    }

    /// <summary>h' = tanh(h W + x), which is also a result; W = x2 is from outside.</summary>
    private static GradientCase Steps3(long input, long output)
    {
        var outer = Outer(out var x);
        var body = new GraphBuilder(outer).Body(
            "body",
            inner =>
            {
                var (h, slice) = (Input(inner, "h", 1, 2), Input(inner, "slice", 1, 2));
                var next = (h.Op("MatMul", x(inner, 2)) + slice).Tanh();
                return [next, (next * slice).V];
            }
        );
        return new GradientCase("Scan", X(1, 2), X(3, 1, 2), X(2, 2))
        {
            Attributes =
            [
                Int("num_scan_inputs", 1),
                Ints("scan_input_directions", input),
                Ints("scan_output_directions", output),
                Graph("body", body),
            ],
            Outputs = [true, true],
            NodeInputs = 2,
        };
    }

    /// <summary>A step that chooses by the sign of a sum what it does.</summary>
    private static Graph Nested()
    {
        var outer = Outer(out var x);
        return new GraphBuilder(outer).Body(
            "body",
            inner =>
            {
                var (h, slice) = (Input(inner, "h", 2), Input(inner, "slice", 2));
                var flag = Total(h).Op("Greater", Total(slice));
                var chosen = inner.Node(
                    "If",
                    "",
                    [flag.V],
                    1,
                    Graph("then_branch", inner.Body("then", b => [Total(new Term(b, h.V) * x(b, 2))])),
                    Graph("else_branch", inner.Body("else", b => [Total(new Term(b, slice.V).Exp())]))
                );
                chosen.Outputs[0].Type = ElementType.Double;
                return [h.Tanh() + new Term(inner, chosen.Outputs[0]), (h * slice).V];
            }
        );
    }

    private static Term Total(Term x) => x.Op("ReduceSum", Int("keepdims", 0));

    private static Term Input(GraphBuilder b, string name, params long[] dims) =>
        new(b, b.Input(name, ElementType.Double, Shape.Of(dims)));

    private static Graph Outer(out Func<GraphBuilder, int, Term> input)
    {
        var outer = new Graph { Name = "outer" };
        outer.Opsets[""] = 21;
        var values = Enumerable
            .Range(0, 3)
            .Select(i =>
            {
                var value = outer.AddValue($"x{i}");
                value.Type = ElementType.Double;
                return value;
            })
            .ToArray();
        input = (b, i) => new(b, values[i]);
        return outer;
    }
}
