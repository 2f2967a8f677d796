using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Optimizer;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// Emits each layer's mean input row, the statistic m of MAC, computed only in steps that ask for it.
/// </summary>
/// <remarks>
/// Rows of a dense layer are all leading positions of its input; rows of a convolution are the zero-padded patches at
/// every output
/// position. The constant 1 that a bias adds to each row is left out: its mean is 1.
/// </remarks>
internal static class Statistics
{
    /// <summary>Emits a statistic, [rows, columns].</summary>
    private readonly record struct Wanted(
        Layer Layer,
        string Name,
        long Rows,
        long Columns,
        Func<GraphBuilder, Term> Emit
    );

    /// <summary>
    /// Appends what <see cref="Means"/> makes the layers' mean inputs of; zeros where the flag is false.
    /// </summary>
    /// <param name="graph">The training graph.</param>
    /// <param name="flag">A boolean scalar: whether this step's statistics are wanted.</param>
    /// <param name="layers">The layers.</param>
    /// <param name="depthwise">How depthwise convolutions are treated.</param>
    public static Value[] Append(Graph graph, Value flag, IEnumerable<Layer> layers, DepthwiseMode depthwise)
    {
        var known = new Dictionary<string, Term>(StringComparer.Ordinal);
        var wanted = layers.SelectMany(l => Of(l, depthwise, known)).ToArray();
        return Conditional.Append(
            new GraphBuilder(graph) { Origin = "statistics", Prefix = "mac/" },
            flag,
            [.. wanted.Select(w => w.Name)],
            [.. wanted.Select(w => Shape.Of(w.Rows, w.Columns))],
            b =>
                [
                    .. wanted.Select(w =>
                    {
                        (b.Origin, b.Prefix) = ($"statistics {w.Layer.Node}", $"{w.Name}/");
                        return w.Emit(b).V;
                    }),
                ],
            b => [.. wanted.Select(w => b.Op("ConstantOfShape", [b.Int64s(w.Rows, w.Columns)]))]
        );
    }

    /// <summary>
    /// Gives, in another graph, a layer's mean inputs from inputs of the names that <see cref="Append"/> gave:
    /// [vectors, in], the weighted one last.
    /// </summary>
    public static Term Means(GraphBuilder b, Layer layer, DepthwiseMode depthwise)
    {
        if (layer.Slices.Count > 0)
        {
            return new(b, b.Op("Concat", [.. layer.Slices.Select(s => Means(b, s, depthwise).V)], Int("axis", 0)));
        }

        Term Input(string name, Shape shape) => new(b, b.Input(name, ElementType.Float, shape));
        Term Plain() =>
            Input(TrainingNames.Mean(layer), Shape.Of(IsPooled(layer, depthwise) ? 1 : layer.Groups, layer.In));
        if (layer.Values is not { } values)
        {
            return Plain();
        }

        var weighted = values.SeparateTokens is { } tokens
            ? Input(TrainingNames.TokenWeights(layer), Shape.Of(1, tokens))
                .Op("MatMul", Input(TrainingNames.TokenMeans(layer), Shape.Of(tokens, layer.In)))
            : Input(TrainingNames.ValueMean(layer), Shape.Of(1, layer.In));
        return values.IsWhole ? weighted : new(b, b.Op("Concat", [Plain().V, weighted.V], Int("axis", 0)));
    }

    private static IEnumerable<Wanted> Of(Layer layer, DepthwiseMode depthwise, Dictionary<string, Term> known)
    {
        if (layer.Slices.Count > 0)
        {
            return layer.Slices.SelectMany(s => Of(s, depthwise, known));
        }

        var wanted = new List<Wanted>();
        if (layer.Values is not { IsWhole: true })
        {
            wanted.Add(
                new(
                    layer,
                    TrainingNames.Mean(layer),
                    IsPooled(layer, depthwise) ? 1 : layer.Groups,
                    layer.In,
                    b => Mean(b, layer, depthwise, known)
                )
            );
        }

        if (layer.Values is { SeparateTokens: { } tokens } apart)
        {
            wanted.Add(new(layer, TrainingNames.TokenWeights(layer), 1, tokens, apart.MeanAttention));
            wanted.Add(new(layer, TrainingNames.TokenMeans(layer), tokens, layer.In, b => apart.MeanTokens(b, layer)));
        }
        else if (layer.Values is { } values)
        {
            wanted.Add(
                new(
                    layer,
                    TrainingNames.ValueMean(layer),
                    1,
                    layer.In,
                    b =>
                        values.Statistic == ValueStatistic.Joint
                            ? values.Joint(b, layer)
                            : values.MeanAttention(b).Op("MatMul", values.MeanTokens(b, layer))
                )
            );
        }

        return wanted;
    }

