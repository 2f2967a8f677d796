using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>The way from an operand of attention back to the dense layer that it comes from.</summary>
/// <remarks>
/// Operators that move whole elements are kept, operators that compute element by element are seen as copies. What
/// reaches the operand
/// is then found by an <see cref="ElementMap"/> of the layer's output.
/// </remarks>
internal sealed class OperandTrace
{
    /// <summary>More operators than this between projection and product are no layout of heads.</summary>
    private const int MostDepth = 48;

    private readonly Graph _graph;
    private readonly Value _operand;
    private readonly bool _linear;
    private readonly IReadOnlyDictionary<Node, DenseProduct> _products;
    private readonly Dictionary<Value, Node?> _origin = [];
    private string _stop = "";
    private ElementMap? _first;

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

    /// <summary>Gives the element of the layer's output that arrives at each element of the operand.</summary>
    /// <param name="second">Whether at the second size of dynamic dimensions, not the first.</param>
    /// <param name="choice">Which way to follow where there are two.</param>
    /// <returns>The map; null where it cannot be told without data.</returns>
    public ElementMap? Map(bool second = false, int choice = 0) =>
        second || choice > 0 ? Make(second, choice) : _first ??= Make(false, 0);

    private ElementMap? Make(bool second, int choice)
    {
        var maps = new Dictionary<Value, ElementMap?>
        {
            [Product.Outputs[0]] = ElementMap.Of(Dims(Product.Outputs[0]), Layer.UnitAxis),
        };
        return MapOf(_operand);

        ElementMap? MapOf(Value value)
        {
            if (maps.TryGetValue(value, out var known))
            {
                return known;
            }

            var (node, followed) = (value.Producer!, Followed(value.Producer!));
            if (IsElementwise(node))
            {
                var source = followed[Math.Min(choice, followed.Length - 1)];
                return maps[value] = Dims(source).SequenceEqual(Dims(value)) ? MapOf(source) : null;
            }

            ElementMap?[] inputs =
            [
                .. node.Inputs.Select(v => v is not null && followed.Contains(v) ? MapOf(v) : null),
            ];
            return maps[value] =
                inputs.Count(m => m is not null) < followed.Length
                    ? null
                    : ElementMap.Through(node, value, inputs, Dims, Integers);
        }

        long[] Dims(Value value) => [.. value.KnownShape.Dims.Select(d => second ? d.Second : d.First)];

        long[]? Integers(Value value) =>
            ShapeEvaluation.Evaluate(_graph, value, d => second ? d.Second : d.First)?.ToInt64();
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
}
