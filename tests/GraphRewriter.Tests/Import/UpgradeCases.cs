using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>An operator as an older operator set has it. An input called "const" is an initializer.</summary>
internal sealed record UpgradeCase(string Name, int Opset, NodeProto Node, params Tensor[] Inputs);

/// <summary>The rows of <see cref="OpsetUpgradeTests"/>.</summary>
internal static class UpgradeCases
{
    private static readonly string[] Statistics = ["a", "b", "c", "d", "e"];

    public static Dictionary<string, UpgradeCase> All { get; } =
        new UpgradeCase[][] { [.. Single], [.. Softmaxes], [.. Resizes], [.. Pools], [.. Unchanged] }
            .SelectMany(rows => rows)
            .ToDictionary(row => row.Name, StringComparer.Ordinal);

    private static IEnumerable<UpgradeCase> Single =>
        [
            Reduce("ReduceMax"),
            Reduce("ReduceMin"),
            Reduce("ReduceMean"),
            Reduce("ReduceProd"),
            Reduce("ReduceL1"),
            Reduce("ReduceL2"),
            Reduce("ReduceLogSumExp"),
            Reduce("ReduceSumSquare"),
            new("ReduceMean all axes", 13, Onnx.Node("ReduceMean", ["a"], ["y"]), [Onnx.Floats(2, 3, 4)]),
            new(
                "ReduceMean negative axis",
                13,
                Onnx.Node("ReduceMean", ["a"], ["y"], Ints("axes", -1, 0), Int("keepdims", 0)),
                [Onnx.Floats(2, 3, 4)]
            ),
            new("Split", 13, Onnx.Node("Split", ["a"], ["y", "y2", "y3"], Int("axis", 1)), [Onnx.Floats(2, 6)]),
            new(
                "Split with sizes",
                13,
                Onnx.Node("Split", ["a", "b"], ["y", "y2"], Int("axis", 1)),
                [Onnx.Floats(2, 6), Onnx.Ints(2, 4)]
            ),
            new(
                "BatchNormalization",
                13,
                Onnx.Node("BatchNormalization", ["a", "b", "c", "d", "e"], ["y"]),
                [
                    Onnx.Floats(2, 3, 4),
                    Onnx.Floats(3),
                    Onnx.Floats(3),
                    Onnx.Floats(3),
                    Tensor.From<float>([3], [1, 2, 3]),
                ]
            ),
            Grid("bilinear"),
            Grid("nearest"),
            Grid("bicubic"),
            new(
                "RoiAlign",
                13,
                Onnx.Node("RoiAlign", ["a", "b", "c"], ["y"], Int("output_height", 2), Int("output_width", 2)),
                [Onnx.Floats(1, 1, 6, 6), Tensor.From<float>([1, 4], [0.5f, 1, 4.5f, 5]), Onnx.Ints(0)]
            ),
            new("DFT", 17, Onnx.Node("DFT", ["a"], ["y"], Int("axis", 2)), [Onnx.Floats(1, 3, 4, 1)]),
            new("DFT default axis", 17, Onnx.Node("DFT", ["a"], ["y"]), [Onnx.Floats(1, 5, 1)]),
            new(
                "Slice",
                7,
                Onnx.Node("Slice", ["a"], ["y"], Ints("starts", 1, -3), Ints("ends", 100, -1), Ints("axes", 1, 2)),
                [Onnx.Floats(2, 3, 4)]
            ),
            new(
                "Slice all axes",
                9,
                Onnx.Node("Slice", ["a"], ["y"], Ints("starts", 0, 1), Ints("ends", 1, 3)),
                [Onnx.Floats(2, 4)]
            ),
            new("Clip", 7, Onnx.Node("Clip", ["a"], ["y"], Float("min", -0.2), Float("max", 0.5)), [Onnx.Floats(9)]),
            new("Clip from above", 10, Onnx.Node("Clip", ["a"], ["y"], Float("max", 0.5)), [Onnx.Floats(9)]),
            new(
                "Pad",
                7,
                Onnx.Node("Pad", ["a"], ["y"], Ints("pads", 0, 1, 2, -1), Float("value", 1.5)),
                [Onnx.Floats(2, 4)]
            ),
            new(
                "Pad of double",
                10,
                Onnx.Node("Pad", ["a"], ["y"], Ints("pads", 0, 1, 2, 0), Float("value", 1.5)),
                [Tensor.From<double>([2, 2], [1, 2, 3, 4])]
            ),
            new(
                "Pad reflect",
                10,
                Onnx.Node("Pad", ["a"], ["y"], Text("mode", "reflect"), Ints("pads", 0, 1, 0, 2)),
                [Onnx.Floats(2, 4)]
            ),
            new("Dropout", 7, Onnx.Node("Dropout", ["a"], ["y"], Float("ratio", 0.3)), [Onnx.Floats(2, 4)]),
            new("Dropout 10", 10, Onnx.Node("Dropout", ["a"], ["y"], Float("ratio", 0.3)), [Onnx.Floats(2, 4)]),
            new("Squeeze", 7, Onnx.Node("Squeeze", ["a"], ["y"], Ints("axes", 1, 3)), [Onnx.Floats(2, 1, 3, 1)]),
            new("Squeeze all", 11, Onnx.Node("Squeeze", ["a"], ["y"]), [Onnx.Floats(2, 1, 3, 1)]),
            new("Unsqueeze", 12, Onnx.Node("Unsqueeze", ["a"], ["y"], Ints("axes", 0, -1)), [Onnx.Floats(2, 3)]),
            new("ReduceSum", 7, Onnx.Node("ReduceSum", ["a"], ["y"], Ints("axes", 1)), [Onnx.Floats(2, 3, 4)]),
            new("ReduceSum all", 11, Onnx.Node("ReduceSum", ["a"], ["y"], Int("keepdims", 0)), [Onnx.Floats(2, 3)]),
            new(
                "Split by attribute",
                7,
                Onnx.Node("Split", ["a"], ["y", "y2"], Int("axis", 1), Ints("split", 1, 3)),
                [Onnx.Floats(2, 4)]
            ),
            new("Split evenly", 11, Onnx.Node("Split", ["a"], ["y", "y2"]), [Onnx.Floats(4, 2)]),
            new("TopK", 7, Onnx.Node("TopK", ["a"], ["y", "i"], Int("axis", 1), Int("k", 2)), [Onnx.Floats(3, 5)]),
            new(
                "Scatter",
                9,
                Onnx.Node("Scatter", ["a", "b", "c"], ["y"], Int("axis", 1)),
                [Onnx.Floats(2, 5), Tensor.From<long>([2, 2], [0, 3, 4, 1]), Onnx.Floats(2, 2)]
            ),
            .. from opset in new[] { 7, 9 }
            select new UpgradeCase(
                $"BatchNormalization {opset}",
                opset,
                Onnx.Node(
                    "BatchNormalization",
                    Statistics,
                    ["y"],
                    [.. opset < 9 ? new[] { Int("spatial", 1) } : [], Float("epsilon", 0.1)]
                ),
                Onnx.Floats(2, 3, 4),
                Onnx.Floats(3),
                Onnx.Floats(3),
                Onnx.Floats(3),
                Tensor.From<float>([3], [1, 2, 3])
            ),
            new(
                "BatchNormalization of elements",
                8,
                Onnx.Node("BatchNormalization", Statistics, ["y"], Int("spatial", 0), Float("epsilon", 0.1)),
                Onnx.Floats(2, 3, 2),
                Onnx.Floats(3, 2),
                Onnx.Floats(3, 2),
                Onnx.Floats(3, 2),
                Tensor.From<float>([3, 2], [1, 2, 3, 4, 5, 6])
            ),
            ScanOfSamples("forward", []),
            ScanOfSamples("reverse", [Ints("directions", 1)]),
        ];

