using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Lowering;

/// <summary>
/// The operators, forward and backward, that a runtime may have a kernel for: they become calls of functions. Which
/// calls a kernel takes is decided here, from what is known of types, ranks and attributes: everything else stays what
/// it is, for a kernel that refuses its node would fail the session.
/// </summary>
internal static class KernelCalls
{
    /// <summary>The limits that kernels set to windows, so that no product of sizes overflows.</summary>
    private const long MostPositions = 1 << 28,
        MostPadding = 1 << 20;

    /// <summary>
    /// Emits the call that stands for a node and takes over its outputs; the caller removes the node.
    /// </summary>
    /// <param name="b">The builder.</param>
    /// <param name="node">The node.</param>
    /// <param name="body">Emits what the function does.</param>
    /// <returns>Whether a kernel takes the node; if not, nothing is emitted.</returns>
    public static bool Append(GraphBuilder b, Node node, Func<GraphBuilder, Value[]> body)
    {
        var inputs = node.Inputs.OfType<Value>().ToArray();
        if (!TakesTypes(node))
        {
            return false;
        }

        var results = (node.Domain, node.OpType) switch
        {
            (OpTable.GradientDomain, "ReluGrad" or "GeluGrad") => Call(node.OpType),
            (OpTable.GradientDomain, "SoftmaxGrad") when node.Attributes.Int("axis", -1) == node.Outputs[0].Rank - 1 =>
                Call(node.OpType),
            (OpTable.GradientDomain, "LayerNormGrad") when node.Inputs.Count == inputs.Length => Call(node.OpType),
            (OpTable.GradientDomain, "MaxPoolGrad") when Takes(Windows.Of(node)) => Call(node.OpType),
            (OpTable.GradientDomain, "BatchNormGrad" or "BatchNormRelu" or "BatchNormReluGrad")
                when TakesNormalization(node) => Normalization(node.OpType),
            ("", "BatchNormalization")
                when TakesNormalization(node)
                    && node.Outputs.Count == 3
                    && node.Attributes.Int("training_mode", 0) == 1 => Normalization("BatchNorm"),
            (OpTable.GradientDomain, "ConvDataGrad")
                when Takes(Windows.Of(node)) && inputs[2].KnownShape.Dims.Skip(2).All(d => d.IsStatic) => Call(
                node.OpType,
                inputs[..2],
                Ints("size", [.. inputs[2].KnownShape.Dims.Skip(2).Select(d => d.Size)])
            ),
            (OpTable.GradientDomain, "ConvWeightGrad") when Takes(Windows.Of(node)) => Call(node.OpType, inputs),
            ("", "Conv") when inputs[1].Shape is not null && IsExplicit(node) && Takes(WindowsOf(node)) => Call(
                inputs.Length == 2 ? "Conv" : "ConvWithBias",
                inputs
            ),
            _ => null,
        };
        if (results is null)
        {
            return false;
        }

        var call = results[0].Producer!;
        for (var i = 0; i < node.Outputs.Count; i++)
        {
            call.SetOutput(i, node.Outputs[i]);
        }

        return true;

        Value[] Normalization(string opType) =>
            FunctionCall.Append(
                b,
                opType,
                inputs,
                [
                    Float("epsilon", node.Attributes.Float("epsilon", 1e-5f)),
                    Int("training_mode", node.Attributes.Int("training_mode", 0)),
                ],
                body
            );

        Value[] Call(string opType, Value[]? chosen = null, params ReadOnlySpan<Attr> more) =>
            FunctionCall.Append(
                b,
                opType,
                chosen ?? inputs,
                chosen is null
                    ? [.. node.Attributes.All]
                    : WindowsOf(node).Attributes([Int("group", node.Attributes.Int("group", 1)), .. more]),
                body
            );
    }

    /// <summary>Emits what must go step by step through a sequence, as a call where a kernel takes it.</summary>
    /// <param name="b">The builder.</param>
    /// <param name="cell">The cell.</param>
    /// <param name="isForward">Whether the steps are the cell's own, not its gradient's.</param>
    /// <param name="operands">What the steps need.</param>
    /// <param name="extra">What else: peephole weights, or the bias of the product that a reset gate multiplies.
    /// </param>
    /// <param name="mask">Which steps are valid.</param>
    /// <param name="body">Emits the steps.</param>
    public static Value[] Recurrence(
        GraphBuilder b,
        RecurrentCell cell,
        bool isForward,
        Term[] operands,
        Term? extra,
        Term? mask,
        Func<GraphBuilder, Value[], Value?, Value?, Value[]> body
    )
    {
        Value[] values = [.. operands.Select(o => o.V)];
        if (values[0].Type != ElementType.Float || !cell.HasKernel(extra is not null))
        {
            return body(b, values, extra?.V, mask?.V);
        }

        // The kernels of GRU always take the bias, and only forward, where it is read.
        var bias =
            cell is GruCell && isForward
                ? extra?.V ?? b.Constant(GraphBuilder.Filled(0, ElementType.Float, cell.Hidden))
                : null;
        return FunctionCall.Append(
            b,
            $"{cell.Name}{(isForward ? "Forward" : "Backward")}{(mask is null ? "" : "Masked")}",
            [.. values, .. new[] { bias, mask?.V }.OfType<Value>()],
            [Int("reversed", cell.IsReversed)],
            inner => body(inner, values, bias, mask?.V)
        );
    }

    /// <summary>
    /// Whether there is a kernel for a batch normalization or its gradient. It works on planes: channels of single
    /// elements are better done as the function says.
    /// </summary>
    public static bool TakesNormalization(Node node) => TakesTypes(node) && node.Outputs[0].Shape is { Rank: > 2 };

    /// <summary>Kernels take floats; and a function's inputs must differ.</summary>
    private static bool TakesTypes(Node node)
    {
        var inputs = node.Inputs.OfType<Value>().ToArray();
        return inputs.Concat(node.Outputs).All(v => v.Type == ElementType.Float)
            && inputs.Distinct().Count() == inputs.Length;
    }

    private static bool IsExplicit(Node node) => node.Attributes.Text("auto_pad", "NOTSET") == "NOTSET";

    private static Windows WindowsOf(Node node) =>
        Windows.Of(node, node.Is("Conv") ? [.. node.Inputs[1]!.KnownShape.Dims.Skip(2).Select(d => d.Size)] : null);

    private static bool Takes(Windows windows) =>
        windows.Rank <= 2
        && windows.Kernel.Concat(windows.Strides).Concat(windows.Dilations).All(n => n is > 0 and < MostPositions)
        && windows.Begin.Concat(windows.End).All(n => n is >= 0 and < MostPadding);
}
