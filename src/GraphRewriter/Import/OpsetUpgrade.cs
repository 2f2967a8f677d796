using Google.Protobuf.Collections;
using MacOnnx.GraphRewriter.Import.Proto;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Rewrites the operators whose meaning or spelling changed between a model's operator set and <see cref="Target"/>, so
/// that every later stage knows one spelling of each operator.
/// </summary>
/// <remarks>
/// Operators that only gained types, or attributes whose default is the old behaviour, need no row here. Source: the
/// ONNX operator changelog.
/// </remarks>
internal static class OpsetUpgrade
{
    /// <summary>The operator set that older models are brought to.</summary>
    public const long Target = 21;

    /// <summary>
    /// Attributes that became an input: operator, attribute, position of the input, the operator set that changed it.
    /// </summary>
    private static readonly (string Op, string Attribute, int Input, long Since)[] AttributeToInput =
    [
        ("Upsample", "scales", 1, 9),
        ("Slice", "starts", 1, 10),
        ("Slice", "ends", 2, 10),
        ("Slice", "axes", 3, 10),
        ("Clip", "min", 1, 11),
        ("Clip", "max", 2, 11),
        ("Pad", "pads", 1, 11),
        ("Pad", "value", 2, 11),
        ("Dropout", "ratio", 1, 12),
        ("Squeeze", "axes", 1, 13),
        ("Unsqueeze", "axes", 1, 13),
        ("ReduceSum", "axes", 1, 13),
        ("Split", "split", 1, 13),
        ("ReduceMax", "axes", 1, 18),
        ("ReduceMin", "axes", 1, 18),
        ("ReduceMean", "axes", 1, 18),
        ("ReduceProd", "axes", 1, 18),
        ("ReduceL1", "axes", 1, 18),
        ("ReduceL2", "axes", 1, 18),
        ("ReduceLogSum", "axes", 1, 18),
        ("ReduceLogSumExp", "axes", 1, 18),
        ("ReduceSumSquare", "axes", 1, 18),
        ("DFT", "axis", 2, 20),
    ];

    /// <summary>
    /// All other changes: operator, the operator set that changed it, what to do. They apply in order.
    /// </summary>
    private static readonly (string Op, long Since, Action<UpgradedNode> Rule)[] Changes =
    [
        ("Scan", 9, SpelledUpgrades.ScanOfSamples),
        ("BatchNormalization", 9, SpelledUpgrades.NormalizationOfElements),
        ("TopK", 10, u => u.AddInput(1, "k", Ir.Tensor.From<long>([1], [u.Take("k")!.I]))),
        ("Upsample", 10, SpelledUpgrades.Resize),
        ("Resize", 11, SpelledUpgrades.Resize),
        ("Scatter", 11, u => u.Node.OpType = "ScatterElements"),
        ("Softmax", 13, SpelledUpgrades.OverAllLaterAxes),
        ("LogSoftmax", 13, SpelledUpgrades.OverAllLaterAxes),
        ("Hardmax", 13, SpelledUpgrades.OverAllLaterAxes),
        ("BatchNormalization", 14, TrainingMode),
        ("RoiAlign", 16, u => u.Set(Text("coordinate_transformation_mode", "output_half_pixel"))),
        ("Split", 18, EqualParts),
        ("Resize", 18, SizesAlone),
        ("GridSample", 20, u => u.Set(Text("mode", u.Text("mode", "bilinear") is "bicubic" ? "cubic" : GridMode(u)))),
        ("GroupNormalization", 21, SpelledUpgrades.GroupNormPerChannel),
    ];

    /// <summary>Upgrades a graph and the graphs in it.</summary>
    /// <param name="graph">The graph.</param>
    /// <param name="from">Its operator set.</param>
    /// <param name="path">The model, for messages.</param>
    public static void Apply(GraphProto graph, long from, string path) =>
        Apply(graph.Node, new UpgradeScope(graph, from, path));

    /// <summary>Upgrades a function.</summary>
    public static void Apply(FunctionProto function, long from, string path) =>
        Apply(function.Node, new UpgradeScope(new GraphProto { Node = { function.Node } }, from, path));

    /// <summary>Gives the graphs that an attribute holds.</summary>
    public static IEnumerable<GraphProto> Subgraphs(AttributeProto attribute) =>
        attribute.G is { } graph ? attribute.Graphs.Append(graph) : attribute.Graphs;

    private static void Apply(RepeatedField<NodeProto> nodes, UpgradeScope scope)
    {
        if (scope.From >= Target)
        {
            return;
        }

        var result = new List<NodeProto>(nodes.Count);
        foreach (var node in nodes)
        {
            foreach (var graph in node.Attribute.SelectMany(Subgraphs))
            {
                Apply(graph.Node, new UpgradeScope(graph, scope));
            }

            if (node.Domain is "" or "ai.onnx")
            {
                var upgraded = new UpgradedNode(node, scope);
                foreach (var row in AttributeToInput.Where(r => r.Op == node.OpType && scope.From < r.Since))
                {
                    upgraded.ToInput(row.Attribute, row.Input);
                }

                foreach (var row in Changes.Where(r => r.Op == node.OpType && scope.From < r.Since).ToArray())
                {
                    row.Rule(upgraded);
                }

                result.AddRange(upgraded.Nodes);
            }
            else
            {
                result.Add(node);
            }
        }

        nodes.Clear();
        nodes.AddRange(result);
    }

    /// <summary>
    /// Up to operator set 13 more than one output meant training; the saved statistics are not part of later versions.
    /// </summary>
    private static void TrainingMode(UpgradedNode u)
    {
        if (u.Node.Output.Count(o => o.Length > 0) > 1)
        {
            u.Set(Int("training_mode", 1));
            while (u.Node.Output.Count > 3)
            {
                u.Node.Output.RemoveAt(u.Node.Output.Count - 1);
            }
        }
    }

    private static void EqualParts(UpgradedNode u)
    {
        if (u.Node.Input.Count < 2)
        {
            u.Set(Int("num_outputs", u.Node.Output.Count));
        }
    }

    /// <summary>
    /// Beside sizes, scales had to be there and empty in operator set 11, and must be left out since 18.
    /// </summary>
    private static void SizesAlone(UpgradedNode u)
    {
        if (u.Node.Input.Count > 3 && u.Node.Input[3].Length > 0)
        {
            u.Node.Input[2] = "";
        }
    }

    private static string GridMode(UpgradedNode u) => u.Text("mode", "bilinear") is "nearest" ? "nearest" : "linear";
}