    private static IEnumerable<UpgradeCase> Softmaxes =>
        [
            .. from opset in new[] { 7, 9, 11, 12 }
            from op in new[] { "Softmax", "LogSoftmax", "Hardmax" }
            from axis in opset < 11 ? new[] { 0, 1, 2, 3 } : [0, 1, 2, 3, -1, -2]
            select new UpgradeCase(
                $"{op} axis {axis} {opset}",
                opset,
                Onnx.Node(op, ["a"], ["y"], Int("axis", axis)),
                Onnx.Floats(2, 3, 1, 4)
            ),
            new("Softmax default axis", 8, Onnx.Node("Softmax", ["a"], ["y"]), Onnx.Floats(2, 3, 2)),
        ];

    private static IEnumerable<UpgradeCase> Resizes =>
        [
            .. from opset in new[] { 7, 8 }
            from mode in new[] { "nearest", "linear" }
            from scales in new float[][] { [1, 1, 2, 3], [1, 1, 1.5f, 2.2f] }
            select new UpgradeCase(
                $"Upsample {mode} {scales[2]} {opset}",
                opset,
                Onnx.Node("Upsample", ["a"], ["y"], Text("mode", mode), Scales(scales)),
                Onnx.Floats(1, 2, 3, 4)
            ),
            .. from op in new[] { "Upsample", "Resize" }
            from mode in new[] { "nearest", "linear" }
            from scales in new float[][]
            {
                [1, 1, 2, 3],
                [1, 1, 1.4f, 2.3f],
                [1, 1, 0.5f, 0.7f],
                [1, 1, 2, 0.6f],
                [1, 1, 0.4f, 1.7f],
            }
            where op == "Resize" || scales.All(s => s >= 1)
            from name in new[] { "const", "b" }
            select new UpgradeCase(
                $"{op} {mode} {scales[2]} {scales[3]} {name}",
                op == "Upsample" ? 9 : 10,
                Onnx.Node(op, ["a", name], ["y"], Text("mode", mode)),
                Onnx.Floats(1, 2, 5, 7),
                Tensor.From<float>([4], scales)
            ),
            .. from opset in new[] { 11, 12 }
            from coordinates in new[]
            {
                "half_pixel",
                "align_corners",
                "asymmetric",
                "pytorch_half_pixel",
                "tf_half_pixel_for_nn",
            }
            from mode in new[] { "nearest", "linear", "cubic" }
            select new UpgradeCase(
                $"Resize {mode} {coordinates} {opset}",
                opset,
                Onnx.Node(
                    "Resize",
                    ["a", "b", "c"],
                    ["y"],
                    Text("mode", mode),
                    Text("coordinate_transformation_mode", coordinates)
                ),
                Onnx.Floats(1, 2, 5, 4),
                Tensor.From<float>([0], []),
                Tensor.From<float>([4], [1, 1, 1.6f, 2])
            ),
            new(
                "Resize crop",
                11,
                Onnx.Node(
                    "Resize",
                    ["a", "b", "c", "d"],
                    ["y"],
                    Text("mode", "linear"),
                    Text("coordinate_transformation_mode", "tf_crop_and_resize")
                ),
                Onnx.Floats(1, 1, 4, 5),
                Tensor.From<float>([8], [0, 0, 0.2f, 0.1f, 1, 1, 0.8f, 0.9f]),
                Tensor.From<float>([0], []),
                Onnx.Ints(1, 1, 3, 3)
            ),
        ];

