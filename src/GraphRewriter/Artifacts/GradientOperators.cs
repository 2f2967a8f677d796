using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>What a gradient operator of ONNX Runtime becomes.</summary>
/// <param name="OpType">The operator.</param>
/// <param name="Emit">Gives what replaces each output; null for one that nobody reads.</param>
/// <param name="Like">For each output the input that has its shape.</param>
/// <param name="Domain">The operator's domain.</param>
/// <param name="Forward">Finds the forward node whose gradient it is. The outputs then have the shapes of that node's
/// inputs, and <paramref name="Emit"/> is its rule in <c>Ops/</c>.</param>
internal sealed record ImportRule(
    string OpType,
    Func<ImportedNode, Term?[]> Emit,
    int[]? Like = null,
    string Domain = "com.microsoft",
    Func<Node, Node?>? Forward = null
);

/// <summary>What an import rule may name: inputs, attributes.</summary>
/// <param name="B">Where the rule emits.</param>
/// <param name="Node">ONNX Runtime's node.</param>
internal sealed record ImportedNode(GraphBuilder B, Node Node)
{
    public Term In(int index) => new(B, Node.Inputs[index]!);

    public bool Has(int index) => Node.Input(index) is not null;

    public float Float(string attribute, float fallback) => Node.Attributes.Float(attribute, fallback);

    public long Int(string attribute, long fallback) => Node.Attributes.Int(attribute, fallback);

    public string Text(string attribute, string fallback) => Node.Attributes.Text(attribute, fallback);

    /// <summary>Emits an operator that <c>Lowering/</c> spells.</summary>
    public Term Internal(string opType, ReadOnlySpan<Value?> inputs, params ReadOnlySpan<Attr> attributes) =>
        new(B, B.Node(opType, OpTable.GradientDomain, inputs, 1, attributes).Outputs[0]);

    /// <summary>Whether somebody reads an output.</summary>
    public bool IsRead(int output) =>
        output < Node.Outputs.Count
        && Node.Outputs[output] is { Name.Length: > 0 } value
        && (value.Uses.Count > 0 || value.OutputOf.Count > 0);
}

/// <summary>
/// The gradient operators of ONNX Runtime's training builds: a row says what each becomes, in operators of
/// <c>Lowering/</c> and standard ones.
/// </summary>
/// <remarks>
/// An operator whose forward node is known takes that node's rule in <c>Ops/</c>, which is right also where ONNX
/// Runtime's kernel is not: ConvGrad with auto_pad, AveragePoolGrad of overlapping windows in three dimensions.
/// Source of the semantics: the schemas and kernels of ONNX Runtime 1.19 (orttraining).
/// </remarks>
internal static class GradientOperators
{
    private const double RootTwoOverPi = 0.7978845608028654;

