using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

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
    /// <summary>The ending that ONNX Runtime's quantizer gives to the names of weights.</summary>
    private const string Ending = "_quantized";

    private const string Contrib = "com.microsoft";

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

    private readonly GraphProto _graph;
    private readonly long _opset;
    private readonly HashSet<string> _taken;
    private readonly Dictionary<string, TensorProto> _tensors = new(StringComparer.Ordinal);
    private readonly Dictionary<string, NodeProto> _producers = new(StringComparer.Ordinal);
    private readonly ILookup<string, NodeProto> _readers;
    private readonly Dictionary<string, (string Scale, string Zero)> _quantized = new(StringComparer.Ordinal);
    private readonly Dictionary<(string, string, string, long, long), string> _folded = [];
    private readonly HashSet<NodeProto> _replaced = [];
    private readonly List<NodeProto> _nodes = [];

    private Dequantization(ModelProto model)
    {
        _graph = model.Graph;
        _opset = ModelReader.OpsetOf(model.OpsetImport);
        _taken = SharedInitializers.Names(_graph).ToHashSet(StringComparer.Ordinal);
        foreach (var tensor in _graph.Initializer)
        {
            _tensors.TryAdd(tensor.Name, tensor);
        }

        foreach (var node in _graph.Node)
        {
            if (node is { OpType: "Constant", Attribute: [{ Name: "value" } value] } && node.Output.Count == 1)
            {
                _tensors.TryAdd(node.Output[0], value.T);
            }

            foreach (var output in node.Output)
            {
                _producers[output] = node;
            }
        }

        _readers = _graph.Node.SelectMany(n => n.Input.Select(i => (i, n))).ToLookup(p => p.i, p => p.n);
    }

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
        foreach (var node in _graph.Node.ToArray())
        {
            if (!Replace(node))
            {
                _nodes.Add(node);
            }
        }

        _graph.Node.Clear();
        _graph.Node.AddRange(_nodes);
        Prune();

        // Dequantization per axis is part of ai.onnx since 13, and of com.microsoft since 1.
        if (_nodes.Any(n => n.Domain == Contrib) && model.OpsetImport.All(o => o.Domain != Contrib))
        {
            model.OpsetImport.Add(new OperatorSetIdProto { Domain = Contrib, Version = 1 });
        }
    }

    /// <summary>Emits what stands for a node; false where it stays.</summary>
    private bool Replace(NodeProto node)
    {
        var isOnnx = node.Domain is "" or "ai.onnx";
        switch (node.OpType)
        {
            case "QuantizeLinear" when isOnnx || node.Domain == Contrib:
                _quantized[node.Output[0]] = (node.Input[1], Input(node, 2));
                return false;
            case "DynamicQuantizeLinear" when isOnnx:
                _quantized[node.Output[0]] = (node.Output[1], node.Output[2]);
                return false;
            case "DequantizeLinear" when isOnnx || node.Domain == Contrib:
                return Folded(node, 0, 1, 2, Axis(node, 1), Number(node, "block_size", 0)) is { } weight
                    && Rename(node, weight);
            case "QLinearConv" when isOnnx:
                Quantize(
                    node,
                    Emit("", "Conv", node, [Real(node, 0, 1, 2), Real(node, 3, 4, 5, 0), .. Bias(node, 8)]),
                    6,
                    7
                );
                return true;
            case "QLinearMatMul" when isOnnx:
                Quantize(
                    node,
                    Emit("", "MatMul", node, [Real(node, 0, 1, 2), Real(node, 3, 4, 5, Columns(node, 3))]),
                    6,
                    7
                );
                return true;
            case "QGemm" when node.Domain == Contrib:
                return Gemm(node);
            case "QLinearAdd" or "QLinearMul" when node.Domain == Contrib:
                Quantize(node, Emit("", node.OpType[7..], node, [Real(node, 0, 1, 2), Real(node, 3, 4, 5)]), 6, 7);
                return true;
            case "QLinearSigmoid"
            or "QLinearLeakyRelu"
            or "QLinearSoftmax"
            or "QLinearReduceMean"
            or "QLinearAveragePool"
            or "QLinearGlobalAveragePool"
                when node.Domain == Contrib && Number(node, "channels_last", 0) == 0 && IsSpelledAlike(node):
                Quantize(node, Emit("", node.OpType[7..], node, [Real(node, 0, 1, 2)]), 3, 4);
                return true;
            case "QLinearConcat" when node.Domain == Contrib:
                var parts = Enumerable.Range(0, (node.Input.Count - 2) / 3).Select(i => 2 + (3 * i));
                Quantize(node, Emit("", "Concat", node, [.. parts.Select(i => Real(node, i, i + 1, i + 2))]), 0, 1);
                return true;
            case "QLinearWhere" when node.Domain == Contrib:
                Quantize(
                    node,
                    Emit("", "Where", node, [node.Input[0], Real(node, 1, 2, 3), Real(node, 4, 5, 6)]),
                    7,
                    8
                );
                return true;
            case "Mul" when isOnnx:
                return IntegerProduct(node);
            case "MatMulIntegerToFloat" when node.Domain == Contrib:
                Sum(node, Emit("", "MatMul", node, [Real(node, 0, 2, 4), Real(node, 1, 3, 5, Columns(node, 1))]), 6);
                return true;
            case "DynamicQuantizeMatMul" when node.Domain == Contrib:
                Sum(node, Emit("", "MatMul", node, [Rounded(node.Input[0]), Real(node, 1, 2, 3, Columns(node, 1))]), 4);
                return true;
            case "MatMulNBits" when node.Domain == Contrib && Input(node, 4).Length == 0:
                return BlockedProduct(node);
            case "GatherBlockQuantized" when node.Domain == Contrib:
                return BlockedGather(node);
            case "QAttention" when node.Domain == Contrib:
                return Attention(node);
            case "DynamicQuantizeLSTM" when node.Domain == Contrib:
                return Lstm(node);
            case var op when isOnnx && Moves.Contains(op) && _quantized.TryGetValue(node.Input[0], out var moved):
                Move(node, moved);
                return true;
            default:
                return false;
        }
    }

    /// <summary>Gives what an input stands for: a folded weight, or the value dequantized.</summary>
    private string Real(NodeProto node, int input, int scale, int zero, long axis = 1)
    {
        if (Folded(node, input, scale, zero, axis, 0) is { } weight)
        {
            return weight;
        }

        return Dequantized(node.Input[input], node.Input[scale], Input(node, zero));
    }

    private string Dequantized(string value, string scale, string zero)
    {
        string[] inputs = zero.Length > 0 ? [value, scale, zero] : [value, scale];
        var output = Fresh($"{value}/dequantized");
        _nodes.Add(Node("", "DequantizeLinear", inputs, output));
        return output;
    }

    /// <summary>Gives a value rounded to 8 bits by its own range, and back.</summary>
    private string Rounded(string value)
    {
        var (rounded, scale, zero) = (Fresh($"{value}/rounded"), Fresh($"{value}/scale"), Fresh($"{value}/zero"));
        var node = Node("", "DynamicQuantizeLinear", [value], rounded);
        node.Output.Add([scale, zero]);
        _nodes.Add(node);
        return Dequantized(rounded, scale, zero);
    }

    /// <summary>Gives the initializer of a weight that is stored as integers; null where it is none.</summary>
    private string? Folded(NodeProto node, int input, int scale, int zero, long axis, long block)
    {
        var (name, scaleName, zeroName) = (node.Input[input], node.Input[scale], Input(node, zero));
        if (_folded.TryGetValue((name, scaleName, zeroName, axis, block), out var known))
        {
            return known;
        }

        if (
            Integers(name) is not { } values
            || Floats(scaleName) is not { } scales
            || (zeroName.Length > 0 && Integers(zeroName) is null)
        )
        {
            return null;
        }

        var zeros = zeroName.Length > 0 ? Integers(zeroName)!.Values : null;
        var weight = values.Dequantize(scales, zeros, (int)axis, block, name);
        return _folded[(name, scaleName, zeroName, axis, block)] = Add(name, weight);
    }

    /// <summary>Adds a float weight in the place of integers.</summary>
    private string Add(string name, Tensor weight)
    {
        var fresh = Fresh(name.EndsWith(Ending, StringComparison.Ordinal) ? name[..^Ending.Length] : $"{name}/float");
        _graph.Initializer.Add(TensorFormat.ToProto(weight, fresh));
        return fresh;
    }

    /// <summary>Gives the bias of a convolution: integers in units of the scales of input and weight.</summary>
    private string[] Bias(NodeProto node, int input)
    {
        if (Input(node, input) is not { Length: > 0 } name)
        {
            return [];
        }

        return [Bias(name, node.Input[1], node.Input[4], 1)];
    }

    private string Bias(string name, string firstScale, string secondScale, double factor)
    {
        if (Integers(name) is { } bias && Floats(firstScale) is { } first && Floats(secondScale) is { } second)
        {
            double[] units = [.. second.ToDouble().Select(s => s * first.ToDouble()[0] * factor)];
            float[] values =
            [
                .. bias.Values.Select((v, i) => (float)(v * units[units.Length == 1 ? 0 : i % units.Length])),
            ];
            return Add(name, Ir.Tensor.From<float>(bias.Dims, values));
        }

        var scale = Fresh($"{name}/scale");
        _nodes.Add(Node("", "Mul", [firstScale, secondScale], scale));
        return Dequantized(name, scale, "");
    }

    /// <summary>Emits the quantization of a float result to the node's own output.</summary>
    private void Quantize(NodeProto node, string result, int scale, int zero)
    {
        var (scaleName, zeroName) = (node.Input[scale], Input(node, zero));
        string[] inputs = zeroName.Length > 0 ? [result, scaleName, zeroName] : [result, scaleName];
        _nodes.Add(Node("", "QuantizeLinear", inputs, node.Output[0]));
        _quantized[node.Output[0]] = (scaleName, zeroName);
    }

    /// <summary>Emits the sum of a result and an optional bias to the node's own output.</summary>
    private void Sum(NodeProto node, string result, int bias) =>
        _nodes.Add(
            Input(node, bias) is { Length: > 0 } added
                ? Node("", "Add", [result, added], node.Output[0])
                : Node("", "Identity", [result], node.Output[0])
        );

    private bool Gemm(NodeProto node)
    {
        var alpha = node.Attribute.FirstOrDefault(a => a.Name == "alpha")?.F ?? 1;
        var isTransposed = Number(node, "transB", 0) != 0;
        string[] operands =
        [
            Real(node, 0, 1, 2),
            Real(node, 3, 4, 5, isTransposed ? 0 : 1),
            .. Input(node, 6) is { Length: > 0 } bias
                ? [Bias(bias, node.Input[1], node.Input[4], alpha)]
                : (string[])[],
        ];
        var result = Emit("", "Gemm", node, operands);
        if (Input(node, 7).Length > 0)
        {
            Quantize(node, result, 7, 8);
        }
        else
        {
            _nodes.Add(Node("", "Identity", [result], node.Output[0]));
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
                _producers.GetValueOrDefault(result) is { OpType: "Cast" } cast
                && _producers.GetValueOrDefault(cast.Input[0]) is { OpType: "MatMulInteger" or "ConvInteger" } product
                && _readers[result].Count() == 1
                && _readers[cast.Input[0]].Count() == 1
                && _producers.GetValueOrDefault(factor) is { OpType: "Mul" } scales
                && _quantized.TryGetValue(product.Input[0], out var left)
                && scales.Input.Contains(left.Scale)
            )
            {
                var other = scales.Input[scales.Input[0] == left.Scale ? 1 : 0];
                var isConv = product.OpType == "ConvInteger";
                var probe = Node("", product.OpType, [product.Input[1], other, Input(product, 3)], mul.Output[0]);
                if (
                    Folded(probe, 0, 1, 2, isConv ? 0 : Columns(probe, 0), 0) is not { } right
                    && !(_quantized.TryGetValue(product.Input[1], out var second) && second.Scale == other)
                )
                {
                    return false;
                }

                right = Real(probe, 0, 1, 2, isConv ? 0 : Columns(probe, 0));
                var made = Node(
                    "",
                    isConv ? "Conv" : "MatMul",
                    [Dequantized(product.Input[0], left.Scale, left.Zero), right],
                    mul.Output[0]
                );
                made.Attribute.Add(product.Attribute);
                _nodes.Add(made);
                _replaced.UnionWith([product, cast, scales]);
                return true;
            }
        }

        return false;
    }

    /// <summary>Y = A W^T + bias, W [N, K] in blocks along K: bytes [N, blocks, bytes of a block].</summary>
    private bool BlockedProduct(NodeProto node)
    {
        var (rows, columns) = (Number(node, "N", 0), Number(node, "K", 0));
        var (bits, block) = ((int)Number(node, "bits", 4), Number(node, "block_size", 0));
        var name = node.Input[1];
        if (
            bits is not (2 or 4 or 8)
            || block <= 0
            || Integers(name) is not { Type: ElementType.UInt8, Dims: [var n, var blocks, var bytes] } packed
            || Floats(node.Input[2]) is not { } scale
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

        var folded = Add(name, Ir.Tensor.From<float>([columns, rows], weight).To(scale.Type));
        Sum(node, Emit("", "MatMul", null, [node.Input[0], folded]), 5);
        return true;

        // One for each block; in bytes, those of a row fill up whole ones.
        double[] Zeros()
        {
            if (Input(node, 3) is not { Length: > 0 } zero)
            {
                return [.. Enumerable.Repeat((double)(1 << (bits - 1)), scales.Length)];
            }

            if (Floats(zero) is { } floats && floats.ElementCount == scales.Length)
            {
                return floats.ToDouble();
            }

            var perRow = (blocks * bits + 7) / 8;
            if (Integers(zero) is not { } bytes || bytes.Values.Length != n * perRow)
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
    private bool BlockedGather(NodeProto node)
    {
        var (name, block) = (node.Input[0], Number(node, "block_size", 128));
        if (Integers(name) is not { } table || Floats(node.Input[2]) is not { } scale || block <= 0)
        {
            return false;
        }

        var bits = (int)Number(node, "bits", 4);
        var zeros = Input(node, 3) is { Length: > 0 } zero ? Integers(zero) : null;
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
        var folded = Add(name, table.Dequantize(scale, zeros?.Values, axis, block, name));
        var gather = Node("", "Gather", [folded, node.Input[1]], node.Output[0]);
        gather.Attribute.Add(AttributeFormat.ToProto(Int("axis", Number(node, "gather_axis", 0))));
        _nodes.Add(gather);
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
            [Real(node, 0, 3, 6), Real(node, 1, 4, 7, 1), node.Input[2], Input(node, 5)],
            node.Output[0]
        );
        made.Output.Add(node.Output.Skip(1));
        made.Attribute.Add(node.Attribute.Where(a => a.Name != "past_present_share_buffer"));
        _nodes.Add(made);
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
        _nodes.Add(made);
        return true;

        string? Weight(int index, int scale, int zero)
        {
            // One scale for each direction.
            if (Integers(node.Input[index]) is not { Dims.Length: 3 } w || Floats(node.Input[scale]) is not { } scales)
            {
                return null;
            }

            var zeros = Input(node, zero) is { Length: > 0 } z ? Integers(z)?.Values : null;
            var real = w.Dequantize(scales, zeros, 0, 0, node.Input[index]);
            var (d, rows, columns) = (w.Dims[0], w.Dims[1], w.Dims[2]);
            var from = real.Span<float>();
            var to = new float[d * rows * columns];
            for (long i = 0; i < to.Length; i++)
            {
                var (direction, row, column) = (i / (rows * columns), i / columns % rows, i % columns);
                to[(direction * rows * columns) + (column * rows) + row] = from[(int)i];
            }

            return Add(node.Input[index], Ir.Tensor.From<float>([d, columns, rows], to));
        }
    }

    /// <summary>Emits an operator on real numbers where the model has it on integers.</summary>
    private void Move(NodeProto node, (string Scale, string Zero) units)
    {
        var made = node.Clone();
        made.Input[0] = Dequantized(node.Input[0], units.Scale, units.Zero);
        for (var i = 0; i < made.Output.Count; i++)
        {
            made.Output[i] = made.Output[i].Length > 0 ? Fresh($"{made.Output[i]}/real") : "";
        }

        _nodes.Add(made);
        foreach (var (integers, real) in node.Output.Zip(made.Output).Where(o => o.First.Length > 0))
        {
            // A pool's indices are no quantized numbers.
            if (node.OpType == "MaxPool" && integers != node.Output[0])
            {
                _nodes.Add(Node("", "Identity", [real], integers));
                continue;
            }

            string[] inputs = units.Zero.Length > 0 ? [real, units.Scale, units.Zero] : [real, units.Scale];
            _nodes.Add(Node("", "QuantizeLinear", inputs, integers));
            _quantized[integers] = units;
        }
    }

    /// <summary>Makes a node's readers read another value.</summary>
    private bool Rename(NodeProto node, string value)
    {
        if (_graph.Output.Any(o => o.Name == node.Output[0]))
        {
            _nodes.Add(Node("", "Identity", [value], node.Output[0]));
            return true;
        }

        foreach (var reader in _readers[node.Output[0]])
        {
            for (var i = 0; i < reader.Input.Count; i++)
            {
                reader.Input[i] = reader.Input[i] == node.Output[0] ? value : reader.Input[i];
            }
        }

        // Subgraphs read the value by its name.
        if (Captured().Contains(node.Output[0]))
        {
            _nodes.Add(Node("", "Identity", [value], node.Output[0]));
        }

        return true;
    }

    /// <summary>Removes the nodes that were replaced, and the tensors and factors that only they read.</summary>
    private void Prune()
    {
        var kept = _graph.Output.Select(o => o.Name).Concat(Captured()).ToHashSet(StringComparer.Ordinal);
        HashSet<string> used;
        NodeProto[] dead;
        do
        {
            used = _graph.Node.SelectMany(n => n.Input).Concat(kept).ToHashSet(StringComparer.Ordinal);
            dead =
            [
                .. _graph.Node.Where(n =>
                    (_replaced.Contains(n) || n.OpType == "Constant") && !n.Output.Any(used.Contains)
                ),
            ];
            Array.ForEach(dead, n => _graph.Node.Remove(n));
        } while (dead.Length > 0);

        foreach (var tensor in _graph.Initializer.Where(t => !used.Contains(t.Name)).ToArray())
        {
            _graph.Initializer.Remove(tensor);
        }
    }

    private IEnumerable<string> Captured() =>
        _graph
            .Node.SelectMany(n => n.Attribute)
            .SelectMany(OpsetUpgrade.Subgraphs)
            .SelectMany(GraphImporter.OuterNames);

    /// <summary>Emits a float operator in the place of a node, with the attributes that both have.</summary>
    private string Emit(string domain, string op, NodeProto? node, string[] inputs)
    {
        var output = Fresh($"{node?.Output[0] ?? inputs[^1]}/real");
        var made = Node(domain, op, inputs, output);
        if (node is not null)
        {
            made.Name = node.Name;
            made.Attribute.Add(node.Attribute.Where(a => a.Name is not ("channels_last" or "opset")));
        }

        _nodes.Add(made);
        return output;
    }

    private QuantizedTensor? Integers(string name) =>
        _tensors.TryGetValue(name, out var tensor) ? QuantizedTensor.Read(tensor) : null;

    private Tensor? Floats(string name) =>
        _tensors.TryGetValue(name, out var tensor) && ((ElementType)tensor.DataType).IsFloatingPoint()
            ? TensorFormat.FromProto(tensor)
            : null;

    /// <summary>Gives the last axis of a constant matrix: its columns have a scale each.</summary>
    private long Columns(NodeProto node, int input) =>
        _tensors.TryGetValue(node.Input[input], out var tensor) ? Math.Max(tensor.Dims.Count - 1, 0) : 0;

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

    private static long Number(NodeProto node, string attribute, long fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == attribute)?.I ?? fallback;

    private static string Input(NodeProto node, int index) => index < node.Input.Count ? node.Input[index] : "";

    private string Fresh(string name)
    {
        var fresh = name;
        for (var i = 2; !_taken.Add(fresh); i++)
        {
            fresh = $"{name}_{i}";
        }

        return fresh;
    }

    private static NodeProto Node(string domain, string op, string[] inputs, string output)
    {
        var node = new NodeProto
        {
            Domain = domain,
            OpType = op,
            Name = output,
        };
        node.Input.AddRange(inputs);
        node.Output.Add(output);
        return node;
    }

    private static MacOnnxException Unfit(NodeProto node, string name) =>
        new(
            "MAC0005",
            $"tensor '{name}'",
            $"Its size does not fit {node.OpType}'s attributes.",
            "Quantize the model again."
        );
}
