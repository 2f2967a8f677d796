using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// A product with a weight, or with a part of one: which output unit of the weight each column of the product is.
/// </summary>
/// <param name="Weight">The weight.</param>
/// <param name="Units">The unit of each column.</param>
/// <param name="Count">The number of units of the weight.</param>
/// <param name="Slice">For a part: whether the units are the weight's rows, each with all its inputs in their order;
/// null where it is not such a slice.</param>
/// <param name="UnitAxis">The axis of the result that the columns lie along: the last, or 1 of a convolution.</param>
internal sealed record DenseProduct(Parameter Weight, int[] Units, int Count, bool? Slice = null, int UnitAxis = -1)
{
    private Tensor? _numbers;

    /// <summary>
    /// Numbers the elements of the product's result as int32: row times the number of columns plus column, where all
    /// other axes number the rows, row major.
    /// </summary>
    /// <param name="dims">The dimensions of the result.</param>
    public Tensor Numbers(long[] dims)
    {
        if (_numbers is null || !_numbers.Dims.AsSpan().SequenceEqual(dims))
        {
            var bytes = new byte[checked(Tensor.CountOf(dims) * sizeof(int))];
            var numbers = MemoryMarshal.Cast<byte, int>(bytes.AsSpan());
            var axis = UnitAxis < 0 ? dims.Length + UnitAxis : UnitAxis;
            var (columns, inner) = ((int)dims[axis], (int)Tensor.CountOf(dims.AsSpan()[(axis + 1)..]));
            for (var i = 0; i < numbers.Length; i++)
            {
                var row = (i / inner / columns * inner) + (i % inner);
                numbers[i] = (row * columns) + (i / inner % columns);
            }

            _numbers = new Tensor(ElementType.Int32, [.. dims], bytes);
        }

        return _numbers;
    }
}

/// <summary>
/// Finds the products whose second factor is a weight, whole or sliced: packed projections are sliced where queries and
/// keys come from different inputs.
/// </summary>
internal static class DenseProducts
{
    public static Dictionary<Node, DenseProduct> Find(Graph graph, IEnumerable<Parameter> parameters)
    {
        var weights = parameters.Where(p => p.Value.Rank == 2).ToDictionary(p => p.Value);
        var found = new Dictionary<Node, DenseProduct>();
        foreach (
            var use in weights
                .Values.SelectMany(p => p.Uses.Select(u => (u.Node, u.Input, p)))
                .Where(u => u.Input == 1 && IsProduct(u.Node) && u.Node.Outputs[0].KnownShape[-1].IsStatic)
        )
        {
            var count = (int)use.Node.Outputs[0].KnownShape[-1].Size;
            found[use.Node] = new(use.p, [.. Enumerable.Range(0, count)], count);
        }

        foreach (
            var (weight, node) in parameters
                .SelectMany(p => p.Uses.Select(u => (p, u)))
                .Where(u => u.u.Input == 1 && IsPointwise(u.u.Node))
                .Select(u => (u.p, u.u.Node))
        )
        {
            var count = (int)weight.Dims[0];
            found[node] = new(weight, [.. Enumerable.Range(0, count)], count, UnitAxis: 1);
        }

        foreach (
            var node in graph.Nodes.Where(n =>
                IsProduct(n)
                && !found.ContainsKey(n)
                && n.Inputs[1]!.Producer is not null
                && n.Inputs[1]!.Shape is { Rank: 2, IsStatic: true }
            )
        )
        {
            if (Part(graph, node, weights) is { } part)
            {
                found[node] = part;
            }
        }

        return found;
    }

    private static bool IsProduct(Node node) => node.Is("MatMul") || node.Is("Gemm");

    /// <summary>Whether a node is a convolution that multiplies every position's channels with one matrix.</summary>
    public static bool IsPointwise(Node node) =>
        node.Is("Conv")
        && node.Attributes.Int("group", 1) == 1
        && node.Inputs[1]!.Shape is { IsStatic: true } weight
        && weight.Dims.Skip(2).All(d => d.Size == 1)
        && (node.Attributes.Ints("strides") ?? []).All(s => s == 1)
        && (node.Attributes.Ints("pads") ?? []).All(p => p == 0);

    private static DenseProduct? Part(Graph graph, Node product, Dictionary<Value, Parameter> weights)
    {
        if (Way(product.Inputs[1]!) is not { } way || !weights.TryGetValue(way.Root, out var weight))
        {
            return null;
        }

        var isTransposed = product.Attributes.Int("transB", 0) != 0;
        long[] dims = [.. weight.Value.KnownShape.Dims.Select(d => d.Size)];
        float[][] pushed =
        [
            .. Enumerable
                .Range(0, 2)
                .Select(axis =>
                    Push(
                        graph,
                        way,
                        product.Inputs[1]!,
                        Tensor.From<float>(
                            dims,
                            [
                                .. Enumerable
                                    .Range(0, (int)(dims[0] * dims[1]))
                                    .Select(i => (float)(axis == 0 ? i / dims[1] : i % dims[1])),
                            ]
                        )
                    )
                ),
        ];
        var (rows, columns) = ((int)product.Inputs[1]!.KnownShape[0].Size, (int)product.Inputs[1]!.KnownShape[1].Size);
        var (units, inputs) = isTransposed ? (rows, columns) : (columns, rows);
        float At(int axis, int unit, int i) => pushed[axis][isTransposed ? (unit * columns) + i : (i * columns) + unit];
        foreach (var axis in new[] { 0, 1 })
        {
            if (
                Enumerable
                    .Range(0, units)
                    .All(u => Enumerable.Range(0, inputs).All(i => At(axis, u, i) == At(axis, u, 0)))
            )
            {
                var isSlice =
                    inputs == dims[1 - axis]
                    && Enumerable
                        .Range(0, units)
                        .All(u => Enumerable.Range(0, inputs).All(i => At(1 - axis, u, i) == i));
                return new(
                    weight,
                    [.. Enumerable.Range(0, units).Select(u => (int)At(axis, u, 0))],
                    (int)dims[axis],
                    isSlice ? axis == 0 : null
                );
            }
        }

        return null;
    }

    /// <summary>Whether a node only moves the elements of its first input, as constants say.</summary>
    public static bool IsLayout(Node node) =>
        (OpTable.FlowOf(node) is Flow.Axes or Flow.Elements || node.Is("Identity"))
        && OpTable.Find(node)!.DataInputs(node).SequenceEqual([0])
        && node.Inputs.Skip(1).All(i => i is not { Constant: null });

    /// <summary>Follows a value back through layouts to what no node computes.</summary>
    public static (Value Root, List<Node> Nodes)? Way(Value value)
    {
        var way = new List<Node>();
        while (value.Producer is { } node)
        {
            if (!IsLayout(node))
            {
                return null;
            }

            way.Insert(0, node);
            value = node.Inputs[0]!;
        }

        return (value, way);
    }

    /// <summary>Gives what arrives at the end of a way where its root holds given numbers.</summary>
    public static float[] Push(Graph graph, (Value Root, List<Node> Nodes) way, Value end, Tensor numbers)
    {
        if (way.Nodes.Count == 0)
        {
            return numbers.Span<float>().ToArray();
        }

        var known = way
            .Nodes.SelectMany(n => n.Inputs.Skip(1))
            .OfType<Value>()
            .Distinct()
            .ToDictionary(v => v.Name, v => v.Constant!, StringComparer.Ordinal);
        known[way.Root.Name] = numbers;
        return SubgraphRun.Run(graph, way.Nodes, known, [end.Name])[0].Span<float>().ToArray();
    }
}
