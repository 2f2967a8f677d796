using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>The way from an operand of attention back to the dense layer that it comes from.</summary>
/// <remarks>
/// Operators that move whole elements are kept, operators that compute element by element are seen as copies. What
/// reaches the operand
/// is then found by running the way on ONNX Runtime with the elements of the layer's output replaced by their numbers.
/// </remarks>
internal sealed class OperandTrace
{
    /// <summary>More operators than this between projection and product are no layout of heads.</summary>
    private const int MostDepth = 48;

    /// <summary>Outputs with more elements than this are not numbered.</summary>
    private const long MostNumbers = 1 << 28;

    private readonly Graph _graph;
    private readonly Value _operand;
    private readonly bool _linear;
    private readonly IReadOnlyDictionary<Node, DenseProduct> _products;
    private readonly Dictionary<Value, Node?> _origin = [];
    private string _stop = "";
    private Tensor? _first;

    private OperandTrace(Graph graph, Value operand, bool linear, IReadOnlyDictionary<Node, DenseProduct> products) =>
        (_graph, _operand, _linear, _products) = (graph, operand, linear, products);

    /// <summary>Gets the node that multiplies with the layer's weight.</summary>
    public Node Product { get; private set; } = null!;

    /// <summary>Gets the layer's weight, and the unit of each column of its output.</summary>
    public DenseProduct Layer => _products[Product];

    /// <summary>
    /// Gets whether two parts of the layer's output are combined on the way, so that there are two ways to follow.
    /// </summary>
    public bool HasChoice { get; private set; }

    /// <summary>Follows an operand back to one dense layer.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="operand">The operand.</param>
    /// <param name="linear">Whether only what is linear in the layer's output may lie between.</param>
    /// <param name="products">The products with weights.</param>
    /// <returns>The trace, or why there is none.</returns>
    public static (OperandTrace? Trace, string Stop) Follow(
        Graph graph,
        Value operand,
        bool linear,
        IReadOnlyDictionary<Node, DenseProduct> products
    )
    {
        var trace = new OperandTrace(graph, operand, linear, products);
        if (trace.Origin(operand, 0) is not { } product || trace._stop.StartsWith('!'))
        {
            return (null, trace._stop.TrimStart('!'));
        }

        trace.Product = product;
        return (trace, "");
    }

    /// <summary>
    /// Gives the constants that multiply what is followed, directly or through arithmetic on constants and positions
    /// alone.
    /// </summary>
    public HashSet<Value> Factors()
    {
        var found = new HashSet<Value>();
        foreach (
            var node in _origin
                .Where(o => o.Value is not null)
                .Select(o => o.Key.Producer)
                .OfType<Node>()
                .Where(n => n.Is("Mul") || n.Is("Div"))
                .Distinct()
        )
        {
            foreach (var factor in node.Inputs.OfType<Value>().Where(v => _origin.GetValueOrDefault(v) is null))
            {
                var (constants, open) = (new HashSet<Value>(), new Stack<Value>([factor]));
                var isTable = true;
                var seen = new HashSet<Value>();
                while (isTable && open.TryPop(out var value))
                {
                    if (value.Constant is not null && value.Type.IsFloatingPoint())
                    {
                        constants.Add(value);
                    }
                    else if (value.Producer is { } producer && !producer.Is("Shape") && seen.Add(value))
                    {
                        isTable =
                            !_products.ContainsKey(producer)
                            && !(producer.Is("Gather") && producer.Inputs[1]!.Constant is null);
                        producer.Inputs.OfType<Value>().ToList().ForEach(open.Push);
                    }
                    else
                    {
                        isTable = value.Producer is not null || !value.Type.IsFloatingPoint();
                    }
                }

                found.UnionWith(isTable ? constants : []);
            }
        }

        return found;
    }

    /// <summary>
    /// Numbers the elements of the layer's output, row major, and gives the number that arrives at each element of the
    /// operand; -1 where none does.
    /// </summary>
    /// <param name="second">Whether at the second size of dynamic dimensions, not the first.</param>
    /// <param name="choice">Which way to follow where there are two.</param>
    /// <returns>An int32 tensor of the operand's shape; null where it cannot be told without data.</returns>
    public Tensor? Numbers(bool second = false, int choice = 0) =>
        second || choice > 0 ? Push(second, choice) : _first ??= Push(false, 0);

