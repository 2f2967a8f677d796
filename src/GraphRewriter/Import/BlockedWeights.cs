using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Import.QuantizedModel;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Weights of 2 to 8 bits with a scale for each block, which operators of com.microsoft unpack.</summary>
internal static class BlockedWeights
{
    /// <summary>Y = A W^T + bias, W [N, K] in blocks along K: bytes [N, blocks, bytes of a block].</summary>
    public static bool Product(QuantizedModel model, NodeProto node)
    {
        var (rows, columns) = (Number(node, "N", 0), Number(node, "K", 0));
        var (bits, block) = ((int)Number(node, "bits", 4), Number(node, "block_size", 0));
        var name = node.Input[1];
        if (
            bits is not (2 or 4 or 8)
            || block <= 0
            || model.Integers(name) is not { Type: ElementType.UInt8, Dims: [var n, var blocks, var bytes] } packed
            || model.Floats(node.Input[2]) is not { } scale
        )
        {
            return false;
        }

        var scales = scale.ToDouble();
        if (
            n != rows
            || bytes * (8 / bits) != block
            || columns <= 0
            || blocks != (columns + block - 1) / block
            || scales.Length != n * blocks
        )
        {
            throw Unfit(node, name);
        }

        var values = QuantizedTensor.Unpack([.. packed.Values.Select(v => (byte)v)], n * blocks * block, bits, false);
        var zeros = Zeros();
        var weight = new float[columns * rows];
        for (long row = 0; row < rows; row++)
        {
            for (long column = 0; column < columns; column++)
            {
                var at = (row * blocks) + (column / block);
                var value = values[(row * blocks * block) + column];
                weight[(column * rows) + row] = (float)((value - zeros[at]) * scales[at]);
            }
        }

        var folded = model.AddWeight(name, Ir.Tensor.From<float>([columns, rows], weight).To(scale.Type));
        model.Sum(node, model.Emit("", "MatMul", null, [node.Input[0], folded]), 5);
        return true;

        // One for each block; in bytes, those of a row fill up whole ones.
        double[] Zeros()
        {
            if (Input(node, 3) is not { Length: > 0 } zero)
            {
                return [.. Enumerable.Repeat((double)(1 << (bits - 1)), scales.Length)];
            }

            if (model.Floats(zero) is { } floats && floats.ElementCount == scales.Length)
            {
                return floats.ToDouble();
            }

            var perRow = (blocks * bits + 7) / 8;
            if (model.Integers(zero) is not { } bytes || bytes.Values.Length != n * perRow)
            {
                throw Unfit(node, zero);
            }

            var all = QuantizedTensor.Unpack(
                [.. bytes.Values.Select(v => (byte)v)],
                n * perRow * (8 / bits),
                bits,
                false
            );
            return
            [
                .. Enumerable
                    .Range(0, scales.Length)
                    .Select(i => (double)all[(i / blocks * perRow * (8 / bits)) + (i % blocks)]),
            ];
        }
    }

    /// <summary>Rows of a table in blocks; bytes hold two numbers of 4 bits along the last axis.</summary>
    public static bool Gather(QuantizedModel model, NodeProto node)
    {
        var (name, block) = (node.Input[0], Number(node, "block_size", 128));
        if (model.Integers(name) is not { } table || model.Floats(node.Input[2]) is not { } scale || block <= 0)
        {
            return false;
        }

        var bits = (int)Number(node, "bits", 4);
        var zeros = Input(node, 3) is { Length: > 0 } zero ? model.Integers(zero) : null;
        if (table.Type == ElementType.UInt8)
        {
            if (bits is not (4 or 8))
            {
                return false;
            }

            (table, zeros) = (Wide(table), zeros is null ? null : Wide(zeros));
            zeros ??= new([1], [1 << (bits - 1)], ElementType.UInt8);
        }

        var axis = (int)Number(node, "quantize_axis", 1);
        var folded = model.AddWeight(name, table.Dequantize(scale, zeros?.Values, axis, block, name));
        var gather = Node("", "Gather", [folded, node.Input[1]], node.Output[0]);
        gather.Attribute.Add(AttributeFormat.ToProto(Int("axis", Number(node, "gather_axis", 0))));
        model.Add(gather);
        return true;

        QuantizedTensor Wide(QuantizedTensor t) =>
            bits == 8
                ? t
                : new(
                    [.. t.Dims[..^1], t.Dims[^1] * 2],
                    QuantizedTensor.Unpack([.. t.Values.Select(v => (byte)v)], 2L * t.Values.Length, 4, false),
                    t.Type
                );
    }

    private static MacOnnxException Unfit(NodeProto node, string name) =>
        new(
            "MAC0005",
            $"tensor '{name}'",
            $"Its size does not fit {node.OpType}'s attributes.",
            "Quantize the model again."
        );
}
