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
                }.Select(i => new GradientCase("Resize", [i.X, .. i.How])
                {
                    Type = ElementType.Float,
                    Attributes =
                    [
                        Text("mode", m.Mode),
                        Text("coordinate_transformation_mode", m.Coordinates),
                        .. m.Nearest.Length > 0 ? Attributes(Text("nearest_mode", m.Nearest)) : [],
                    ],
                })
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

    private static CaseInput Scales(params double[] scales) => Const([scales.Length], scales);
}
