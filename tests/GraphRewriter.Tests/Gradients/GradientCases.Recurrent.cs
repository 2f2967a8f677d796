using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

/// <summary>Recurrent operators: 4 time steps of 3 sequences of 2 numbers, 2 hidden units.</summary>
internal static partial class GradientCases
{
    private const long Steps = 4,
        Sequences = 3,
        Features = 2,
        Units = 2;

    private static bool?[] AllOfLstm => [true, true, true];

    private static bool?[] AllOfOthers => [true, true];

    private static IEnumerable<GradientCase> Recurrent =>
        [
            .. new[] { "RNN", "GRU", "LSTM" }.SelectMany(Common),
            Cell("GRU") with
            {
                Attributes = [Int("hidden_size", Units), Int("linear_before_reset", 1)],
            },
            Cell("GRU", 2, lengths: [4, 1, 3]) with
            {
                Attributes = Bidirectional(Int("linear_before_reset", 1), Float("clip", 0.3)),
                Outputs = AllOfOthers,
            },
            Cell("GRU", bias: false) with
            {
                Attributes = [Int("hidden_size", Units), Int("linear_before_reset", 1)],
            },
            Cell("GRU") with
            {
                Attributes = WithActivations(["HardSigmoid", "ScaledTanh"], [0.3f, 1.2f], [0.4f, 0.7f]),
            },
            Cell("LSTM", peepholes: true) with
            {
                Attributes = [Int("hidden_size", Units)],
                Outputs = AllOfLstm,
            },
            Cell("LSTM", 2, peepholes: true, lengths: [2, 4, 3]) with
            {
                Attributes = Bidirectional(),
                Outputs = AllOfLstm,
            },
            Cell("LSTM", peepholes: true) with
            {
                Attributes = [Int("hidden_size", Units), Int("input_forget", 1)],
                Outputs = [null, true, true],
            },
            Cell("LSTM", peepholes: true) with
            {
                Attributes = [Int("hidden_size", Units), Float("clip", 0.45)],
            },
            Cell("LSTM", 2) with
            {
                Attributes =
                [
                    .. WithActivations(
                        ["HardSigmoid", "Affine", "Elu", "Sigmoid", "LeakyRelu", "Softsign"],
                        [0.3f, 0.9f, 0.8f, 0.1f],
                        [0.6f, 0.1f]
                    ),
                    Text("direction", "bidirectional"),
                ],
                Outputs = AllOfLstm,
            },
            new GradientCase(
                "LSTM",
                X(Sequences, Steps, Features) with
                {
                    Dynamic = true,
                },
                X(2, 4 * Units, Features),
                X(2, 4 * Units, Units),
                X(2, 8 * Units),
                None,
                X(Sequences, 2, Units),
                X(Sequences, 2, Units)
            )
            {
                Attributes = Bidirectional(Int("layout", 1)),
                Outputs = AllOfLstm,
            },
            .. new (string Name, float[] Alpha, float[] Beta)[]
            {
                ("Relu", [], []),
                ("Sigmoid", [], []),
                ("Affine", [0.7f], [0.2f]),
                ("LeakyRelu", [0.2f], []),
                ("ThresholdedRelu", [0.2f], []),
                ("ScaledTanh", [1.3f], [0.8f]),
                ("HardSigmoid", [0.3f], [0.4f]),
                ("Elu", [0.6f], []),
                ("Softsign", [], []),
                ("Softplus", [], []),
            }.Select(a =>
                Cell("GRU") with
                {
                    Attributes = WithActivations([a.Name, a.Name], [.. a.Alpha, .. a.Alpha], [.. a.Beta, .. a.Beta]),
                    Step = 1e-5, // seldom across a kink
                }
            ),
        ];

    private static IEnumerable<GradientCase> Common(string op) =>
        [
            Cell(op),
            Cell(op, initial: false, bias: false) with
            {
                Outputs = [false, true],
            },
            Cell(op) with
            {
                Outputs = op == "LSTM" ? AllOfLstm : AllOfOthers,
            },
            Cell(op) with
            {
                Attributes = [Int("hidden_size", Units), Text("direction", "reverse")],
            },
            Cell(op, 2) with
            {
                Attributes = Bidirectional(),
                Outputs = op == "LSTM" ? AllOfLstm : AllOfOthers,
            },
            Cell(op, lengths: [4, 1, 3]) with
            {
                Outputs = [true, true],
            },
            Cell(op, lengths: [2, 4, 1]) with
            {
                Attributes = [Int("hidden_size", Units), Text("direction", "reverse")],
                Outputs = [true, true],
            },
            Cell(op) with
            {
                Attributes = [Int("hidden_size", Units), Float("clip", 0.3)],
            },
        ];

    /// <summary>A recurrent operator with everything that is not left out.</summary>
    private static GradientCase Cell(
        string op,
        long directions = 1,
        bool bias = true,
        bool initial = true,
        bool peepholes = false,
        int[]? lengths = null
    )
    {
        var gates = op switch
        {
            "LSTM" => 4,
            "GRU" => 3,
            _ => 1,
        };
        List<CaseInput> inputs =
        [
            X(Steps, Sequences, Features) with
            {
                Dynamic = true,
            },
            X(directions, gates * Units, Features),
            X(directions, gates * Units, Units),
            bias ? X(directions, 2 * gates * Units).In(-0.5, 0.5) : None,
            lengths is null ? None : Data([Sequences], lengths),
            initial ? X(directions, Sequences, Units) : None,
        ];
        if (op == "LSTM")
        {
            inputs.Add(initial ? X(directions, Sequences, Units) : None);
            inputs.Add(peepholes ? X(directions, 3 * Units) : None);
        }

        // ONNX Runtime has RNN for float alone.
        return new GradientCase(op, [.. inputs])
        {
            Attributes = [Int("hidden_size", Units)],
            Type = op == "RNN" ? ElementType.Float : ElementType.Double,
        };
    }

    private static Attr[] Bidirectional(params Attr[] others) =>
        [Int("hidden_size", Units), Text("direction", "bidirectional"), .. others];

    private static Attr[] WithActivations(string[] names, float[] alpha, float[] beta) =>
        [
            Int("hidden_size", Units),
            new Attr("activations", names),
            .. alpha.Length > 0 ? [Floats("activation_alpha", alpha)] : Array.Empty<Attr>(),
            .. beta.Length > 0 ? [Floats("activation_beta", beta)] : Array.Empty<Attr>(),
        ];
}
