using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>RNN, GRU and LSTM. <c>Lowering/RecurrentLowering</c> spells what stands here by name alone.</summary>
/// <remarks>
/// The forward node becomes one that also gives, for each direction, what backpropagation through time reads: states
/// and gates at every time step. The gradient operator takes the forward inputs, the gradients of Y, Y_h and Y_c, and
/// those.
/// </remarks>
internal static class Recurrent
{
    /// <summary>The number of inputs that a recurrent operator may have, and the place of each.</summary>
    public const int X = 0,
        W = 1,
        R = 2,
        B = 3,
        Lengths = 4,
        H = 5,
        C = 6,
        P = 7,
        InputCount = 8;

    /// <summary>The number of outputs that a recurrent operator may have: Y, Y_h and Y_c.</summary>
    public const int OutputCount = 3;

    public static IEnumerable<OpRule> Rules { get; } =
    [new("RNN", Gradient), new("GRU", Gradient), new("LSTM", Gradient)];

    /// <summary>Whether an operator is a recurrent one.</summary>
    public static bool Is(Node node) => node.Domain.Length == 0 && node.OpType is "RNN" or "GRU" or "LSTM";

    /// <summary>Gives the number of directions of an operator.</summary>
    public static int Directions(Attributes attributes) =>
        attributes.Text("direction", "forward") == "bidirectional" ? 2 : 1;

    private static Term?[] Gradient(GradientContext g)
    {
        var outputs = g.Node.OpType == "LSTM" ? OutputCount : 2;
        for (var i = 0; i < outputs; i++)
        {
            _ = g.ForwardOutput(i, g.X().Type);
        }

        var saved = Enumerable.Range(0, Directions(g.Node.Attributes)).Sum(d => RecurrentCell.Of(g.Node, d).SavedCount);
        var forward = g.Replace($"{g.Node.OpType}Forward", saved);
        var inputs = Enumerable.Range(0, InputCount).Select(i => g.Node.Input(i));
        var gradients = Enumerable
            .Range(0, OutputCount)
            .Select(i => i < outputs && g.HasDY(i) ? (Value?)g.DY(i).V : null);
        return
        [
            .. g.Internal(
                    $"{g.Node.OpType}Grad",
                    [.. inputs, .. gradients, .. forward.Outputs.Skip(outputs)],
                    InputCount,
                    [.. g.Node.Attributes.All]
                )
                .Outputs.Select(o => (Term?)g.Of(o)),
        ];
    }
}