    public static IEnumerable<ImportRule> All { get; } =
    [
        // Relu's input serves as well as its output: both are positive in the same places.
        new("ReluGrad", n => [n.Internal("ReluGrad", [n.In(0), n.In(1)])], [1]),
        new("LeakyReluGrad", n => [n.In(0).Where(Positive(n.In(1)), n.In(0) * n.Float("alpha", 0.01f))], [1]),
        new("SigmoidGrad", n => [n.In(0) * (n.In(1) * (1 - n.In(1)))], [1]),
        new("TanhGrad", n => [n.In(0) * (1 - (n.In(1) * n.In(1)))], [1]),
        new("GeluGrad", n => [Gelu(n)], [1]),
        new("FastGeluGrad", n => [n.In(0) * TanhGeluSlope(n.In(1))], [1]),
        new("QuickGeluGrad", n => [QuickGelu(n)], [1]),
        new("BiasGeluGrad_dX", n => [n.In(0) * Activations.GeluSlope(n.In(1) + n.In(2))], [1]),
        new("BiasFastGeluGrad_dX", n => [n.In(0) * TanhGeluSlope(n.In(1) + n.In(2))], [1]),
        new("SoftmaxGrad_13", n => [n.Internal("SoftmaxGrad", [n.In(0), n.In(1)], Int("axis", Axis(n, -1)))], [1]),
        new("SoftmaxGrad", n => [n.In(1) * (n.In(0) - (n.In(0) * n.In(1)).Sum(LaterAxes(n)))], [1]),
        // What the schema calls X is the output.
        new("LogSoftmaxGrad_13", n => [Activations.LogSoftmax(n.In(0), n.In(1), (int)Axis(n, -1))], [1]),
        new("LogSoftmaxGrad", n => [n.In(0) - (n.In(1).Exp() * n.In(0).Sum(LaterAxes(n)))], [1]),
        new("SoftmaxCrossEntropyLossGrad", n => [CrossEntropy(n, IgnoredLabel(n))], [1]),
        new("SoftmaxCrossEntropyLossInternalGrad", n => [CrossEntropy(n, n.Has(4) ? n.In(4) : null)], [1]),
        new("Scale", Scale, [0]),
        new("DropoutGrad", n => [Dropout(n)], [0]),
        new("DivGrad", Division, [1, 2]),
        new("GatherGrad", n => [Gather(n)]),
        new("GatherElementsGrad", n => [Scatter(Zeros(n.In(1), n.In(0)), n.In(2), n.In(0), n.Int("axis", 0))]),
        new("GatherNDGrad", n => [GatherNd(n)]),
        new("SliceGrad", n => [Slice(n)]),
        new("LayerNormalizationGrad", n => ByRule(n), Forward: n => n.Inputs[3]!.Producer),
        new("SimplifiedLayerNormalizationGrad", n => ByRule(n), Forward: n => n.Inputs[3]!.Producer),
        new("InvertibleLayerNormalizationGrad", n => ByRule(n), Forward: n => n.Inputs[1]!.Producer),
        new("BatchNormalizationGrad", n => ByRule(n), Forward: n => n.Inputs[3]!.Producer),
        new("ConvGrad", n => ByRule(n), Forward: n => Reader(n, "Conv")),
        new("ConvTransposeGrad", n => ByRule(n), Forward: n => Reader(n, "ConvTranspose")),
        new("MaxPoolGrad", n => ByRule(n), Domain: "", Forward: n => n.Inputs[1]!.Producer),
        new("AveragePoolGrad", n => ByRule(n), Domain: "", Forward: n => n.Input(1)?.Producer),
    ];

    private static readonly Dictionary<(string, string), ImportRule> Table = All.ToDictionary(r =>
        (r.Domain, r.OpType)
    );

    public static ImportRule? Find(Node node) => Table.GetValueOrDefault((node.Domain, node.OpType));

    public static ImportRule? Find(string domain, string opType) =>
        Table.GetValueOrDefault((domain == "ai.onnx" ? "" : domain, opType));

    /// <summary>
    /// Gives nodes that have the operator's shapes in the eyes of ONNX Runtime, which does not know it.
    /// </summary>
    public static IEnumerable<Node> StandIns(Node node)
    {
        if (Find(node) is not { } rule)
        {
            return [node];
        }

        if (rule.OpType is "GatherGrad" or "GatherNDGrad" or "SliceGrad" or "GatherElementsGrad")
        {
            return
            [
                Alike(
                    "ConstantOfShape",
                    node.Inputs[rule.OpType is "GatherGrad" or "GatherNDGrad" ? 0 : 1],
                    node.Outputs[0]
                ),
            ];
        }

        var like = rule.Forward is { } forward
            ? Needed(node, forward(node)).Inputs
            : [.. rule.Like!.Select(i => node.Inputs[i])];
        return node
            .Outputs.Index()
            .Where(o => o.Item.Name.Length > 0)
            .Select(o => Alike("Identity", like[o.Index], o.Item));

        static Node Alike(string opType, Value? input, Value output) => new(opType, "", "", [input], [], [output]);
    }

    private static Node Needed(Node node, Node? forward) =>
        forward
        ?? throw new MacOnnxException(
            "MAC0803",
            node.ToString(),
            "The forward operator whose gradient it is was not found.",
            "Have the gradients computed anew: RewriteOptions.RebuildsBackward."
        );

