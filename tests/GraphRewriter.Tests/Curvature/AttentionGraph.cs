using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Tests.Curvature;

/// <summary>A graph in the making, with dense layers for attention.</summary>
public abstract class AttentionGraph
{
    internal const int Batch = 2;
    internal const int Tokens = 5;
    internal const int Width = 12;
    internal const int Heads = 3;
    internal const int Size = 4;

    internal AttentionGraph() => B = new GraphBuilder(Graph);

    internal Graph Graph { get; } = new() { Name = "case", Opsets = { [""] = 21 } };

    internal GraphBuilder B { get; }

    internal Value Input(string name, params long[] dims) => B.Input(name, ElementType.Float, Shape.Of(dims));

    internal Value Parameter(string name, params long[] dims)
    {
        if (Graph.Nodes.SelectMany(n => n.Reads).FirstOrDefault(v => v.Name == name) is { } known)
        {
            return known;
        }

        var value = Graph.AddValue(name);
        value.Constant = Ir.Tensor.From<float>(
            dims,
            [.. Enumerable.Range(0, (int)Ir.Tensor.CountOf(dims)).Select(i => MathF.Sin(i))]
        );
        (value.Type, value.Shape) = (ElementType.Float, Shape.Of(dims));
        return value;
    }

    /// <summary>A convolution that sees one position at a time; channels lie along axis 1.</summary>
    internal Term Pointwise(Value x, string name, int units, int spatial = 2) =>
        new(
            B,
            B.Op(
                "Conv",
                [
                    x,
                    Parameter(name, [units, Width, .. Enumerable.Repeat(1L, spatial)]),
                    Parameter($"{name}_bias", units),
                ]
            )
        );

    internal Term Dense(Value x, string name, int units) =>
        new Term(B, x).Op("MatMul", Parameter(name, Width, units)) + new Term(B, Parameter($"{name}_bias", units));
}
