using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Import.QuantizedModel;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Makes a model that computes with quantized numbers one that computes with real ones: weights that are stored as
/// integers become float weights, and operators on integers become the float operators that they approximate, between
/// DequantizeLinear and QuantizeLinear. So what the model computes stays the same, and its weights train.
/// </summary>
/// <remarks>
/// Works on the model as it was read, so that the exported model has float weights too. Operators that are not listed
/// stay as they are.
/// </remarks>
internal sealed class Dequantization
{
    /// <summary>Operators that only move elements, or choose among them: they do the same to integers.</summary>
    private static readonly string[] Moves =
    [
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ];

    private readonly QuantizedModel _model;
    private readonly long _opset;

    private Dequantization(ModelProto model) => (_model, _opset) = (new(model), ModelReader.OpsetOf(model.OpsetImport));

    /// <summary>Changes a model; one without quantized numbers stays as it is.</summary>
    /// <param name="model">The model as it was read.</param>
    /// <exception cref="MacOnnxException">The sizes of a weight and its scales do not fit (MAC0005).</exception>
    public static void Apply(ModelProto model) => new Dequantization(model).Run(model);

    /// <summary>Whether a graph has weights that are stored as integers.</summary>
    public static bool HasQuantizedWeights(Graph graph) =>
        graph.Nodes.Any(n =>
            (n.OpType == "DequantizeLinear" || OpTable.Find(n)?.Expanded == Expanded.Dequantization)
            && n.Inputs.Any(i => i?.Constant is { Dims.Length: > 1 } c && !c.Type.IsFloatingPoint())
        );

    private void Run(ModelProto model)
    {
        foreach (var node in _model.Old)
        {
            if (!Replace(node))
            {
                _model.Add(node);
            }
        }

        _model.Finish(model);
    }

    /// <summary>Emits what stands for a node; false where it stays.</summary>
    private bool Replace(NodeProto node)
    {
        var isOnnx = node.Domain is "" or "ai.onnx";
        switch (node.OpType)
        {
            case "QuantizeLinear" when isOnnx || node.Domain == Contrib:
                _model.Units[node.Output[0]] = (node.Input[1], Input(node, 2));
                return false;
            case "DynamicQuantizeLinear" when isOnnx:
                _model.Units[node.Output[0]] = (node.Output[1], node.Output[2]);
                return false;
            case "DequantizeLinear" when isOnnx || node.Domain == Contrib:
                return _model.Folded(node, 0, 1, 2, Axis(node, 1), Number(node, "block_size", 0)) is { } weight
                    && _model.Rename(node, weight);
            case "QLinearConv" when isOnnx:
                _model.Quantize(
                    node,
                    _model.Emit(
                        "",
                        "Conv",
                        node,
                        [_model.Real(node, 0, 1, 2), _model.Real(node, 3, 4, 5, 0), .. _model.Bias(node, 8)]
                    ),
                    6,
                    7
                );
                return true;
            case "QLinearMatMul" when isOnnx:
                _model.Quantize(
                    node,
                    _model.Emit(
                        "",
                        "MatMul",
                        node,
                        [_model.Real(node, 0, 1, 2), _model.Real(node, 3, 4, 5, _model.Columns(node, 3))]
                    ),
                    6,
                    7
                );
                return true;
            case "QGemm" when node.Domain == Contrib:
                return Gemm(node);
            case "QLinearAdd" or "QLinearMul" when node.Domain == Contrib:
                _model.Quantize(
                    node,
                    _model.Emit("", node.OpType[7..], node, [_model.Real(node, 0, 1, 2), _model.Real(node, 3, 4, 5)]),
                    6,
                    7
                );
                return true;
            case "QLinearSigmoid"
            or "QLinearLeakyRelu"
            or "QLinearSoftmax"
            or "QLinearReduceMean"
            or "QLinearAveragePool"
            or "QLinearGlobalAveragePool"
                when node.Domain == Contrib && Number(node, "channels_last", 0) == 0 && IsSpelledAlike(node):
                _model.Quantize(node, _model.Emit("", node.OpType[7..], node, [_model.Real(node, 0, 1, 2)]), 3, 4);
                return true;
            case "QLinearConcat" when node.Domain == Contrib:
                var parts = Enumerable.Range(0, (node.Input.Count - 2) / 3).Select(i => 2 + (3 * i));
                _model.Quantize(
                    node,
                    _model.Emit("", "Concat", node, [.. parts.Select(i => _model.Real(node, i, i + 1, i + 2))]),
                    0,
                    1
                );
                return true;
            case "QLinearWhere" when node.Domain == Contrib:
                _model.Quantize(
                    node,
                    _model.Emit(
                        "",
                        "Where",
                        node,
                        [node.Input[0], _model.Real(node, 1, 2, 3), _model.Real(node, 4, 5, 6)]
                    ),
                    7,
                    8
                );
                return true;
            case "Mul" when isOnnx:
                return IntegerProduct(node);
            case "MatMulIntegerToFloat" when node.Domain == Contrib:
                _model.Sum(
                    node,
                    _model.Emit(
                        "",
                        "MatMul",
                        node,
                        [_model.Real(node, 0, 2, 4), _model.Real(node, 1, 3, 5, _model.Columns(node, 1))]
                    ),
                    6
                );
                return true;
            case "DynamicQuantizeMatMul" when node.Domain == Contrib:
                _model.Sum(
                    node,
                    _model.Emit(
                        "",
                        "MatMul",
                        node,
                        [_model.Rounded(node.Input[0]), _model.Real(node, 1, 2, 3, _model.Columns(node, 1))]
                    ),
                    4
                );
                return true;
            case "MatMulNBits" when node.Domain == Contrib && Input(node, 4).Length == 0:
                return BlockedWeights.Product(_model, node);
            case "GatherBlockQuantized" when node.Domain == Contrib:
                return BlockedWeights.Gather(_model, node);
            case "QAttention" when node.Domain == Contrib:
                return Attention(node);
            case "DynamicQuantizeLSTM" when node.Domain == Contrib:
                return Lstm(node);
            case var op when isOnnx && Moves.Contains(op) && _model.Units.TryGetValue(node.Input[0], out var moved):
                Move(node, moved);
                return true;
            default:
                return false;
        }
    }

