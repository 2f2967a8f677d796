using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>An activation of a recurrent cell.</summary>
/// <param name="Name">The name, as the attribute activations spells it.</param>
/// <param name="Parameters">How many of alpha and beta it takes.</param>
/// <param name="Alpha">Alpha, here its default.</param>
/// <param name="Beta">Beta, here its default.</param>
/// <param name="NeedsInput">Whether the output does not determine the slope.</param>
/// <param name="Function">Gives y of x, alpha and beta.</param>
/// <param name="SlopeOf">Gives dy/dx of x (y where the slope needs no x), y, alpha and beta.</param>
internal sealed record CellActivation(
    string Name,
    int Parameters,
    double Alpha,
    double Beta,
    bool NeedsInput,
    Func<Term, double, double, Term> Function,
    Func<Term, Term, double, double, Term> SlopeOf
)
{
    private static readonly CellActivation[] All =
    [
        new("Sigmoid", 0, 0, 0, false, (x, _, _) => x.Sigmoid(), (_, y, _, _) => y * (1 - y)),
        new("Tanh", 0, 0, 0, false, (x, _, _) => x.Tanh(), (_, y, _, _) => 1 - (y * y)),
        new("Relu", 0, 0, 0, false, (x, _, _) => x.Relu(), (_, y, _, _) => Where(y, "Greater", 0)),
        new("Affine", 2, 1, 0, false, (x, a, b) => (x * a) + b, (_, y, a, _) => y.Scalar(a)),
        new(
            "LeakyRelu",
            1,
            0.01,
            0,
            true,
            (x, a, _) => x.Relu() + (Negative(x) * a),
            (x, _, a, _) => x.Scalar(1).Where(x.Op("Greater", x.Scalar(0)), x.Scalar(a))
        ),
        new(
            "ThresholdedRelu",
            1,
            1,
            0,
            true,
            (x, a, _) => x * Where(x, "Greater", a),
            (x, _, a, _) => Where(x, "Greater", a)
        ),
        new(
            "ScaledTanh",
            2,
            1,
            1,
            true,
            (x, a, b) => (x * b).Tanh() * a,
            (x, _, a, b) => (1 - ((x * b).Tanh() * (x * b).Tanh())) * (a * b)
        ),
        new(
            "HardSigmoid",
            2,
            0.2,
            0.5,
            false,
            (x, a, b) => ((x * a) + b).Op("Clip", x.Scalar(0), x.Scalar(1)),
            (_, y, a, _) => Where(y, "Greater", 0) * Where(y, "Less", 1) * a
        ),
        new(
            "Elu",
            1,
            1,
            0,
            true,
            (x, a, _) => x.Relu() + ((Negative(x).Exp() - 1) * a),
            (x, y, a, _) => x.Scalar(1).Where(x.Op("Greater", x.Scalar(0)), y + a)
        ),
        new("Softsign", 0, 0, 0, false, (x, _, _) => x / (1 + x.Abs()), (_, y, _, _) => (1 - y.Abs()) * (1 - y.Abs())),
        new(
            "Softplus",
            0,
            0,
            0,
            false,
            (x, _, _) => x.Relu() + (1 + (-x.Abs()).Exp()).Log(),
            (_, y, _, _) => 1 - (-y).Exp()
        ),
    ];

    /// <summary>
    /// Reads the activations of a node: alphas and betas are lists, of which each activation that has such a parameter
    /// takes the next, or its default where they end.
    /// </summary>
    /// <param name="node">The recurrent node.</param>
    /// <param name="defaults">The activations of one direction where the node names none.</param>
    /// <param name="directions">The number of directions.</param>
    /// <exception cref="MacOnnxException">An activation is none of ONNX's (MAC0102).</exception>
    public static CellActivation[] Of(Node node, string[] defaults, int directions)
    {
        string[] names = node.Attributes.Find("activations")?.Value is string[] { Length: > 0 } given
            ? given
            : [.. Enumerable.Repeat(defaults, directions).SelectMany(d => d)];
        var (alphas, betas) = (Numbers("activation_alpha"), Numbers("activation_beta"));
        var found = names.Select(name =>
        {
            var row = All.FirstOrDefault(a => string.Equals(a.Name, name, StringComparison.OrdinalIgnoreCase));
            return row is null
                ? throw new MacOnnxException(
                    "MAC0102",
                    node.ToString(),
                    $"No gradient is known where an activation is '{name}'.",
                    "Use one of the activations that ONNX defines for recurrent operators."
                )
                : row with
                {
                    Alpha = row.Parameters > 0 && alphas.TryDequeue(out var alpha) ? alpha : row.Alpha,
                    Beta = row.Parameters > 1 && betas.TryDequeue(out var beta) ? beta : row.Beta,
                };
        });
        return [.. found];

        Queue<float> Numbers(string attribute) => new(node.Attributes.Floats(attribute) ?? []);
    }

    public Term Apply(Term x) => Function(x, Alpha, Beta);

    /// <summary>Gives the slope at x, where the function is y.</summary>
    public Term Slope(Term x, Term y) => SlopeOf(x, y, Alpha, Beta);

    private static Term Negative(Term x) => x.Op("Min", x.Scalar(0));

    private static Term Where(Term x, string comparison, double bound) =>
        x.Op(comparison, x.Scalar(bound)).AsNumber(x.Type);
}
