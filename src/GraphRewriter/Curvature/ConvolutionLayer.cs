using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>A convolution; its rows are the zero-padded patches at every output position.</summary>
/// <param name="Weight">The weight, [out, in / groups, kernel...].</param>
/// <param name="Bias">The bias, or null.</param>
/// <param name="Node">The Conv.</param>
/// <param name="Depthwise">How depthwise convolutions are treated.</param>
internal sealed record ConvolutionLayer(Parameter Weight, Parameter? Bias, Node Node, DepthwiseMode Depthwise)
    : Layer(Weight, Bias, Node)
{
    private ImmutableArray<ActivationMean> _means;

    public override string Kind => "conv";

    public override bool OutputFirst => true;

    public override long Groups => Node.Attributes.Int("group", 1);

    /// <summary>
    /// One mean patch for each group, or one for all channels of a depthwise convolution; attention's values, which see
    /// one position at a time, take a weighted mean.
    /// </summary>
    public override ImmutableArray<ActivationMean> Means => _means.IsDefault ? _means = WithValues(Plain) : _means;

    public override ImmutableArray<int> MeanOfUnit
    {
        get
        {
            if (Values is { IsWhole: false } values)
            {
                return [.. values.Units.Select(isValue => isValue ? 1 : 0)];
            }

            var means = IsPooled ? 1 : Groups;
            return [.. Enumerable.Range(0, (int)Out).Select(u => (int)(u * means / Out))];
        }
    }

    private long[] Kernel => [.. Weight.Dims.Skip(2)];

    private bool IsPooled =>
        Depthwise == DepthwiseMode.Pooled && Groups > 1 && In == Kernel.Aggregate(1L, (a, b) => a * b);

    public override int UnitAxis(Value output) => 1;

    public override Term OutputRows(Term output) => Positions(output, Out);

    /// <summary>
    /// A convolution with one one-hot kernel for each element of the patch gives the patch at every position.
    /// </summary>
    public override Term Rows(Term input)
    {
        if (DenseProducts.IsPointwise(Node))
        {
            return Positions(input, In);
        }

        var size = (int)In;
        var identity = new float[size * size];
        for (var i = 0; i < size; i++)
        {
            identity[(i * size) + i] = 1;
        }

        var kernel = input.B.Constant(Ir.Tensor.From<float>([size, .. Weight.Dims.Skip(1)], identity));
        var windows = Node.Attributes.All.Where(a => a.Name is "pads" or "strides" or "dilations");
        var patches = input.Op("Conv", kernel, [.. windows]);
        return Positions(patches, size);
    }

    /// <summary>Gives the channels of each position of each sample as a row.</summary>
    private static Term Positions(Term value, long channels) =>
        value.Reshape(0, channels, -1).Transpose(0, 2, 1).Reshape(-1, channels);

    private ActivationMean Plain()
    {
        var windows = string.Join(',', Node.Attributes.All.Select(a => a.ToString()));
        var key = $"{Input.Name}/{Groups}/{IsPooled}/{string.Join(',', Kernel)}/{windows}";
        return ActivationMean.Of(
            new($"{Name}.mac_mean", Node, [IsPooled ? 1 : Groups, In], key, (b, _) => PatchMean(b))
        );
    }

    /// <summary>
    /// The mean patch is m[c, i] = mean over output positions o of x[c, o * stride + i * dilation], x zero-padded and
    /// averaged over samples: a convolution of x with a kernel of ones as large as the layer's output, stride and
    /// dilation exchanged.
    /// </summary>
    private Term PatchMean(GraphBuilder b)
    {
        var kernel = Kernel;
        var spatial = kernel.Length;
        var output = new Term(b, Node.Outputs[0]);
        var sizes = Node.Outputs[0].KnownShape.Dims.Skip(2).ToArray();
        var positions = sizes.All(d => d.IsStatic)
            ? new Term(b, b.Int64s([1, 1, .. sizes.Select(d => d.Size)]))
            : new Term(b, b.Op("Concat", [b.Int64s(1, 1), output.Op("Shape", Int("start", 2)).V], Int("axis", 0)));
        var one = Tensor("value", GraphBuilder.ScalarTensor(1, Input.Type, [1]));
        var ones = new Term(b, b.Op("ConstantOfShape", [positions.V], one));
        var count = ones.Op("Size").Cast(Input.Type);
        var steps = Enumerable.Repeat(1L, spatial).ToArray();
        var mean = new Term(b, Input).Mean([0], keepDims: false).Unsqueeze(1);
        var sums = mean.Op(
            "Conv",
            ones,
            Ints("pads", Node.Attributes.Ints("pads") ?? new long[2 * spatial]),
            Ints("strides", Node.Attributes.Ints("dilations") ?? steps),
            Ints("dilations", Node.Attributes.Ints("strides") ?? steps)
        );
        var axes = Enumerable.Range(2, spatial).Select(a => (long)a).ToArray();
        var patch =
            new Term(b, b.Op("Slice", [sums.V, b.Int64s(new long[spatial]), b.Int64s(kernel), b.Int64s(axes)])) / count;
        return (IsPooled ? patch.Mean([0]) : patch).Cast(ElementType.Float).Reshape(IsPooled ? 1 : Groups, In);
    }
}
