using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Pooling =>
        [
            .. new[]
            {
                // Windows that tile the input, with and without a rest.
                Pool("MaxPool", [2, 3, 4, 6], Ints("kernel_shape", 2, 2), Ints("strides", 2, 2)),
                Pool("MaxPool", [2, 3, 5, 7], Ints("kernel_shape", 2, 3), Ints("strides", 2, 3)),
                Pool("MaxPool", [2, 3, 8], Ints("kernel_shape", 3), Ints("strides", 3)),
                Pool("MaxPool", [2, 3, 4, 2, 5], Ints("kernel_shape", 2, 1, 2), Ints("strides", 2, 1, 2)),
                // Windows that overlap, leave gaps, or reach over the edge.
                Pool(
                    "MaxPool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 3, 3),
                    Ints("strides", 2, 2),
                    Ints("pads", 1, 1, 1, 1)
                ),
                Pool("MaxPool", [2, 3, 7, 6], Ints("kernel_shape", 2, 2), Ints("strides", 2, 2), Int("ceil_mode", 1)),
                Pool(
                    "MaxPool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 2, 2),
                    Ints("strides", 3, 3),
                    Ints("dilations", 2, 1)
                ),
                Pool("MaxPool", [2, 3, 7], Ints("kernel_shape", 3), Ints("strides", 2), Ints("pads", 1, 0)),
                Pool(
                    "MaxPool",
                    [1, 2, 4, 4, 4],
                    Ints("kernel_shape", 3, 3, 3),
                    Ints("strides", 1, 2, 1),
                    Ints("pads", 1, 1, 1, 1, 1, 1)
                ),
                Pool(
                    "MaxPool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 3, 3),
                    Ints("strides", 2, 2),
                    Text("auto_pad", "SAME_UPPER")
                ),
                Pool(
                    "MaxPool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 3, 2),
                    Text("auto_pad", "SAME_LOWER"),
                    Ints("dilations", 2, 2)
                ),
                Pool("MaxPool", [2, 3, 4, 6], Ints("kernel_shape", 2, 2), Ints("strides", 2, 2)) with
                {
                    Outputs = [true, false],
                },
                Pool(
                    "MaxPool",
                    [2, 3, 5, 8],
                    Ints("kernel_shape", 2, 2),
                    Ints("strides", 3, 2),
                    Ints("pads", 1, 0, 0, 1)
                ),
                Pool("AveragePool", [2, 3, 4, 6], Ints("kernel_shape", 2, 2), Ints("strides", 2, 2)),
                Pool("AveragePool", [2, 3, 7, 6], Ints("kernel_shape", 3, 2), Ints("strides", 3, 2)),
                Pool(
                    "AveragePool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 3, 3),
                    Ints("strides", 2, 2),
                    Ints("pads", 1, 1, 1, 1)
                ),
                Pool(
                    "AveragePool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 3, 3),
                    Ints("strides", 2, 2),
                    Ints("pads", 1, 1, 1, 1),
                    Int("count_include_pad", 1)
                ),
                Pool(
                    "AveragePool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 2, 3),
                    Ints("strides", 2, 2),
                    Int("ceil_mode", 1)
                ),
                Pool(
                    "AveragePool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 3, 3),
                    Ints("strides", 2, 2),
                    Ints("pads", 1, 0, 0, 1),
                    Int("ceil_mode", 1),
                    Int("count_include_pad", 1)
                ),
                Pool("AveragePool", [2, 3, 7, 6], Ints("kernel_shape", 2, 2), Ints("dilations", 2, 3)),
                Pool("AveragePool", [2, 3, 7], Ints("kernel_shape", 3), Ints("strides", 2), Ints("pads", 1, 0)),
                Pool(
                    "AveragePool",
                    [1, 2, 4, 4, 4],
                    Ints("kernel_shape", 3, 2, 3),
                    Ints("strides", 1, 2, 1),
                    Ints("pads", 1, 1, 1, 1, 1, 1)
                ),
                Pool(
                    "AveragePool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 3, 3),
                    Ints("strides", 2, 2),
                    Text("auto_pad", "SAME_LOWER")
                ),
                Pool("AveragePool", [2, 3, 7, 6], Ints("kernel_shape", 2, 2), Text("auto_pad", "SAME_UPPER")),
                Pool(
                    "LpPool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 3, 3),
                    Ints("strides", 2, 2),
                    Ints("pads", 1, 1, 1, 1)
                ),
                Pool("LpPool", [2, 3, 7], Ints("kernel_shape", 3), Int("p", 3)),
                Pool("LpPool", [2, 3, 7], Ints("kernel_shape", 2), Int("p", 1), Ints("strides", 2)),
                Pool("GlobalAveragePool", [2, 3, 4, 5]),
                Pool("GlobalAveragePool", [2, 3, 4]),
                Pool("GlobalMaxPool", [2, 3, 4, 5]),
                Pool("GlobalMaxPool", [2, 3, 2, 2, 3]),
            }.SelectMany(row => new[] { row, row with { Inputs = [row.Inputs[0] with { Dynamic = true }] } }),
            .. new[]
            {
                Pool("MaxPool", [2, 3, 5, 7], Ints("kernel_shape", 2, 2), Ints("strides", 2, 2)),
                Pool(
                    "AveragePool",
                    [2, 3, 7, 6],
                    Ints("kernel_shape", 3, 3),
                    Ints("strides", 2, 2),
                    Ints("pads", 1, 1, 1, 1)
                ),
                Pool("AveragePool", [2, 3, 7, 6], Ints("kernel_shape", 2, 2), Ints("strides", 2, 3)),
                Pool("GlobalAveragePool", [2, 3, 4, 5]),
                Pool("GlobalMaxPool", [2, 3, 4, 5]),
            }.Select(row => row with { Inputs = [row.Inputs[0] with { Dynamic = true, DynamicSizes = true }] }),
        ];

    /// <summary>
    /// A pool. Maxima are piecewise linear: the step is far below the distance of two elements, and what is left is
    /// float rounding.
    /// </summary>
    private static GradientCase Pool(string op, long[] x, params Attr[] attributes) =>
        op switch
        {
            "LpPool" => new(op, X(x).In(0.5, 2))
            {
                Attributes = attributes,
                Type = ElementType.Float,
                Step = 0.02,
                Tolerance = 1e-3,
            },
            "MaxPool" or "GlobalMaxPool" => new(op, X(x).In(-100, 100))
            {
                Attributes = attributes,
                Type = ElementType.Float,
                Step = 0.02,
                Tolerance = 1e-3,
            },
            _ => new(op, X(x))
            {
                Attributes = attributes,
                Type = ElementType.Float,
                Step = 1,
                Tolerance = 1e-4,
            },
        };
}