    private bool Gemm(NodeProto node)
    {
        var alpha = node.Attribute.FirstOrDefault(a => a.Name == "alpha")?.F ?? 1;
        var isTransposed = Number(node, "transB", 0) != 0;
        string[] operands =
        [
            _model.Real(node, 0, 1, 2),
            _model.Real(node, 3, 4, 5, isTransposed ? 0 : 1),
            .. Input(node, 6) is { Length: > 0 } bias
                ? [_model.Bias(bias, node.Input[1], node.Input[4], alpha)]
                : (string[])[],
        ];
        var result = _model.Emit("", "Gemm", node, operands);
        if (Input(node, 7).Length > 0)
        {
            _model.Quantize(node, result, 7, 8);
        }
        else
        {
            _model.Add(Node("", "Identity", [result], node.Output[0]));
        }

        return true;
    }

    /// <summary>
    /// MatMulInteger and ConvInteger give integers, which ONNX Runtime's quantizer casts and multiplies with the
    /// product of both scales: here is that multiplication.
    /// </summary>
    private bool IntegerProduct(NodeProto mul)
    {
        foreach (var (result, factor) in new[] { (mul.Input[0], mul.Input[1]), (mul.Input[1], mul.Input[0]) })
        {
            if (
                _model.Producer(result) is { OpType: "Cast" } cast
                && _model.Producer(cast.Input[0]) is { OpType: "MatMulInteger" or "ConvInteger" } product
                && _model.IsReadOnce(result)
                && _model.IsReadOnce(cast.Input[0])
                && _model.Producer(factor) is { OpType: "Mul" } scales
                && _model.Units.TryGetValue(product.Input[0], out var left)
                && scales.Input.Contains(left.Scale)
            )
            {
                var other = scales.Input[scales.Input[0] == left.Scale ? 1 : 0];
                var isConv = product.OpType == "ConvInteger";
                var probe = Node("", product.OpType, [product.Input[1], other, Input(product, 3)], mul.Output[0]);
                if (
                    _model.Folded(probe, 0, 1, 2, isConv ? 0 : _model.Columns(probe, 0), 0) is not { } right
                    && !(_model.Units.TryGetValue(product.Input[1], out var second) && second.Scale == other)
                )
                {
                    return false;
                }

                right = _model.Real(probe, 0, 1, 2, isConv ? 0 : _model.Columns(probe, 0));
                var made = Node(
                    "",
                    isConv ? "Conv" : "MatMul",
                    [_model.Dequantized(product.Input[0], left.Scale, left.Zero), right],
                    mul.Output[0]
                );
                made.Attribute.Add(product.Attribute);
                _model.Add(made);
                _model.Drop(product, cast, scales);
                return true;
            }
        }

        return false;
    }