    /// <summary>Applies the rule of the forward node.</summary>
    private static Term?[] ByRule(ImportedNode n)
    {
        var forward = Needed(n.Node, Find(n.Node)!.Forward!(n.Node));
        return OpTable.Find(forward)!.Gradient!(new GradientContext(n.B, forward, [n.Node.Inputs[0]], n.IsRead));
    }

    /// <summary>Finds the node that reads the gradient operator's second and third input as its first two.</summary>
    private static Node? Reader(Node node, string opType) =>
        node.Inputs[1]!
            .Uses.Select(u => u.Node)
            .FirstOrDefault(n => n.Is(opType) && n.Inputs[0] == node.Inputs[1] && n.Inputs[1] == node.Inputs[2]);

    private static Value Positive(Term x) => x.Op("Greater", x.Scalar(0));

    private static long Axis(ImportedNode n, long fallback) => n.In(1).V.KnownShape.Axis(n.Int("axis", fallback));

    private static long[] LaterAxes(ImportedNode n) =>
        [.. Enumerable.Range(0, n.In(1).V.Rank).Select(a => (long)a).Where(a => a >= Axis(n, 1))];

    private static Term Gelu(ImportedNode n) =>
        n.Node.Inputs[1]!.Uses.FirstOrDefault(u => u.Node is { OpType: "Gelu", Domain: "com.microsoft" }).Node
            is { } forward
            ? n.Internal("GeluGrad", [n.In(0), n.In(1), forward.Outputs[0]])
            : n.In(0) * Activations.GeluSlope(n.In(1));

    private static Term TanhGeluSlope(Term x)
    {
        var square = x * x;
        var t = (x * (RootTwoOverPi + (square * (RootTwoOverPi * 0.044715)))).Tanh();
        return 0.5 * (1 + t + (x * (1 - (t * t)) * (RootTwoOverPi + (square * (3 * RootTwoOverPi * 0.044715)))));
    }

    /// <summary>y = x s with s = sigmoid(alpha x), so y' = s (1 + alpha x (1 - s)).</summary>
    private static Term QuickGelu(ImportedNode n)
    {
        var scaled = n.In(1) * n.Float("alpha", 1.702f);
        var s = scaled.Sigmoid();
        return n.In(0) * (s * (1 + (scaled * (1 - s))));
    }

    private static Term? IgnoredLabel(ImportedNode n) =>
        n.Node.Attributes.Has("ignore_index") ? new(n.B, n.B.Scalar(n.Int("ignore_index", -1), n.In(2).Type)) : null;

    /// <summary>
    /// (exp(log p) - one hot) w dY, w the weight of the sample's class, 0 where the label is ignored, over the sum of
    /// all for a mean. Without any weight it is zero, not NaN.
    /// </summary>
    private static Term CrossEntropy(ImportedNode n, Term? ignored)
    {
        var (dY, logProbability, labels) = (n.In(0), n.In(1), n.In(2));
        var type = logProbability.Type;
        var isIgnored = ignored is { } index ? labels.Op("Equal", index.Cast(labels.Type)) : (Term?)null;
        var known = isIgnored is { } hidden ? labels.Scalar(0).Where(hidden, labels) : labels;
        var weights = n.Has(3) ? n.In(3).Op("Gather", known) : labels.Op("Equal", labels).AsNumber(type);
        weights = isIgnored is { } none ? weights.Scalar(0).Where(none, weights) : weights;
        if (n.Text("reduction", "mean") == "mean")
        {
            var sum = weights.Op("ReduceSum", Int("keepdims", 0));
            weights = weights / sum.Scalar(1).Where(sum.Op("Equal", sum.Scalar(0)), sum);
        }

        var shape = logProbability.V.KnownShape;
        var zero = new Term(n.B, n.B.Int64(0));
        var classes = zero.Op("Range", logProbability.DimVector(1).Squeeze(0), n.B.Int64(1))
            .Cast(labels.Type)
            .Reshape([-1, .. Enumerable.Repeat(1L, shape.Rank - 2)]);
        var oneHot = known.Unsqueeze(1).Op("Equal", classes).AsNumber(type);
        var gradient = (logProbability.Exp() - oneHot) * (weights * dY.Cast(type)).Unsqueeze(1);
        gradient = n.Has(5) ? gradient + n.In(5) : gradient;
        return n.Int("output_type", 0) is not 0 and var output ? gradient.Cast((ElementType)output) : gradient;
    }

