using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

/// <summary>One node of a random model: numbers that are taken modulo what there is to choose from.</summary>
internal readonly record struct RandomStep(int Op, int A, int B, int C);

/// <summary>
/// A model that numbers describe: every list of steps is a valid one, so that failures shrink. Operators take earlier
/// values, or new inputs of shapes that fit; the loss is a weighted sum of all values that nothing reads.
/// </summary>
internal sealed class RandomModel
{
    /// <summary>How many of <see cref="Kinds"/> are operators whose shapes are told here.</summary>
    private const int Plain = 23;

    private const int Opset18 = 18;
    private readonly int _opset;
    private readonly List<(string Name, long[] Dims)> _values = [];
    private readonly List<NodeProto> _nodes = [];
    private readonly List<(string Name, Tensor Tensor)> _constants = [];
    private readonly HashSet<string> _read = new(StringComparer.Ordinal);

    private RandomModel(int opset) => _opset = opset;

    /// <summary>Gets how many kinds of steps there are: the others are rows of the gradient tests.</summary>
    public static int Kinds => 2 * Plain;

    /// <summary>Gets whether an operator computes in float, as the model's others do in double.</summary>
    public bool HasFloat { get; private set; }

    /// <summary>Gets the inputs, all of which are differentiated.</summary>
    public Dictionary<string, Tensor> Inputs { get; } = new(StringComparer.Ordinal);

    public ModelProto Model { get; private set; } = null!;

    /// <summary>Gives the model of a list of steps.</summary>
    public static RandomModel Of(int opset, IReadOnlyList<RandomStep> steps)
    {
        var model = new RandomModel(opset);
        model.Leaf([2, 3]);
        model.Leaf([3, 1, 4]);
        foreach (var step in steps)
        {
            model.Apply(step);
        }

        model.Finish();
        return model;
    }

