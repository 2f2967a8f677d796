using Google.Protobuf;
using Google.Protobuf.Collections;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Rewrites the operators whose meaning or spelling changed between a model's operator set and <see cref="Target"/>.
/// </summary>
/// <remarks>
/// So every later stage knows one spelling of each operator. Operators that only gained types or attributes with the
/// old behaviour
/// as default need no row here. Source: the ONNX operator changelog.
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

    public static void Apply(RepeatedField<NodeProto> nodes, long from, long to)
    {
        if (from >= to)
        {
            return;
        }

        var result = new List<NodeProto>(nodes.Count);
        foreach (var node in nodes)
        {
            foreach (var graph in node.Attribute.SelectMany(Subgraphs))
            {
                Apply(graph.Node, from, to);
            }

            if (node.Domain is "" or "ai.onnx")
            {
                Upgrade(node, from, result);
            }

            result.Add(node);
        }

        nodes.Clear();
        nodes.AddRange(result);
    }

    /// <summary>Gives the graphs that an attribute holds.</summary>
    public static IEnumerable<GraphProto> Subgraphs(AttributeProto attribute) =>
        attribute.G is { } graph ? attribute.Graphs.Append(graph) : attribute.Graphs;

    private static void Upgrade(NodeProto node, long from, List<NodeProto> before)
    {
        foreach (var row in AttributeToInput.Where(r => r.Op == node.OpType && from < r.Since))
        {
            if (Take(node, row.Attribute) is { } attribute)
            {
                var value =
                    attribute.Type == AttributeProto.Types.AttributeType.Ints
                        ? Ir.Tensor.From<long>([attribute.Ints.Count], [.. attribute.Ints])
                        : Ir.Tensor.From<long>([], [attribute.I]);
                SetInput(node, row.Input, AddConstant(before, node, row.Attribute, value));
            }
        }

        switch (node.OpType)
        {
            case "Split" when from < 18 && node.Input.Count < 2:
                Set(node, Int("num_outputs", node.Output.Count));
                break;
            case "BatchNormalization" when from < 14 && node.Output.Count(o => o.Length > 0) > 1:
                // Up to operator set 13 more than one output meant training; the saved statistics are not part of later
                // versions.
                Set(node, Int("training_mode", 1));
                while (node.Output.Count > 3)
                {
                    node.Output.RemoveAt(node.Output.Count - 1);
                }

                break;
            case "GridSample" when from < 20 && node.Attribute.FirstOrDefault(a => a.Name == "mode") is { } mode:
                mode.S = ByteString.CopyFromUtf8(
                    mode.S.ToStringUtf8() switch
                    {
                        "bilinear" => "linear",
                        "bicubic" => "cubic",
                        var other => other,
                    }
                );
                break;
            case "RoiAlign" when from < 16:
                Set(node, Text("coordinate_transformation_mode", "output_half_pixel"));
                break;
            case "GroupNormalization" when from < 21:
                GroupNormPerChannel(node, before);
                break;
        }
    }

    /// <summary>
    /// GroupNormalization took one scale and bias a group before operator set 21, and takes one a channel since.
    /// </summary>
    private static void GroupNormPerChannel(NodeProto node, List<NodeProto> before)
    {
        var groups = node.Attribute.First(a => a.Name == "num_groups").I;
        string Emit(string op, string part, string[] inputs, params Attr[] attributes)
        {
            var made = new NodeProto { OpType = op };
            made.Input.AddRange(inputs);
            made.Output.Add($"{node.Output[0]}/{part}");
            made.Attribute.AddRange(attributes.Select(AttributeFormat.ToProto));
            before.Add(made);
            return made.Output[0];
        }

        var one = AddConstant(before, node, "one", Ir.Tensor.From<long>([1], [1]));
        var count = AddConstant(before, node, "groups", Ir.Tensor.From<long>([1], [groups]));
        var flat = AddConstant(before, node, "flat", Ir.Tensor.From<long>([1], [-1]));
        var channels = Emit("Shape", "channels", [node.Input[0]], Int("start", 1), Int("end", 2));
        var repeat = Emit("Concat", "repeat", [one, Emit("Div", "per_group", [channels, count])], Int("axis", 0));
        for (var i = 1; i <= 2; i++)
        {
            var column = Emit("Unsqueeze", $"column{i}", [node.Input[i], one]);
            node.Input[i] = Emit("Reshape", $"channels{i}", [Emit("Expand", $"expanded{i}", [column, repeat]), flat]);
        }
    }

    private static AttributeProto? Take(NodeProto node, string name)
    {
        var attribute = node.Attribute.FirstOrDefault(a => a.Name == name);
        if (attribute is not null)
        {
            node.Attribute.Remove(attribute);
        }

        return attribute;
    }

    private static void Set(NodeProto node, Attr attribute) => node.Attribute.Add(AttributeFormat.ToProto(attribute));

    private static void SetInput(NodeProto node, int index, string name)
    {
        while (node.Input.Count <= index)
        {
            node.Input.Add("");
        }

        node.Input[index] = name;
    }

    private static string AddConstant(List<NodeProto> before, NodeProto node, string part, Tensor value)
    {
        var constant = new NodeProto { OpType = "Constant" };
        constant.Output.Add($"{node.Output.First(o => o.Length > 0)}/{part}");
        Set(constant, Attr.Tensor("value", value));
        before.Add(constant);
        return constant.Output[0];
    }
}