    private static Term?[] Scale(ImportedNode n)
    {
        var scale = n.In(1).Cast(n.In(0).Type);
        return [n.Int("scale_down", 0) != 0 ? n.In(0) / scale : n.In(0) * scale];
    }

    /// <summary>The operator's training_mode is not looked at, as in ONNX Runtime: the mask tells.</summary>
    private static Term Dropout(ImportedNode n)
    {
        var keep = n.Has(2) ? 1 - n.In(2).Cast(n.In(0).Type) : n.In(0).Scalar(0.5);
        return (n.In(0) / keep).Where(n.In(1), n.In(0).Scalar(0));
    }

    private static Term?[] Division(ImportedNode n)
    {
        var (dY, a, b) = (n.In(0), n.In(1), n.In(2));
        return
        [
            n.IsRead(0) ? Broadcasting.Undo(dY / b, dY.V.KnownShape, a) : null,
            n.IsRead(1) ? Broadcasting.Undo(-(dY * a / (b * b)), dY.V.KnownShape, b) : null,
        ];
    }

    private static Term Zeros(Term shape, Term like) =>
        shape.Op("ConstantOfShape", Tensor("value", GraphBuilder.ScalarTensor(0, like.Type, [1])));

    private static Term Scatter(Term zeros, Term indices, Term updates, long axis) =>
        zeros.Op("ScatterElements", indices, updates, Int("axis", axis), Attr.Text("reduction", "add"));

    /// <summary>Adds each row of dY to the row of the table that it was taken from.</summary>
    private static Term Gather(ImportedNode n)
    {
        var (shape, indices, dY) = (n.In(0), n.In(1), n.In(2));
        var rank = n.Node.Outputs[0].Rank;
        var axis = n.Int("axis", 0) is >= 0 and var a ? a : n.Int("axis", 0) + rank;
        var picked = new Term(
            n.B,
            n.B.Op(
                "Concat",
                [
                    shape.Op("Slice", n.B.Int64s(0), n.B.Int64s(axis)),
                    n.B.Int64s(-1),
                    shape.Op("Slice", n.B.Int64s(axis + 1), n.B.Int64s(rank)),
                ],
                Int("axis", 0)
            )
        );
        var rows = dY.Op("Reshape", picked);
        var column = indices.Reshape([.. Enumerable.Range(0, rank).Select(i => i == axis ? -1L : 1)]);
        return Scatter(Zeros(shape, dY), column.Op("Expand", rows.Op("Shape")), rows, axis);
    }

    private static Term Slice(ImportedNode n) =>
        Put(n.In(0), n.In(1), places => n.B.Op("Slice", [places, .. n.Node.Inputs.Skip(2)]));

    private static Term GatherNd(ImportedNode n) =>
        Put(
            n.In(2),
            n.In(0),
            places => n.B.Op("GatherND", [places, n.Node.Inputs[1]], Int("batch_dims", n.Int("batch_dims", 0)))
        );

    /// <summary>Picks from the positions of the elements, and adds what flows back there.</summary>
    private static Term Put(Term dY, Term shape, Func<Value, Value> pick)
    {
        var zero = new Term(dY.B, dY.B.Int64(0));
        var count = shape.Op("ReduceProd", Int("keepdims", 0));
        var all = zero.Op("Range", count, dY.B.Int64(1)).Op("Reshape", shape);
        var places = new Term(dY.B, pick(all));
        var zeros = Zeros(shape, dY).Reshape(-1);
        return Scatter(zeros, places.Reshape(-1), dY.Reshape(-1), 0).Op("Reshape", shape);
    }
}
