using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>The upgrades that take several nodes.</summary>
internal static class SpelledUpgrades
{
    /// <summary>
    /// Softmax, LogSoftmax and Hardmax ran over all axes from <c>axis</c> on before operator set 13, and over one
    /// since. <see cref="SoftmaxAxis"/> removes the reshaping again where shapes allow.
    /// </summary>
    public static void OverAllLaterAxes(UpgradedNode u)
    {
        var axis = u.Int("axis", 1);
        u.Set(Int("axis", -1));
        if (axis != -1)
        {
            var x = u.Node.Input[0];
            var shape = u.Emit("Shape", "shape", [x]);
            u.Node.Input[0] = u.Emit("Flatten", "rows", [x], Int("axis", axis));
            u.EmitAfter("Reshape", 0, shape);
        }
    }

    /// <summary>
    /// Resize of operator set 10, and Upsample, which became it, had no choice of coordinates. ONNX Runtime rounds the
    /// position in the input down where an axis grows, and up where it shrinks.
    /// </summary>
    public static void Resize(UpgradedNode u)
    {
        var (x, scales) = (u.Node.Input[0], u.Node.Input[1]);
        u.Node.OpType = "Resize";
        u.Set(Text("coordinate_transformation_mode", "asymmetric"));
        u.Node.Input.Clear();
        u.Node.Input.AddRange([x, "", scales]);
        if (u.Text("mode", "nearest") != "nearest")
        {
            return;
        }

        var known = u.Scope.Floats(scales);
        if (known?.All(s => s >= 1) == true)
        {
            u.Set(Text("nearest_mode", "floor"));
            return;
        }

        u.Set(Text("nearest_mode", "ceil"));
        if (known?.All(s => s <= 1) != true)
        {
            var one = u.Constant("one", Ir.Tensor.From<float>([1], [1]));
            u.Node.Input[2] = u.Emit("Min", "smaller", [scales, one]);
            u.Node.Input[0] = u.Emit(
                "Resize",
                "larger",
                [x, "", u.Emit("Max", "larger_scales", [scales, one])],
                Text("coordinate_transformation_mode", "asymmetric"),
                Text("nearest_mode", "floor")
            );
        }
    }

    /// <summary>
    /// With <c>spatial</c> = 0, BatchNormalization had statistics for each element of a sample before operator set 9.
    /// </summary>
    public static void NormalizationOfElements(UpgradedNode u)
    {
        if (u.Take("spatial") is not { I: 0 })
        {
            return;
        }

        if (u.Node.Output.Count(o => o.Length > 0) > 1)
        {
            throw u.Unsupported("it trains with spatial = 0");
        }

        var input = u.Node.Input;
        var epsilon = u.Constant(
            "epsilon",
            GraphBuilder.ScalarTensor(u.Float("epsilon", 1e-5f), u.Scope.FloatType, [])
        );
        var deviation = u.Emit("Sqrt", "deviation", [u.Emit("Add", "variance", [input[4], epsilon])]);
        var centered = u.Emit("Sub", "centered", [input[0], input[3]]);
        var scaled = u.Emit("Mul", "scaled", [u.Emit("Div", "normalized", [centered, deviation]), input[1]]);
        u.ReplaceBy("Add", [scaled, input[2]]);
    }

    /// <summary>
    /// Scan went over axis 1 of each sample in operator set 8: a Scan over the samples, one over axis 0 inside.
    /// </summary>
    public static void ScanOfSamples(UpgradedNode u)
    {
        var node = u.Node;
        if (node.Input[0].Length > 0)
        {
            throw u.Unsupported("it is given the lengths of sequences");
        }

        var inner = new NodeProto { OpType = "Scan", Name = $"{node.Name}/sample" };
        var body = u.Take("body")!;
        var samples = new GraphProto { Name = $"{node.Name}/samples" };
        foreach (var (i, given) in body.G.Input.Index())
        {
            var info = new ValueInfoProto
            {
                Name = $"{node.Output[0]}/in{i}",
                Type = new() { TensorType = new() { ElemType = given.Type.TensorType.ElemType } },
            };
            samples.Input.Add(info);
            inner.Input.Add(info.Name);
        }

        foreach (var (i, given) in body.G.Output.Index())
        {
            var info = new ValueInfoProto
            {
                Name = $"{node.Output[0]}/out{i}",
                Type = new() { TensorType = new() { ElemType = given.Type.TensorType.ElemType } },
            };
            samples.Output.Add(info);
            inner.Output.Add(info.Name);
        }

        inner.Attribute.AddRange([body, u.Take("num_scan_inputs")!]);
        if (u.Take("directions") is { } directions)
        {
            directions.Name = "scan_input_directions";
            inner.Attribute.Add(directions);
        }

        samples.Node.Add(inner);
        node.Input.RemoveAt(0);
        u.Set(Int("num_scan_inputs", node.Input.Count));
        node.Attribute.Add(
            new AttributeProto
            {
                Name = "body",
                Type = AttributeProto.Types.AttributeType.Graph,
                G = samples,
            }
        );
    }

    /// <summary>
    /// GroupNormalization took one scale and bias a group before operator set 21, and takes one a channel since.
    /// </summary>
    public static void GroupNormPerChannel(UpgradedNode u)
    {
        var one = u.Constant("one", Ir.Tensor.From<long>([1], [1]));
        var count = u.Constant("groups", Ir.Tensor.From<long>([1], [u.Int("num_groups", 1)]));
        var flat = u.Constant("flat", Ir.Tensor.From<long>([1], [-1]));
        var channels = u.Emit("Shape", "channels", [u.Node.Input[0]], Int("start", 1), Int("end", 2));
        var repeat = u.Emit("Concat", "repeat", [one, u.Emit("Div", "per_group", [channels, count])], Int("axis", 0));
        for (var i = 1; i <= 2; i++)
        {
            var column = u.Emit("Unsqueeze", $"column{i}", [u.Node.Input[i], one]);
            u.Node.Input[i] = u.Emit(
                "Reshape",
                $"channels{i}",
                [u.Emit("Expand", $"expanded{i}", [column, repeat]), flat]
            );
        }
    }
}
