using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>Emits each layer's mean input row, the statistic m of MAC, computed only in steps that ask for it.</summary>
/// <remarks>
/// Rows of a dense layer are all leading positions of its input; rows of a convolution are the zero-padded patches at every output
/// position. The constant 1 that a bias adds to each row is left out: its mean is 1.
/// </remarks>
internal sealed class Statistics
{
    private readonly Graph _graph;
    private readonly Value _flag;
    private readonly Dictionary<string, Value> _known = new(StringComparer.Ordinal);

    /// <summary>Initializes a new instance of the <see cref="Statistics"/> class.</summary>
    /// <param name="graph">The training graph.</param>
    /// <param name="flag">A boolean scalar: whether this step's statistics are wanted.</param>
    public Statistics(Graph graph, Value flag) => (_graph, _flag) = (graph, flag);

    /// <summary>Appends the mean input of a layer, [groups, in] ([1, in] for dense and pooled layers); zeros where the flag is false.</summary>
    public Value Append(Layer layer, DepthwiseMode depthwise, string name)
    {
        var pooled = IsPooled(layer, depthwise);
        var groups = pooled ? 1 : layer.Groups;
        var key = layer.Kind == "dense"
            ? $"{layer.Input.Name}/{layer.Node.Attributes.Int("transA", 0)}"
            : $"{layer.Input.Name}/{layer.Groups}/{pooled}/{string.Join(',', Kernel(layer))}/{string.Join(',', layer.Node.Attributes.All.Select(a => a.ToString()))}";
        if (_known.TryGetValue(key, out var known))
        {
            return new GraphBuilder(_graph) { Origin = $"statistics {layer.Node}" }.Named(known, name);
        }

        var builder = new GraphBuilder(_graph) { Origin = $"statistics {layer.Node}", Prefix = $"{name}/" };
        var shape = Shape.Of(groups, layer.In);
        return _known[key] = Conditional.Append(
            builder,
            _flag,
            [name],
            [shape],
            b => [(layer.Kind == "dense" ? DenseMean(b, layer) : PatchMean(b, layer, pooled)).Cast(ElementType.Float).Reshape(groups, layer.In)],
            b => [b.Op("ConstantOfShape", [b.Int64s(groups, layer.In)])])[0];
    }

    /// <summary>Whether the layer is a depthwise convolution whose channels share one mean patch.</summary>
    public static bool IsPooled(Layer layer, DepthwiseMode depthwise) =>
        depthwise == DepthwiseMode.Pooled && layer.Groups > 1 && layer.In == Kernel(layer).Aggregate(1L, (a, b) => a * b);

    private static long[] Kernel(Layer layer) => [.. layer.Weight.Value.KnownShape.Dims.Skip(2).Select(d => d.Size)];

    private static Term DenseMean(GraphBuilder b, Layer layer)
    {
        var features = layer.Node.Attributes.Int("transA", 0) != 0 ? 0 : layer.Input.Rank - 1;
        return new Term(b, layer.Input).Mean([.. Enumerable.Range(0, layer.Input.Rank).Where(a => a != features).Select(a => (long)a)], keepDims: false);
    }

    /// <summary>
    /// The mean patch is m[c, i] = mean over output positions o of x[c, o * stride + i * dilation], x zero-padded and averaged over
    /// samples: a convolution of x with a kernel of ones as large as the layer's output, stride and dilation exchanged.
    /// </summary>
    private static Term PatchMean(GraphBuilder b, Layer layer, bool pooled)
    {
        var kernel = Kernel(layer);
        var spatial = kernel.Length;
        var output = new Term(b, layer.Node.Outputs[0]);
        var sizes = layer.Node.Outputs[0].KnownShape.Dims.Skip(2).ToArray();
        var positions = sizes.All(d => d.IsStatic) ? new Term(b, b.Int64s([1, 1, .. sizes.Select(d => d.Size)])) : new Term(b, b.Op("Concat", [b.Int64s(1, 1), output.Op("Shape", Int("start", 2)).V], Int("axis", 0)));
        var ones = new Term(b, b.Op("ConstantOfShape", [positions.V], Tensor("value", GraphBuilder.ScalarTensor(1, layer.Input.Type, [1]))));
        var count = ones.Op("Size").Cast(layer.Input.Type);
        var one = Enumerable.Repeat(1L, spatial).ToArray();
        var attributes = layer.Node.Attributes;
        var mean = new Term(b, layer.Input).Mean([0], keepDims: false).Unsqueeze(1);
        var sums = mean.Op(
            "Conv",
            ones,
            Ints("pads", attributes.Ints("pads") ?? new long[2 * spatial]),
            Ints("strides", attributes.Ints("dilations") ?? one),
            Ints("dilations", attributes.Ints("strides") ?? one));
        var axes = Enumerable.Range(2, spatial).Select(a => (long)a).ToArray();
        var patch = new Term(b, b.Op("Slice", [sums.V, b.Int64s(new long[spatial]), b.Int64s(kernel), b.Int64s(axes)])) / count;
        return pooled ? patch.Mean([0]) : patch;
    }
}
