using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Replaces <c>auto_pad</c> and ConvTranspose's <c>output_shape</c> by explicit <c>pads</c>, so that every later stage
/// knows one spelling.
/// </summary>
/// <remarks>
/// It runs twice: before shape inference, because ONNX Runtime refuses SAME padding of dilated kernels (at stride 1 the
/// padding does not
/// depend on the input's size), and after it, when the sizes are known. What depends on a dynamic size is left as it
/// is.
/// </remarks>
internal static class ExplicitPads
{
    public static void Apply(Graph graph)
    {
        foreach (
            var node in graph.Nodes.Where(n =>
                n.Domain.Length == 0 && n.OpType is "Conv" or "ConvTranspose" or "MaxPool" or "AveragePool" or "LpPool"
            )
        )
        {
            Resolve(node);
        }
    }

    private static void Resolve(Node node)
    {
        var mode = node.Attributes.Text("auto_pad", "NOTSET");
        var transposed = node.Is("ConvTranspose");
        var outputShape = transposed ? node.Attributes.Ints("output_shape") : null;
        if (mode == "VALID" && outputShape is null)
        {
            node.Attributes.Remove("auto_pad");
            node.Attributes.Remove("pads");
            return;
        }

        var kernel =
            node.Attributes.Ints("kernel_shape")
            ?? (node.Input(1)?.Shape is { IsStatic: true } w ? [.. w.Dims.Skip(2).Select(d => d.Size)] : null);
        if ((mode == "NOTSET" && outputShape is null) || kernel is null)
        {
            return;
        }

        var rank = kernel.Length;
        var ones = Enumerable.Repeat(1L, rank).ToArray();
        var strides = node.Attributes.Ints("strides") ?? ones;
        var dilations = node.Attributes.Ints("dilations") ?? ones;
        var outputPadding = node.Attributes.Ints("output_padding") ?? new long[rank];
        var pads = new long[2 * rank];
        for (var axis = 0; axis < rank; axis++)
        {
            var extent = ((kernel[axis] - 1) * dilations[axis]) + 1;
            var size =
                node.Inputs[0]?.Shape is { } shape && shape[axis + 2].IsStatic ? shape[axis + 2].Size : (long?)null;
            var total =
                outputShape is not null
                    ? ((size - 1) * strides[axis]) + outputPadding[axis] + extent - outputShape[^(rank - axis)]
                : transposed ? outputPadding[axis] + extent - strides[axis]
                : strides[axis] == 1 ? extent - 1
                : (((size + strides[axis] - 1) / strides[axis]) - 1) * strides[axis] + extent - size;
            if (total is not { } known)
            {
                return;
            }

            if (outputShape is not null && known < 0)
            {
                (outputPadding[axis], known) = (outputPadding[axis] - known, 0);
            }

            // The odd element goes to the end for SAME_UPPER and to the beginning otherwise.
            known = Math.Max(known, 0);
            pads[axis] = mode == "SAME_UPPER" ? known / 2 : known - (known / 2);
            pads[rank + axis] = known - pads[axis];
        }

        node.Attributes.Remove("auto_pad");
        node.Attributes.Remove("output_shape");
        node.Attributes.Set(Attr.Ints("pads", pads));
        if (transposed)
        {
            node.Attributes.Set(Attr.Ints("output_padding", outputPadding));
        }
    }
}