    private Tensor? Push(bool second, int choice)
    {
        var leaf = Product.Outputs[0];
        var dims = Dims(leaf, second);
        if (dims.Any(d => d < 0) || dims.Aggregate(1.0, (n, d) => n * d) > MostNumbers)
        {
            return null;
        }

        var known = new Dictionary<string, Tensor>(StringComparer.Ordinal) { [leaf.Name] = Layer.Numbers(dims) };
        var nodes = new List<Node>();
        var needed = new HashSet<Value> { _operand };
        for (var i = _graph.Nodes.Count - 1; i >= 0; i--)
        {
            var node = _graph.Nodes[i];
            if (ReferenceEquals(node, Product) || !node.Outputs.Any(needed.Contains))
            {
                continue;
            }

            if (
                (node.Is("Shape") || node.Is("Size"))
                && node.Inputs[0]!.Shape is { } shape
                && shape.Dims.All(d => d.IsKnown)
            )
            {
                known[node.Outputs[0].Name] = ShapeEvaluation.ShapeOf(node, d => second ? d.Second : d.First);
                continue;
            }

            var followed = node.Outputs.Any(o => _origin.GetValueOrDefault(o) is not null) ? Followed(node) : [];
            if (followed.Length > 0 && IsElementwise(node))
            {
                var source = followed[Math.Min(choice, followed.Length - 1)];
                if (!Dims(source, second).SequenceEqual(Dims(node.Outputs[0], second)))
                {
                    return null;
                }

                nodes.Add(new Node("Identity", "", "", [source], [], [node.Outputs[0]]));
                needed.Add(source);
                continue;
            }

            nodes.Add(node);
            foreach (var input in node.Reads)
            {
                if (followed.Length > 0 && node.Is("Concat") && !followed.Contains(input))
                {
                    known[input.Name] = Foreign(Dims(input, second));
                }
                else
                {
                    needed.Add(input);
                }
            }
        }

        nodes.Reverse();
        foreach (var value in needed.Where(v => v.Producer is null))
        {
            if (value.Constant is not { } constant)
            {
                return null;
            }

            known.TryAdd(value.Name, constant);
        }

        try
        {
            return nodes.Count == 0 ? known[_operand.Name] : SubgraphRun.Run(_graph, nodes, known, [_operand.Name])[0];
        }
        catch (OnnxRuntimeException)
        {
            return null;
        }
    }

    private IEnumerable<Value> DataInputs(Node node) =>
        OpTable
            .Find(node)
            ?.DataInputs(node)
            .Where(i => i == 0 || !_linear || !node.Is("Div"))
            .Select(i => node.Inputs[i]!)
        ?? [];

    private static bool IsLayout(Node node) => OpTable.FlowOf(node) is Flow.Axes or Flow.Elements;

    private bool IsElementwise(Node node) =>
        OpTable.FlowOf(node) is Flow.Linear || (!_linear && OpTable.FlowOf(node) is Flow.Pointwise or Flow.Rows);

    /// <summary>Gives the product that a value comes from; null where it comes from no dense layer.</summary>
    private Node? Origin(Value value, int depth)
    {
        if (_origin.TryGetValue(value, out var known))
        {
            return known;
        }

        _origin[value] = null;
        if (value.Producer is not { } node || depth > MostDepth)
        {
            _stop =
                _stop.Length > 0 ? _stop
                : value.Producer is null ? $"'{value.Name}' is computed by no layer"
                : $"more than {MostDepth} operators lie before it";
            return null;
        }

        if (_products.ContainsKey(node))
        {
            return _origin[value] = node;
        }

        if (!IsLayout(node) && !IsElementwise(node))
        {
            _stop = _stop.Length > 0 ? _stop : $"it comes through {node}";
            return null;
        }

        var origins = DataInputs(node)
            .Where(v => v.Constant is null)
            .Select(v => Origin(v, depth + 1))
            .OfType<Node>()
            .Distinct()
            .ToArray();
        if (origins.Length > 1 || (origins.Length == 1 && _linear && IsElementwise(node) && Followed(node).Length > 1))
        {
            _stop = $"!{node} combines several projections";
        }

        HasChoice |= IsElementwise(node) && Followed(node).Length > 1;

        return _origin[value] = origins.FirstOrDefault();
    }

    /// <summary>Gives the inputs of a node that come from the layer.</summary>
    private Value[] Followed(Node node) => [.. DataInputs(node).Where(v => _origin.GetValueOrDefault(v) is not null)];

    private static Tensor Foreign(long[] dims)
    {
        var numbers = new int[Tensor.CountOf(dims)];
        Array.Fill(numbers, -1);
        return Tensor.From<int>(dims, numbers);
    }

    private static long[] Dims(Value value, bool second) =>
        [.. value.KnownShape.Dims.Select(d => second ? d.Second : d.First)];
}