    private void Apply(RandomStep s)
    {
        if (s.Op % Kinds >= Plain)
        {
            Row(s);
            return;
        }

        var x = _values[s.A % _values.Count];
        var (rank, count) = (x.Dims.Length, x.Dims.Aggregate(1L, (n, d) => n * d));
        var axis = rank > 0 ? s.C % rank : 0;
        string[] plain = ["Sin", "Cos", "Tanh", "Sigmoid", "Neg", "Abs", "Relu", "Identity"];
        string[] binary = ["Add", "Sub", "Mul", "Max", "Min", "Sum"];
        string[] sums = ["ReduceSum", "ReduceMean", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare", "ReduceMax"];
        switch (s.Op % Kinds)
        {
            case 0 or 1:
                Emit(plain[s.B % plain.Length], [x.Name], x.Dims);
                break;
            case 2 or 3:
                var y = Operand(s.B, x.Dims);
                Emit(
                    binary[s.C % binary.Length],
                    s.B % 2 == 0 ? [x.Name, y.Name] : [y.Name, x.Name],
                    Broadcast(x.Dims, y.Dims)
                );
                break;
            case 4:
                // A divisor and an argument of functions that need a positive one: 1.5 + sin(x).
                var z = Operand(s.B, x.Dims);
                var positive = Emit("Add", [Emit("Sin", [z.Name], z.Dims), Scalar(1.5)], z.Dims);
                if (s.C % 3 == 0)
                {
                    Emit("Div", [x.Name, positive], Broadcast(x.Dims, z.Dims));
                }
                else
                {
                    Emit(s.C % 3 == 1 ? "Log" : "Sqrt", [positive], z.Dims);
                }

                break;
            case 5 when rank > 0:
                Emit(
                    s.B % 2 == 0 ? "Softmax" : "LogSoftmax",
                    [x.Name],
                    x.Dims,
                    Int("axis", axis - (s.A % 2 == 0 ? rank : 0))
                );
                break;
            case 6 when rank > 0:
                Reduce(sums[s.B % sums.Length], x, axis, s.A % 2 == 0);
                break;
            case 7 when rank >= 2:
                var perm = Permutation(rank, s.B);
                Emit("Transpose", [x.Name], [.. perm.Select(p => x.Dims[p])], Ints("perm", perm));
                break;
            case 8 when rank >= 1 && count <= 64:
                // [.., m, k] times [k, n], or [k].
                var width = 1 + (s.B % 3);
                var w = s.C % 4 == 0 ? Leaf([x.Dims[^1]]) : Leaf([x.Dims[^1], width]);
                Emit("MatMul", [x.Name, w.Name], [.. x.Dims[..^1], .. w.Dims[1..]]);
                break;
            case 9 when rank == 2:
                var (m, k) = s.B % 2 == 0 ? (x.Dims[0], x.Dims[1]) : (x.Dims[1], x.Dims[0]);
                var b = Leaf(s.C % 2 == 0 ? [k, 3] : [3, k]);
                Emit(
                    "Gemm",
                    [x.Name, b.Name, Leaf(s.A % 2 == 0 ? [3] : [m, 1]).Name],
                    [m, 3],
                    Int("transA", s.B % 2),
                    Int("transB", s.C % 2),
                    Float("alpha", 0.5)
                );
                break;
            case 10:
                Emit(
                    "Reshape",
                    [x.Name, Ints64(s.B % 2 == 0 ? [-1] : [1, count])],
                    s.B % 2 == 0 ? [count] : [1, count]
                );
                break;
            case 11 when rank > 0:
                var other = s.B % 2 == 0 ? x : Leaf(With(x.Dims, axis, 2));
                Emit(
                    "Concat",
                    [x.Name, other.Name],
                    With(x.Dims, axis, x.Dims[axis] + other.Dims[axis]),
                    Int("axis", axis)
                );
                break;
            case 12 when rank > 0 && x.Dims[axis] > 1:
                Split(x, axis);
                break;
            case 13 when rank > 0 && x.Dims[axis] > 1:
                var backward = s.B % 3 == 0;
                Emit(
                    "Slice",
                    [
                        x.Name,
                        Ints64(backward ? -1 : 1),
                        Ints64(backward ? -100 : 100),
                        Ints64(axis),
                        Ints64(backward ? -1 : 1),
                    ],
                    With(x.Dims, axis, backward ? x.Dims[axis] : x.Dims[axis] - 1)
                );
                break;
            case 14 when rank > 0:
                string[] modes = ["constant", "edge", "reflect"];
                var mode = modes[x.Dims[axis] > 1 ? s.B % 3 : s.B % 2];
                var pads = new long[2 * rank];
                (pads[axis], pads[rank + axis]) = (1, mode == "constant" ? -(x.Dims[axis] - 1) : 1);
                Emit(
                    "Pad",
                    [x.Name, Ints64(pads)],
                    With(x.Dims, axis, x.Dims[axis] + pads[axis] + pads[rank + axis]),
                    Text("mode", mode)
                );
                break;
            case 15 when count <= 32:
                var wide = (long[])[2, .. x.Dims];
                Emit("Expand", [x.Name, Ints64(wide)], wide);
                break;
            case 16:
                Emit("Unsqueeze", [x.Name, Ints64(axis)], [.. x.Dims[..axis], 1, .. x.Dims[axis..]]);
                break;
            case 17 when rank > 0 && x.Dims[axis] == 1:
                Emit("Squeeze", [x.Name, Ints64(axis)], [.. x.Dims[..axis], .. x.Dims[(axis + 1)..]]);
                break;
            case 18 when rank > 0:
                var last = x.Dims[axis] - 1;
                Emit("Gather", [x.Name, Ints64(last, 0, -1)], With(x.Dims, axis, 3), Int("axis", axis));
                break;
            case 19 when rank > 0:
                Emit(
                    "CumSum",
                    [x.Name, Ints64Scalar(axis)],
                    x.Dims,
                    Int("exclusive", s.B % 2),
                    Int("reverse", s.B / 2 % 2)
                );
                break;
            case 20 when rank >= 2 && _opset >= 14:
                Emit("Trilu", [x.Name], x.Dims, Int("upper", s.B % 2));
                break;
            case 21:
                Emit("Clip", [x.Name, Scalar(-0.8), Scalar(0.9)], x.Dims);
                break;
            case 22:
                // What decides is constant: a gradient knows no jumps.
                bool[] alternating = [.. Enumerable.Range(0, (int)count).Select(i => i % 3 != s.C % 3)];
                var mask = Constant(Ir.Tensor.From<bool>(x.Dims, alternating));
                var otherwise = Operand(s.B, x.Dims);
                Emit("Where", [mask, x.Name, otherwise.Name], Broadcast(x.Dims, otherwise.Dims));
                break;
            default:
                // The operator does not fit this value.
                break;
        }
    }

    /// <summary>
    /// Adds a row of the gradient tests. Its variables are new inputs in the row's range, moved a little by earlier
    /// values; its outputs are scaled to 1.
    /// </summary>
    private void Row(RandomStep s)
    {
        if (RandomRow.Of((s.B * 1000) + s.C, _opset) is not { } known)
        {
            return;
        }

        var row = known.Case;
        var random = new Random(s.A);
        string[] inputs =
        [
            .. row.Inputs.Select(
                (input, i) =>
                    input.Absent ? ""
                    : input.Differentiated ? Variable(row, input, i, s.A + (7 * i), random)
                    : Constant(input.ToTensor(row.Type, i, random))
            ),
        ];
        var name = $"v{_nodes.Count}";
        string[] outputs = [.. row.Outputs.Select((o, i) => o is null ? "" : $"{name}_{i}")];
        _nodes.Add(Onnx.Node(row.Domain, row.Op, inputs, outputs, row.Attributes));
        var read = row.Outputs.Zip(outputs).Where(o => o.First == true).Select(o => o.Second);
        foreach (var (output, (dims, largest)) in read.Zip(known.Outputs))
        {
            Emit("Mul", [Double(output, dims, row.Type), Scalar(1 / Math.Max(largest, 1))], dims);
        }
    }

    private string Variable(GradientCase row, CaseInput input, int index, int choice, Random random)
    {
        var (middle, width) = ((input.High + input.Low) / 2, input.High - input.Low);
        var spread = input.ToTensor(ElementType.Double, index, random).ToDouble();
        var isGiven = input.Values is not null;
        var leaf = Leaf(input.Dims, isGiven ? spread : [.. spread.Select(x => middle + (0.7 * (x - middle)))]).Name;
        if (!isGiven && choice % 5 > 0 && spread.Length > 0)
        {
            var x = _values[choice % (_values.Count - 1)];
            var (have, want) = (x.Dims.Aggregate(1L, (n, d) => n * d), spread.Length);
            var flat = Emit("Reshape", [x.Name, Ints64(-1)], [have], isValue: false);
            var tiled =
                have >= want ? flat : Emit("Tile", [flat, Ints64((want + have - 1) / have)], [], isValue: false);
            var part = Emit("Slice", [tiled, Ints64(0), Ints64(want)], [want], isValue: false);
            var sine = Emit(
                "Sin",
                [Emit("Reshape", [part, Ints64(input.Dims)], [], isValue: false)],
                [],
                isValue: false
            );
            var move = Emit("Mul", [sine, Scalar(0.1 * width)], [], isValue: false);
            leaf = Emit("Add", [leaf, move], input.Dims, isValue: false);
        }

        if (row.Type == ElementType.Double)
        {
            return leaf;
        }

        HasFloat = true;
        return Emit("Cast", [leaf], input.Dims, false, Int("to", (long)row.Type));
    }

    private string Double(string name, long[] dims, ElementType type) =>
        type == ElementType.Double ? name : Emit("Cast", [name], dims, false, Int("to", (long)ElementType.Double));

    private void Reduce(string op, (string Name, long[] Dims) x, int axis, bool keep)
    {
        var isInput = _opset >= Opset18 || op == "ReduceSum";
        Emit(
            op,
            isInput ? [x.Name, Ints64(axis)] : [x.Name],
            keep ? With(x.Dims, axis, 1) : [.. x.Dims[..axis], .. x.Dims[(axis + 1)..]],
            [Int("keepdims", keep), .. isInput ? Array.Empty<Attr>() : [Ints("axes", axis)]]
        );
    }

    private void Split((string Name, long[] Dims) x, int axis)
    {
        var second = $"v{_values.Count}s";
        Emit("Split", [x.Name, Ints64(1, x.Dims[axis] - 1)], With(x.Dims, axis, 1), Int("axis", axis));
        _nodes[^1].Output.Add(second);
        _values.Add((second, With(x.Dims, axis, x.Dims[axis] - 1)));
    }

    /// <summary>Gives a value that broadcasts with a shape: an earlier one, or a new input.</summary>
    private (string Name, long[] Dims) Operand(int choice, long[] dims)
    {
        var earlier = _values[choice % _values.Count];
        if (
            choice / 7 % 3 > 0
            && Fits(earlier.Dims, dims)
            && Broadcast(earlier.Dims, dims).Aggregate(1L, (n, d) => n * d) <= 200
        )
        {
            return earlier;
        }

        // Without leading axes, and with some axes that are repeated.
        var tail = dims[Math.Min(choice % 3, dims.Length)..];
        return Leaf([.. tail.Select((d, i) => (choice >> i) % 4 == 0 ? 1 : d)]);
    }

    private static bool Fits(long[] a, long[] b) =>
        Enumerable.Range(1, Math.Min(a.Length, b.Length)).All(i => a[^i] == b[^i] || a[^i] == 1 || b[^i] == 1);

    private static long[] Broadcast(long[] a, long[] b) =>
        [
            .. Enumerable
                .Range(1, Math.Max(a.Length, b.Length))
                .Reverse()
                .Select(i => Math.Max(i <= a.Length ? a[^i] : 1, i <= b.Length ? b[^i] : 1)),
        ];

    private static long[] With(long[] dims, int axis, long size) => [.. dims[..axis], size, .. dims[(axis + 1)..]];

    private static long[] Permutation(int rank, int choice)
    {
        var axes = Enumerable.Range(0, rank).Select(a => (long)a).ToList();
        var result = new List<long>();
        for (; axes.Count > 0; choice /= 5)
        {
            result.Add(axes[choice % axes.Count]);
            axes.RemoveAt(choice % axes.Count);
        }

        return [.. result];
    }

    /// <summary>Adds an input with distinct numbers of about -1 to 1.</summary>
    private (string Name, long[] Dims) Leaf(long[] dims)
    {
        var count = (int)Ir.Tensor.CountOf(dims);
        var phase = 0.21 + (0.37 * Inputs.Count); // No element at a kink.
        return Leaf(
            dims,
            [.. Enumerable.Range(0, count).Select(i => 1.1 * Math.Sin((2.3 * i * (1 + (0.01 * i))) + phase))]
        );
    }

    private (string Name, long[] Dims) Leaf(long[] dims, double[] elements)
    {
        var name = $"x{Inputs.Count}";
        Inputs[name] = Ir.Tensor.From<double>(dims, elements);
        _values.Add((name, dims));
        return (name, dims);
    }

    private string Emit(string op, string[] inputs, long[] dims, params ReadOnlySpan<Attr> attributes) =>
        Emit(op, inputs, dims, true, attributes);

    private string Emit(string op, string[] inputs, long[] dims, bool isValue, params ReadOnlySpan<Attr> attributes)
    {
        var name = $"v{_nodes.Count}";
        _nodes.Add(Onnx.Node(op, inputs, [name], [.. attributes]));
        _read.UnionWith(inputs);
        if (isValue)
        {
            _values.Add((name, dims));
        }

        return name;
    }

    private string Scalar(double value) => Constant(Ir.Tensor.From<double>([], [value]));

    private string Ints64(params long[] values) => Constant(Ir.Tensor.From<long>([values.Length], values));

    private string Ints64Scalar(long value) => Constant(Ir.Tensor.From<long>([], [value]));

    private string Constant(Tensor tensor)
    {
        var name = $"c{_constants.Count}";
        _constants.Add((name, tensor));
        return name;
    }

    /// <summary>Adds the loss: the sum over every value that nothing reads, its elements weighted by cos(k).</summary>
    private void Finish()
    {
        string[] parts =
        [
            .. _values
                .Where(v => !_read.Contains(v.Name))
                .ToArray()
                .Select(v =>
                {
                    var count = (int)v.Dims.Aggregate(1L, (n, d) => n * d);
                    double[] factors = [.. Enumerable.Range(0, count).Select(k => Math.Cos(k) / count)];
                    var weighted = Emit("Mul", [v.Name, Constant(Ir.Tensor.From<double>(v.Dims, factors))], v.Dims);
                    return Emit("ReduceSum", [weighted], [], Int("keepdims", 0));
                }),
        ];
        _nodes.Add(Onnx.Node("Sum", parts, ["loss"]));
        Model = Onnx.Model(
            Onnx.Graph(
                [.. _nodes],
                [.. Inputs.Select(i => Onnx.Info(i.Key, ElementType.Double, [.. i.Value.Dims]))],
                [Onnx.Info("loss", ElementType.Double)],
                [.. _constants]
            ),
            _opset
        );
    }
}