    /// <summary>Attention whose input and packed weight are quantized.</summary>
    private bool Attention(NodeProto node)
    {
        if (Input(node, 8).Length > 0)
        {
            return false;
        }

        var made = Node(
            Contrib,
            "Attention",
            [_model.Real(node, 0, 3, 6), _model.Real(node, 1, 4, 7, 1), node.Input[2], Input(node, 5)],
            node.Output[0]
        );
        made.Output.Add(node.Output.Skip(1));
        made.Attribute.Add(node.Attribute.Where(a => a.Name != "past_present_share_buffer"));
        _model.Add(made);
        return true;
    }

    /// <summary>LSTM whose weights are stored [directions, in, 4 hidden], quantized.</summary>
    private bool Lstm(NodeProto node)
    {
        if (Weight(1, 8, 9) is not { } input || Weight(2, 10, 11) is not { } recurrent)
        {
            return false;
        }

        var made = Node("", "LSTM", [node.Input[0], input, recurrent, .. node.Input.Skip(3).Take(5)], node.Output[0]);
        made.Output.Add(node.Output.Skip(1));
        made.Attribute.Add(node.Attribute);
        _model.Add(made);
        return true;

        string? Weight(int index, int scale, int zero)
        {
            // One scale for each direction.
            if (
                _model.Integers(node.Input[index]) is not { Dims.Length: 3 } w
                || _model.Floats(node.Input[scale]) is not { } scales
            )
            {
                return null;
            }

            var zeros = Input(node, zero) is { Length: > 0 } z ? _model.Integers(z)?.Values : null;
            var real = w.Dequantize(scales, zeros, 0, 0, node.Input[index]);
            var (d, rows, columns) = (w.Dims[0], w.Dims[1], w.Dims[2]);
            var from = real.Span<float>();
            var to = new float[d * rows * columns];
            for (long i = 0; i < to.Length; i++)
            {
                var (direction, row, column) = (i / (rows * columns), i / columns % rows, i % columns);
                to[(direction * rows * columns) + (column * rows) + row] = from[(int)i];
            }

            return _model.AddWeight(node.Input[index], Ir.Tensor.From<float>([d, columns, rows], to));
        }
    }

    /// <summary>Emits an operator on real numbers where the model has it on integers.</summary>
    private void Move(NodeProto node, (string Scale, string Zero) units)
    {
        var made = node.Clone();
        made.Input[0] = _model.Dequantized(node.Input[0], units.Scale, units.Zero);
        for (var i = 0; i < made.Output.Count; i++)
        {
            made.Output[i] = made.Output[i].Length > 0 ? _model.Fresh($"{made.Output[i]}/real") : "";
        }

        _model.Add(made);
        foreach (var (integers, real) in node.Output.Zip(made.Output).Where(o => o.First.Length > 0))
        {
            // A pool's indices are no quantized numbers.
            if (node.OpType == "MaxPool" && integers != node.Output[0])
            {
                _model.Add(Node("", "Identity", [real], integers));
                continue;
            }

            string[] inputs = units.Zero.Length > 0 ? [real, units.Scale, units.Zero] : [real, units.Scale];
            _model.Add(Node("", "QuantizeLinear", inputs, integers));
            _model.Units[integers] = units;
        }
    }

    /// <summary>
    /// Whether an operator's attributes mean the same as in the operator that it approximates: Softmax before
    /// operator set 13 and ReduceMean since 18 differ.
    /// </summary>
    private bool IsSpelledAlike(NodeProto node) =>
        node.OpType switch
        {
            "QLinearSoftmax" => Number(node, "opset", 13) >= 13 && _opset >= 13,
            "QLinearReduceMean" => _opset < 18,
            _ => true,
        };

    private static long Axis(NodeProto node, long fallback) => Number(node, "axis", fallback);
}