    private static IEnumerable<UpgradeCase> Pools =>
        from opset in new[] { 7, 10, 11, 18 }
        from op in new[] { "AveragePool", "MaxPool", "LpPool" }
        from pads in new[] { 0, 1 }
        from ceil in opset < 10 || (op == "LpPool" && opset < 18) ? new[] { 0 } : [0, 1]
        select new UpgradeCase(
            $"{op} pads {pads} ceil {ceil} {opset}",
            opset,
            Onnx.Node(
                op,
                ["a"],
                ["y"],
                [
                    Ints("kernel_shape", 3, 2),
                    Ints("strides", 2, 2),
                    Ints("pads", pads, pads, pads, pads),
                    .. ceil == 1 ? new[] { Int("ceil_mode", 1) } : [],
                ]
            ),
            Onnx.Floats(1, 2, 6, 7)
        );

    /// <summary>Gets operators that have no row because their old spelling still means the same.</summary>
    private static IEnumerable<UpgradeCase> Unchanged =>
        [
            .. from op in new[] { "Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow" }
            select new UpgradeCase(
                op,
                op is "Max" or "Min" or "Sum" or "Mean" ? 8 : 7,
                Onnx.Node(op, ["a", "b"], ["y"]),
                Tensor.From<float>([2, 3], [1, 2, 3, 4, 5, 6]),
                Tensor.From<float>([3], [2, 0.5f, 3])
            ),
            new(
                "Gemm",
                7,
                Onnx.Node("Gemm", ["a", "b", "c"], ["y"], Int("transB", 1), Float("alpha", 0.5)),
                Onnx.Floats(2, 3),
                Onnx.Floats(4, 3),
                Onnx.Floats(4)
            ),
            new("Cast", 7, Onnx.Node("Cast", ["a"], ["y"], Int("to", (int)ElementType.Float)), Onnx.Ints(3, 4)),
            new("PRelu", 7, Onnx.Node("PRelu", ["a", "b"], ["y"]), Onnx.Floats(2, 3, 4), Onnx.Floats(3, 1)),
            .. from op in new[] { (Name: "RNN", Gates: 1), (Name: "GRU", Gates: 3), (Name: "LSTM", Gates: 4) }
            select new UpgradeCase(
                op.Name,
                7,
                Onnx.Node(op.Name, ["a", "b", "c"], ["y", "h"], Int("hidden_size", 2)),
                Onnx.Floats(4, 3, 5),
                Onnx.Floats(1, 2 * op.Gates, 5),
                Onnx.Floats(1, 2 * op.Gates, 2)
            ),
        ];