    /// <summary>Emits a plain mean, once for layers that share their input.</summary>
    private static Term Mean(GraphBuilder b, Layer layer, DepthwiseMode depthwise, Dictionary<string, Term> known)
    {
        var pooled = IsPooled(layer, depthwise);
        var key =
            layer.Kind == "dense"
                ? $"{layer.Input.Name}/{layer.Node.Attributes.Int("transA", 0)}"
                : $"{layer.Input.Name}/{layer.Groups}/{pooled}/{string.Join(',', Kernel(layer))}/{string.Join(',', layer.Node.Attributes.All.Select(a => a.ToString()))}";
        return known.TryGetValue(key, out var mean)
            ? mean.Op("Identity")
            : known[key] = (layer.Kind == "dense" ? DenseMean(b, layer) : PatchMean(b, layer, pooled))
                .Cast(ElementType.Float)
                .Reshape(pooled ? 1 : layer.Groups, layer.In);
    }

    /// <summary>Whether the layer is a depthwise convolution whose channels share one mean patch.</summary>
    public static bool IsPooled(Layer layer, DepthwiseMode depthwise) =>
        depthwise == DepthwiseMode.Pooled
        && layer.Groups > 1
        && layer.In == Kernel(layer).Aggregate(1L, (a, b) => a * b);

    private static long[] Kernel(Layer layer) => [.. layer.Weight.Value.KnownShape.Dims.Skip(2).Select(d => d.Size)];

    private static Term DenseMean(GraphBuilder b, Layer layer)
    {
        var features = layer.Node.Attributes.Int("transA", 0) != 0 ? 0 : layer.Input.Rank - 1;
        return new Term(b, layer.Input).Mean(
            [.. Enumerable.Range(0, layer.Input.Rank).Where(a => a != features).Select(a => (long)a)],
            keepDims: false
        );
    }

    /// <summary>
    /// The mean patch is m[c, i] = mean over output positions o of x[c, o * stride + i * dilation], x zero-padded and
    /// averaged over
    /// samples: a convolution of x with a kernel of ones as large as the layer's output, stride and dilation exchanged.
    /// </summary>
    private static Term PatchMean(GraphBuilder b, Layer layer, bool pooled)
    {
        var kernel = Kernel(layer);
        var spatial = kernel.Length;
        var output = new Term(b, layer.Node.Outputs[0]);
        var sizes = layer.Node.Outputs[0].KnownShape.Dims.Skip(2).ToArray();
        var positions = sizes.All(d => d.IsStatic)
            ? new Term(b, b.Int64s([1, 1, .. sizes.Select(d => d.Size)]))
            : new Term(b, b.Op("Concat", [b.Int64s(1, 1), output.Op("Shape", Int("start", 2)).V], Int("axis", 0)));
        var ones = new Term(
            b,
            b.Op("ConstantOfShape", [positions.V], Tensor("value", GraphBuilder.ScalarTensor(1, layer.Input.Type, [1])))
        );
        var count = ones.Op("Size").Cast(layer.Input.Type);
        var one = Enumerable.Repeat(1L, spatial).ToArray();
        var attributes = layer.Node.Attributes;
        var mean = new Term(b, layer.Input).Mean([0], keepDims: false).Unsqueeze(1);
        var sums = mean.Op(
            "Conv",
            ones,
            Ints("pads", attributes.Ints("pads") ?? new long[2 * spatial]),
            Ints("strides", attributes.Ints("dilations") ?? one),
            Ints("dilations", attributes.Ints("strides") ?? one)
        );
        var axes = Enumerable.Range(2, spatial).Select(a => (long)a).ToArray();
        var patch =
            new Term(b, b.Op("Slice", [sums.V, b.Int64s(new long[spatial]), b.Int64s(kernel), b.Int64s(axes)])) / count;
        return pooled ? patch.Mean([0]) : patch;
    }
}
