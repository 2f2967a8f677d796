using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

internal static partial class GradientCases
{
    private static IEnumerable<GradientCase> Resampling =>
        [
            .. new (string Mode, string Coordinates, string Nearest)[]
            {
                ("nearest", "half_pixel", "round_prefer_floor"),
                ("nearest", "asymmetric", "floor"),
                ("nearest", "align_corners", "round_prefer_ceil"),
                ("nearest", "asymmetric", "ceil"),
                ("linear", "half_pixel", ""),
                ("linear", "align_corners", ""),
                ("linear", "pytorch_half_pixel", ""),
                ("linear", "asymmetric", ""),
                ("cubic", "half_pixel", ""),
                ("cubic", "align_corners", ""),
            }.SelectMany(m =>
                new (CaseInput X, CaseInput[] How)[]
                {
                    (X(1, 2, 3, 4), [None, Scales(1, 1, 2, 3)]),
                    (Batch(2, 2, 3, 4), [None, Scales(1, 1, 1.5, 0.6)]),
                    (X(1, 2, 3, 4), [None, None, Const(1, 2, 5, 8)]),
                    (Sizes(2, 2, 3, 4), [None, Scales(1, 1, 2, 3)]),
                    (Sizes(2, 2, 3, 4), [None, Scales(1, 1, 1.5, 0.6)]),
                    (Sizes(2, 2, 3, 4), [None, Data([4], new float[] { 1, 1, 1.5f, 0.6f })]),
                    (Sizes(2, 2, 3, 4), [None, None, Data([4], new long[] { 2, 2, 5, 8 })]),
                }.Select(i => new GradientCase("Resize", [i.X, .. i.How])
                {
                    Type = ElementType.Float,
                    SizeFromData = i.How[^1] is { Constant: false },
                    Attributes =
                    [
                        Text("mode", m.Mode),
                        Text("coordinate_transformation_mode", m.Coordinates),
                        .. m.Nearest.Length > 0 ? Attributes(Text("nearest_mode", m.Nearest)) : [],
                    ],
                })
            ),
            .. new[] { "nearest", "linear", "cubic" }.SelectMany(mode =>
                new[]
                {
                    new GradientCase(
                        "Resize",
                        X(1, 2, 4, 5),
                        Const([8], new double[] { 0, 0, 0.1, 0.2, 1, 1, 0.7, 1.2 }),
                        None,
                        Const(1, 2, 3, 6)
                    ),
                    new GradientCase(
                        "Resize",
                        Sizes(2, 2, 4, 5),
                        Data([4], new float[] { 0.1f, 0.2f, 0.7f, 1.2f }),
                        None,
                        Data([2], new long[] { 3, 6 })
                    )
                    {
                        Attributes = [Ints("axes", 2, 3)],
                        SizeFromData = true,
                    },
                }.Select(c =>
                    c with
                    {
                        Type = ElementType.Float,
                        Attributes =
                        [
                            .. c.Attributes,
                            Text("mode", mode),
                            Text("coordinate_transformation_mode", "tf_crop_and_resize"),
                            Float("extrapolation_value", 0.5),
                        ],
                    }
                )
            ),
            new("Resize", X(1, 2, 4), None, Scales(1, 1, 2)) { Type = ElementType.Float },
            new("Resize", X(2, 3), None, Scales(2, 2)) { Type = ElementType.Float },
            new("Resize", X(1, 1, 8, 6), None, Scales(1, 1, 0.5, 0.5))
            {
                Attributes = Attributes(Text("mode", "linear"), Int("antialias", 1)),
                Type = ElementType.Float,
            },
            new("Resize", X(1, 2, 3, 4), None, Scales(2, 2))
            {
                Attributes = Attributes(Text("mode", "linear"), Ints("axes", 2, 3)),
                Type = ElementType.Float,
            },
            new("Resize", X(1, 2, 3, 4), None, Scales(1, 1, 2, 2))
            {
                Attributes = Attributes(Text("mode", "linear")),
                Type = ElementType.Float,
                Opset = 13,
            },
        ];

    /// <summary>A variable whose batch and sizes are dynamic.</summary>
    private static CaseInput Sizes(params long[] dims) => new(dims) { Dynamic = true, DynamicSizes = true };

    private static CaseInput Scales(params double[] scales) => Const([scales.Length], scales);
}
