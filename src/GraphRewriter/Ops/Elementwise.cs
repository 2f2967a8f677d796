using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Arithmetic, element by element. Broadcasting is undone by the engine, not by each rule.</summary>
internal static class Elementwise
{
    private const double TwoOverRootPi = 1.1283791670955126;

    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("Add", g => [g.DY(), g.DY()], Broadcasts: true, Flow: Flow.Linear),
        new("Sub", g => [g.DY(), -g.DY()], Broadcasts: true, Flow: Flow.Linear),
        new("Mul", g => [g.DY() * g.X(1), g.DY() * g.X(0)], Broadcasts: true, Flow: Flow.Linear),
        new("Div", g => [g.DY() / g.X(1), -(g.DY() * g.Y() / g.X(1))], Broadcasts: true, Flow: Flow.Linear),
        new(
            "Mod",
            g => [g.DY(), -(g.DY() * ((g.X(0) - g.Y()) / g.X(1)).Op("Round"))],
            Broadcasts: true,
            Flow: Flow.Pointwise
        ),
        new("Pow", Pow, Broadcasts: true, Flow: Flow.Pointwise),
        new("Sum", g => ForEach(g, _ => g.DY()), Broadcasts: true, Flow: Flow.Linear),
        new("Mean", g => ForEach(g, _ => g.DY() / g.InputCount), Broadcasts: true, Flow: Flow.Linear),
        new("Max", SharedByTies, Broadcasts: true, Flow: Flow.Pointwise),
        new("Min", SharedByTies, Broadcasts: true, Flow: Flow.Pointwise),
        new(
            "Where",
            g => [null, g.DY().Where(g.X(0), g.DY().Scalar(0)), g.DY().Scalar(0).Where(g.X(0), g.DY())],
            Broadcasts: true,
            Flow: Flow.Pointwise,
            ResultType: n => n.Inputs[1]!.Type
        ),
        new("Clip", Clip, Broadcasts: true, Flow: Flow.Pointwise),
        new("Neg", g => [-g.DY()], Flow: Flow.Linear),
        new("Abs", g => [g.DY() * g.X().Op("Sign")], Flow: Flow.Pointwise),
        new("Reciprocal", g => [-(g.DY() * g.Y() * g.Y())], Flow: Flow.Pointwise),
        new("Sqrt", g => [g.DY() / (g.Y() + g.Y())], Flow: Flow.Pointwise),
        new("Exp", g => [g.DY() * g.Y()], Flow: Flow.Pointwise),
        new("Log", g => [g.DY() / g.X()], Flow: Flow.Pointwise),
        new("Erf", g => [g.DY() * (TwoOverRootPi * (-(g.X() * g.X())).Exp())], Flow: Flow.Pointwise),
        new("Sin", g => [g.DY() * g.X().Op("Cos")], Flow: Flow.Pointwise),
        new("Cos", g => [-(g.DY() * g.X().Op("Sin"))], Flow: Flow.Pointwise),
        new("Tan", g => [g.DY() * (1 + (g.Y() * g.Y()))], Flow: Flow.Pointwise),
        new("Asin", g => [g.DY() / (1 - (g.X() * g.X())).Sqrt()], Flow: Flow.Pointwise),
        new("Acos", g => [-(g.DY() / (1 - (g.X() * g.X())).Sqrt())], Flow: Flow.Pointwise),
        new("Atan", g => [g.DY() / (1 + (g.X() * g.X()))], Flow: Flow.Pointwise),
        new("Sinh", g => [g.DY() * g.X().Op("Cosh")], Flow: Flow.Pointwise),
        new("Cosh", g => [g.DY() * g.X().Op("Sinh")], Flow: Flow.Pointwise),
        new("Asinh", g => [g.DY() / (1 + (g.X() * g.X())).Sqrt()], Flow: Flow.Pointwise),
        new("Acosh", g => [g.DY() / ((g.X() - 1) * (g.X() + 1)).Sqrt()], Flow: Flow.Pointwise),
        new("Atanh", g => [g.DY() / (1 - (g.X() * g.X()))], Flow: Flow.Pointwise),
        new("Identity", g => [g.DY()], Flow: Flow.Linear),
        new("Cast", g => [CastBack(g)], Flow: Flow.Linear, ResultType: n => (ElementType)n.Attributes.Int("to", 0)),
        new("CastLike", g => [CastBack(g)], NoGradient: [1], Flow: Flow.Linear, ResultType: n => n.Inputs[1]!.Type),
    ];

    private static Term?[] ForEach(GradientContext g, Func<int, Term> gradient) =>
        [.. Enumerable.Range(0, g.InputCount).Select(i => (Term?)gradient(i))];

    private static Term? CastBack(GradientContext g) => g.X().Type.IsFloatingPoint() ? g.DY().Cast(g.X().Type) : null;

    /// <summary>Inputs that share the extreme share what flows back evenly.</summary>
    private static Term?[] SharedByTies(GradientContext g)
    {
        if (g.InputCount == 1)
        {
            return [g.DY()];
        }

        var hits = Enumerable
            .Range(0, g.InputCount)
            .Select(i => g.X(i).Op("Equal", g.Y()).AsNumber(g.Y().Type))
            .ToArray();
        var each = g.DY() / hits.Aggregate((a, b) => a + b);
        return ForEach(g, i => each * hits[i]);
    }

    /// <summary>The bounds themselves pass, as torch.clamp has it.</summary>
    private static Term?[] Clip(GradientContext g)
    {
        var zero = g.DY().Scalar(0);
        return
        [
            g.DY() * g.X().Op("Equal", g.Y()).AsNumber(g.Y().Type),
            g.Needs(1) ? g.DY().Where(g.X().Op("Less", g.X(1)), zero) : null,
            g.Needs(2) ? g.DY().Where(g.X().Op("Greater", g.X(2)), zero) : null,
        ];
    }

    private static Term?[] Pow(GradientContext g)
    {
        var (x, exponent, type) = (g.X(0), g.X(1), g.X(0).Type);
        if (exponent.V.Constant is { ElementCount: 1 } constant)
        {
            var power = constant.Type.IsFloatingPoint() ? constant.ToDouble()[0] : constant.ToInt64()[0];
            return
            [
                power switch
                {
                    0 => g.Y().Zeros(),
                    0.5 => g.DY() * 0.5 / g.Y(),
                    1 => g.DY(),
                    2 => g.DY() * (x + x),
                    3 => g.DY() * (x * x * 3),
                    _ => g.DY() * (power * x.Op("Pow", x.Scalar(power - 1))),
                },
            ];
        }

        // x^0 is 1 everywhere, also where x^-1 is infinite; 0^e is 0 around every e > 0.
        var e = exponent.Cast(type);
        var zero = x.Scalar(0);
        var slope = zero.Where(e.Op("Equal", zero), e * x.Op("Pow", e - 1));
        return [g.DY() * slope, g.Needs(1) ? (g.DY() * g.Y() * x.Log()).Where(x.Op("Greater", zero), zero) : null];
    }
}
