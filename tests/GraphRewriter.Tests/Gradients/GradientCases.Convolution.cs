using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    /// <summary>
    /// Gets convolutions; they are linear in each input, so that a step of 1 leaves float rounding only.
    /// </summary>
    private static IEnumerable<GradientCase> Convolution =>
        [
            .. new[]
            {
                // A sum for each sample: pointwise kernels, and one-hot columns for 8 to 63 channels.
                Conv([2, 3, 5, 4], [4, 3, 1, 1]),
                Conv([2, 4, 6, 5], [6, 4, 1, 1], Ints("strides", 2, 3)),
                Conv([2, 4, 6, 5], [6, 2, 1, 1], Int("group", 2)),
                Conv([2, 4, 6, 5], [6, 4, 1, 1], Ints("pads", 1, 0, 0, 1)),
                Conv([2, 8, 6, 5], [5, 8, 3, 3], Ints("pads", 1, 1, 1, 1)),
                Conv(
                    [2, 8, 9, 8],
                    [5, 8, 3, 2],
                    Ints("strides", 2, 2),
                    Ints("dilations", 2, 1),
                    Ints("pads", 1, 0, 2, 1)
                ),
                Conv([2, 16, 5, 5], [16, 16, 3, 3], Ints("pads", 1, 1, 0, 2)),
                Conv([2, 16, 5, 5], [20, 16, 1, 1]),
                Conv([2, 16, 9], [16, 16, 3], Ints("dilations", 2), Ints("pads", 4, 0)),
                // One product: many channels for few positions, slices of few channels, rows of many.
                Conv([3, 12, 2, 2], [10, 12, 1, 1]),
                Conv([2, 1, 8, 7], [3, 1, 5, 5], Ints("pads", 2, 2, 2, 2)),
                Conv([2, 3, 8, 7], [3, 3, 3, 2], Ints("strides", 2, 3), Ints("pads", 1, 0, 1, 1)),
                Conv([2, 3, 9, 9], [2, 3, 3, 3], Ints("strides", 3, 2), Ints("dilations", 2, 3)),
                Conv([2, 64, 4, 4], [6, 64, 3, 3], Ints("pads", 1, 1, 1, 1)),
                Conv([2, 64, 5, 4], [6, 64, 2, 2], Ints("dilations", 2, 1)),
                Conv([2, 32, 6, 7], [6, 32, 3, 3], Ints("strides", 2, 2), Ints("pads", 0, 1, 1, 0)),
                Conv([2, 3, 11], [4, 3, 4], Ints("strides", 3)),
                Conv([2, 64, 9], [4, 64, 3], Ints("strides", 2), Ints("pads", 2, 0)),
                Conv([1, 2, 5, 4, 3], [3, 2, 2, 3, 2], Ints("pads", 1, 0, 0, 1, 1, 1), Ints("strides", 2, 1, 1)),
                Conv([1, 8, 4, 4, 4], [3, 8, 3, 3, 3], Ints("pads", 1, 1, 1, 1, 1, 1)),
                Conv([1, 64, 3, 3, 4], [3, 64, 2, 2, 2], Ints("strides", 1, 2, 2)),
                Conv([1, 9, 7, 8], [2, 9, 5, 5], Ints("pads", 2, 2, 2, 1)),
                Conv([1, 9, 111, 120], [1, 9, 3, 3]) with
                {
                    Tolerance = 1e-3,
                },
                // Groups: one-hot columns, and the roles swapped for large kernels.
                Conv([2, 6, 9, 9], [12, 1, 5, 5], Int("group", 6), Ints("strides", 3, 2), Ints("pads", 1, 1, 1, 1)),
                Conv([2, 4, 9, 9], [6, 2, 5, 5], Int("group", 2), Ints("dilations", 2, 1), Ints("strides", 1, 2)),
                Conv([2, 6, 30], [6, 2, 25], Int("group", 3), Ints("pads", 3, 4)),
                Conv([2, 6, 7, 6], [6, 1, 3, 3], Int("group", 6), Ints("pads", 1, 1, 1, 1)),
                Conv([2, 6, 8, 7], [12, 1, 3, 3], Int("group", 6), Ints("strides", 2, 3), Ints("pads", 1, 1, 1, 1)),
                Conv([2, 6, 9, 9], [4, 3, 3, 3], Int("group", 2), Ints("strides", 3, 2), Ints("dilations", 2, 2)),
                Conv(
                    [2, 4, 12],
                    [6, 2, 3],
                    Int("group", 2),
                    Ints("strides", 2),
                    Ints("dilations", 3),
                    Ints("pads", 2, 1)
                ),
                Conv([1, 4, 4, 4, 4], [4, 2, 2, 2, 2], Int("group", 2), Ints("strides", 2, 1, 2)),
                // Automatic padding; ONNX Runtime alone refuses it for dilated kernels.
                Conv([2, 3, 6, 7], [2, 3, 4, 3], Text("auto_pad", "SAME_UPPER")),
                Conv([2, 3, 6, 7], [2, 3, 4, 3], Text("auto_pad", "SAME_LOWER"), Ints("strides", 2, 3)),
                Conv([2, 3, 6, 7], [2, 3, 4, 3], Text("auto_pad", "SAME_UPPER"), Ints("strides", 2, 3)),
                Conv([2, 3, 8, 7], [2, 3, 2, 3], Text("auto_pad", "SAME_LOWER"), Ints("dilations", 3, 2)),
                Conv([2, 3, 6, 7], [2, 3, 4, 3], Text("auto_pad", "VALID"), Ints("strides", 2, 2)),
                Conv([2, 3, 6, 7], [2, 3, 1, 1], Text("auto_pad", "SAME_UPPER"), Ints("strides", 2, 3)),
                ConvTranspose([2, 3, 4, 5], [3, 2, 3, 3]),
                ConvTranspose(
                    [2, 3, 4, 5],
                    [3, 2, 3, 2],
                    Ints("strides", 2, 3),
                    Ints("pads", 1, 0, 0, 1),
                    Ints("output_padding", 1, 2)
                ),
                ConvTranspose([2, 3, 4, 5], [3, 2, 3, 3], Ints("dilations", 3, 2)),
                ConvTranspose([2, 4, 4, 5], [4, 3, 2, 2], Int("group", 2), Ints("strides", 2, 2)),
                ConvTranspose(
                    [2, 4, 4, 5],
                    [4, 1, 3, 3],
                    Int("group", 4),
                    Ints("strides", 2, 2),
                    Ints("pads", 1, 1, 1, 1),
                    Ints("output_padding", 1, 1)
                ),
                ConvTranspose([2, 3, 7], [3, 2, 4], Ints("strides", 2), Ints("pads", 1, 1)),
                ConvTranspose([1, 3, 3, 3, 2], [3, 2, 2, 3, 2], Ints("strides", 2, 1, 2)),
                ConvTranspose([2, 16, 3, 4], [16, 64, 3, 3], Ints("pads", 1, 1, 1, 1)),
                ConvTranspose([2, 3, 4, 5], [3, 2, 1, 1]),
                ConvTranspose([2, 3, 4, 5], [3, 2, 3, 3], Text("auto_pad", "SAME_UPPER"), Ints("strides", 2, 2)),
                ConvTranspose([2, 3, 4, 5], [3, 2, 4, 3], Text("auto_pad", "SAME_LOWER"), Ints("strides", 1, 2)),
                ConvTranspose([2, 3, 4, 5], [3, 2, 3, 3], Ints("output_shape", 8, 10), Ints("strides", 2, 2)),
                ConvTranspose(
                    [2, 3, 4, 5],
                    [3, 2, 3, 3],
                    Ints("output_shape", 8, 10),
                    Ints("strides", 2, 2),
                    Text("auto_pad", "SAME_UPPER")
                ),
                ConvTranspose([2, 3, 4, 5], [3, 2, 3, 3], Ints("output_shape", 10, 12), Ints("strides", 2, 2)),
                ConvTranspose([2, 3, 4, 5], [3, 2, 3, 3], Text("auto_pad", "VALID"), Ints("strides", 2, 2)),
            }.SelectMany(row =>
                new[] { row, row with { Inputs = [row.Inputs[0] with { Dynamic = true }, .. row.Inputs[1..]] } }
            ),
            .. new[]
            {
                Conv([2, 3, 6, 7], [4, 3, 3, 3], Ints("pads", 1, 1, 1, 1)),
                Conv([2, 3, 8, 7], [4, 3, 3, 3], Ints("pads", 1, 1, 1, 1), Ints("strides", 2, 2)),
                Conv([2, 16, 6, 7], [17, 16, 3, 3], Ints("pads", 1, 1, 1, 1)),
                Conv([2, 3, 8, 7], [4, 3, 1, 1], Ints("strides", 2, 3)),
                Conv([2, 4, 8, 7], [4, 1, 3, 3], Int("group", 4), Ints("strides", 2, 2)),
                Conv([2, 3, 8, 7], [4, 3, 3, 2], Text("auto_pad", "SAME_UPPER")),
                ConvTranspose(
                    [2, 3, 4, 5],
                    [3, 2, 3, 3],
                    Ints("strides", 2, 2),
                    Ints("pads", 1, 1, 1, 1),
                    Ints("output_padding", 1, 0)
                ),
                ConvTranspose([2, 3, 4, 5], [3, 2, 3, 3], Text("auto_pad", "SAME_UPPER"), Ints("strides", 2, 2)),
            }.Select(row =>
                row with
                {
                    Inputs = [row.Inputs[0] with { Dynamic = true, DynamicSizes = true }, .. row.Inputs[1..]],
                }
            ),
        ];

    private static GradientCase Conv(long[] x, long[] w, params Attr[] attributes) =>
        Linear("Conv", x, w, w[0], attributes);

    private static GradientCase ConvTranspose(long[] x, long[] w, params Attr[] attributes) =>
        Linear("ConvTranspose", x, w, w[1] * new Attributes(attributes).Int("group", 1), attributes);

    private static GradientCase Linear(string op, long[] x, long[] w, long bias, Attr[] attributes) =>
        new(op, X(x), X(w), X(bias))
        {
            Attributes = attributes,
            Type = ElementType.Float,
            Step = 1,
            Tolerance = 1e-4,
        };
}