    private static Attr Scales(float[] scales) => Floats("scales", scales);

    private static UpgradeCase Reduce(string op) =>
        new(op, 13, Onnx.Node(op, ["a"], ["y"], Ints("axes", 0, 2)), Onnx.Floats(2, 3, 4));

    private static UpgradeCase Grid(string mode) =>
        new(
            $"GridSample {mode}",
            16,
            Onnx.Node("GridSample", ["a", "b"], ["y"], Text("mode", mode)),
            Onnx.Floats(1, 2, 5, 5),
            Onnx.Floats(1, 3, 3, 2)
        );

    /// <summary>A running sum along each sample's sequence; Scan had no other meaning in operator set 8.</summary>
    private static UpgradeCase ScanOfSamples(string name, Attr[] directions) =>
        new(
            $"Scan {name}",
            8,
            Onnx.Node(
                "Scan",
                ["", "b", "c"],
                ["y", "sums"],
                [
                    Int("num_scan_inputs", 1),
                    Onnx.Subgraph(
                        "body",
                        Onnx.Graph(
                            [Onnx.Node("Add", ["s", "x"], ["t"]), Onnx.Node("Identity", ["t"], ["u"])],
                            [Onnx.Info("s", ElementType.Float, 3), Onnx.Info("x", ElementType.Float, 3)],
                            [Onnx.Info("t", ElementType.Float, 3), Onnx.Info("u", ElementType.Float, 3)]
                        )
                    ),
                    .. directions,
                ]
            ),
            Onnx.Floats(1),
            Onnx.Floats(2, 3),
            Onnx.Floats(2, 4, 3)
        );
}
