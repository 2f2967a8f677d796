using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Arithmetic, element by element. Broadcasting is undone by the engine, not by each rule.</summary>
internal static class Elementwise
{
    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("Add", g => [g.DY(), g.DY()], Broadcasts: true),
        new("Sub", g => [g.DY(), -g.DY()], Broadcasts: true),
        new("Mul", g => [g.DY() * g.X(1), g.DY() * g.X(0)], Broadcasts: true),
        new("Div", g => [g.DY() / g.X(1), -(g.DY() * g.Y() / g.X(1))], Broadcasts: true),
        new("Neg", g => [-g.DY()]),
        new("Exp", g => [g.DY() * g.Y()]),
        new("Log", g => [g.DY() / g.X()]),
        new("Sqrt", g => [g.DY() / (g.Y() + g.Y())]),
        new("Tanh", g => [g.DY() * (1 - (g.Y() * g.Y()))]),
        new("Sum", g => [.. Enumerable.Repeat<Term?>(g.DY(), g.InputCount)], Broadcasts: true),
        new("Cast", g => [g.X().Type.IsFloatingPoint() ? g.DY().Cast(g.X().Type) : null]),
        new("Floor", null),
    ];
}
