using System.Runtime.InteropServices;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>A product with a weight, or with a part of one: which output unit of the weight each column of the product is.</summary>
/// <param name="Weight">The weight.</param>
/// <param name="Units">The unit of each column.</param>
/// <param name="Count">The number of units of the weight.</param>
internal sealed record DenseProduct(Parameter Weight, int[] Units, int Count)
{
    private Tensor? _numbers;

    /// <summary>Numbers the elements of the product's result, row major, as int32.</summary>
    /// <param name="dims">The dimensions of the result.</param>
    public Tensor Numbers(long[] dims)
    {
        if (_numbers is null || !_numbers.Dims.AsSpan().SequenceEqual(dims))
        {
            var bytes = new byte[checked(Tensor.CountOf(dims) * sizeof(int))];
            var numbers = MemoryMarshal.Cast<byte, int>(bytes.AsSpan());
            for (var i = 0; i < numbers.Length; i++)
            {
                numbers[i] = i;
            }

            _numbers = new Tensor(ElementType.Int32, [.. dims], bytes);
        }

        return _numbers;
    }
}

/// <summary>Finds the products whose second factor is a weight, whole or sliced: packed projections are sliced where queries and keys come from different inputs.</summary>
internal static class DenseProducts
{
    private static readonly HashSet<string> Layouts = new(StringComparer.Ordinal) { "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Split", "Slice", "Gather" };

    public static Dictionary<Node, DenseProduct> Find(Graph graph, IEnumerable<Parameter> parameters)
    {
        var weights = parameters.Where(p => p.Value.Rank == 2).ToDictionary(p => p.Value);
        var found = new Dictionary<Node, DenseProduct>();
        foreach (var use in weights.Values.SelectMany(p => p.Uses.Select(u => (u.Node, u.Input, p))).Where(u => u.Input == 1 && IsProduct(u.Node) && u.Node.Outputs[0].KnownShape[-1].IsStatic))
        {
            var count = (int)use.Node.Outputs[0].KnownShape[-1].Size;
            found[use.Node] = new(use.p, [.. Enumerable.Range(0, count)], count);
        }

        foreach (var node in graph.Nodes.Where(n => IsProduct(n) && !found.ContainsKey(n) && n.Inputs[1]!.Producer is not null && n.Inputs[1]!.Shape is { Rank: 2, IsStatic: true }))
        {
            if (Part(graph, node, weights) is { } part)
            {
                found[node] = part;
            }
        }

        return found;
    }

    private static bool IsProduct(Node node) => node.Is("MatMul") || node.Is("Gemm");

    private static DenseProduct? Part(Graph graph, Node product, Dictionary<Value, Parameter> weights)
    {
        var way = new List<Node>();
        var value = product.Inputs[1]!;
        while (value.Producer is { } node)
        {
            if (node.Domain.Length > 0 || !Layouts.Contains(node.OpType) || node.Inputs.Skip(1).Any(i => i is { Constant: null }))
            {
                return null;
            }

            way.Add(node);
            value = node.Inputs[0]!;
        }

        if (!weights.TryGetValue(value, out var weight))
        {
            return null;
        }

        way.Reverse();
        var isTransposed = product.Attributes.Int("transB", 0) != 0;
        long[] dims = [.. weight.Value.KnownShape.Dims.Select(d => d.Size)];
        foreach (var axis in new[] { 0, 1 })
        {
            var numbers = new float[dims[0] * dims[1]];
            for (var i = 0; i < numbers.Length; i++)
            {
                numbers[i] = axis == 0 ? i / dims[1] : i % dims[1];
            }

            var known = way.SelectMany(n => n.Inputs.Skip(1)).OfType<Value>().Distinct().ToDictionary(v => v.Name, v => v.Constant!, StringComparer.Ordinal);
            known[value.Name] = Tensor.From<float>(dims, numbers);
            var pushed = SubgraphRun.Run(graph, [.. way.Select(ModelWriter.ToProto)], known, [product.Inputs[1]!.Name])[0];
            var (rows, columns) = ((int)pushed.Dims[0], (int)pushed.Dims[1]);
            var found = pushed.Span<float>().ToArray();
            float At(int unit, int i) => isTransposed ? found[(unit * columns) + i] : found[(i * columns) + unit];
            var (units, inputs) = isTransposed ? (rows, columns) : (columns, rows);
            if (Enumerable.Range(0, units).All(u => Enumerable.Range(0, inputs).All(i => At(u, i) == At(u, 0))))
            {
                return new(weight, [.. Enumerable.Range(0, units).Select(u => (int)At(u, 0))], (int)dims[axis]);
            }
        }

        return null;
    }
}
