using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Operators that move, join or repeat whole tensors.</summary>
internal static class Layout
{
    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("Reshape", g => [g.DY().ReshapeTo(g.X())], Flow: Flow.Axes),
        new("Flatten", g => [g.DY().ReshapeTo(g.X())], Flow: Flow.Axes),
        new("Squeeze", g => [g.DY().ReshapeTo(g.X())], Flow: Flow.Axes),
        new("Unsqueeze", g => [g.DY().ReshapeTo(g.X())], Flow: Flow.Axes),
        new("Transpose", g => [g.DY().Transpose(Inverse(g))], Flow: Flow.Axes),
        new("Concat", Concat, Flow: Flow.Elements),
        new("Split", g => [Split(g)], Flow: Flow.Elements),
        new("Expand", g => [g.DY()], Broadcasts: true, Flow: Flow.Axes),
        new("Tile", g => [Tile(g)], Flow: Flow.Elements),
        new("Pad", Pad),
        new("Trilu", g => [g.Op("Trilu", [g.DY().V, g.Node.Input(1)], Int("upper", g.Int("upper", 1)))]),
        new(
            "CumSum",
            g =>
                [
                    g.Op(
                        "CumSum",
                        [g.DY().V, g.X(1).V],
                        Int("exclusive", g.Int("exclusive", 0)),
                        Int("reverse", 1 - g.Int("reverse", 0))
                    ),
                ]
        ),
        new("CumProd", CumProd),
        new("CenterCropPad", g => [CenterCropPad(g)]),
        new("Col2Im", g => [Col2Im(g)]),
        new("DepthToSpace", g => [DepthToSpace(g)], Flow: Flow.Elements),
        new(
            "SpaceToDepth",
            g => [g.DY().Op("DepthToSpace", Int("blocksize", g.Int("blocksize", 1)))],
            Flow: Flow.Elements
        ),
        new("Dropout", g => [Dropout(g)], NoGradient: [1], Flow: Flow.Linear),
    ];

    private static long[] Inverse(GradientContext g)
    {
        var rank = g.ShapeX().Rank;
        var perm = g.Ints("perm") ?? [.. Enumerable.Range(0, rank).Select(a => (long)(rank - 1 - a))];
        return [.. Enumerable.Range(0, rank).Select(a => (long)Array.IndexOf(perm, a))];
    }

    private static Term?[] Concat(GradientContext g)
    {
        var axis = g.Axis("axis", 0);
        if (g.InputCount == 1)
        {
            return [g.DY()];
        }

        var sizes = g.Join(Enumerable.Range(0, g.InputCount).Select(i => g.X(i).DimVector(axis)));
        return
        [
            .. g
                .B.Node("Split", "", [g.DY().V, sizes.V], g.InputCount, Int("axis", axis))
                .Outputs.Select(o => (Term?)g.Of(o)),
        ];
    }

    private static Term Split(GradientContext g) =>
        g.Node.Outputs.Count == 1
            ? g.DY()
            : g.Op(
                "Concat",
                [.. Enumerable.Range(0, g.Node.Outputs.Count).Select(i => g.DY(i).V)],
                Int("axis", g.Axis("axis", 0))
            );

    private static Term Tile(GradientContext g)
    {
        // [2 x 3, 4] is [2, 3, 1, 4] summed over the axes of repetition.
        var rank = g.ShapeX().Rank;
        var repeats = g.ConstantInts(1);
        Term Repeat(int axis) =>
            repeats is null ? g.X(1).Op("Slice", g.Ints64(axis), g.Ints64(axis + 1)) : g.Ints64(repeats[axis]);
        var shape = g.Join(Enumerable.Range(0, rank).SelectMany(a => new[] { Repeat(a), g.X().DimVector(a) }));
        return rank == 0
            ? g.DY()
            : g.DY().Op("Reshape", shape).Sum([.. Enumerable.Range(0, rank).Select(a => 2L * a)], keepDims: false);
    }

    private static Term?[] Pad(GradientContext g)
    {
        if (g.Text("mode", "constant") != "constant")
        {
            return
            [
                Indexing.Undo(
                    g,
                    index => g.Op("Pad", [index, g.X(1), null, g.Node.Input(3)], Text("mode", g.Text("mode", "")))
                ),
                null,
                g.Needs(2) ? g.X(2).Zeros() : null,
            ];
        }

        var dX = Cropped(g);

        // The constant fills what is not the input, or takes the place of what a negative amount crops.
        return [dX, null, g.Needs(2) ? (Total(g.DY()) - Total(dX)).ReshapeTo(g.X(2)) : null];

        static Term Total(Term x) => x.Op("ReduceSum", Int("keepdims", 0));
    }

    private static Term Cropped(GradientContext g)
    {
        if (g.ConstantInts(1) is { } pads && (!g.Has(3) || g.ConstantInts(3) is not null))
        {
            var axes = g.ConstantInts(3)?.Select(a => g.ShapeX().Axis(a)) ?? Enumerable.Range(0, g.ShapeX().Rank);
            return Indexing.PadZeros(g, g.DY(), [.. pads.Select(p => -p)], [.. axes]);
        }

        return g.Op("Pad", [g.DY(), -g.X(1), null, g.Node.Input(3)]);
    }

    /// <summary>
    /// Each element receives what the products that contain it receive, times the product without it; not defined
    /// where an element is 0.
    /// </summary>
    private static Term?[] CumProd(GradientContext g)
    {
        var sums = g.Op(
            "CumSum",
            [g.DY() * g.Y(), g.X(1)],
            Int("exclusive", g.Int("exclusive", 0)),
            Int("reverse", 1 - g.Int("reverse", 0))
        );
        return [sums / g.X()];
    }

    /// <summary>Cropping and padding round the same center undo each other.</summary>
    private static Term CenterCropPad(GradientContext g) =>
        g.Ints("axes") is { } axes
            ? g.DY()
                .Op("CenterCropPad", g.Join(axes.Select(a => g.X().DimVector(g.ShapeX().Axis(a)))), Ints("axes", axes))
            : g.DY().Op("CenterCropPad", g.X().ShapeVector());

    /// <summary>Each column takes the image's elements at its window's positions; those in the padding are 0.</summary>
    private static Term Col2Im(GradientContext g)
    {
        if (g.ConstantInts(1) is not { } image || g.ConstantInts(2) is not { } block)
        {
            throw g.Unsupported("its image or block has a dynamic size", "Export the model with fixed sizes.");
        }

        var ones = Enumerable.Repeat(1L, image.Length).ToArray();
        var pads = g.Ints("pads") ?? new long[2 * image.Length];
        var windows = new Windows(
            block,
            g.Ints("strides") ?? ones,
            g.Ints("dilations") ?? ones,
            pads[..image.Length],
            pads[image.Length..]
        );
        long[] counts =
        [
            .. Enumerable
                .Range(0, image.Length)
                .Select(a =>
                    ((image[a] + windows.Begin[a] + windows.End[a] - windows.Extent(a)) / windows.Strides[a]) + 1
                ),
        ];
        var (positions, outside) = (windows.Positions(image, counts), Ir.Tensor.CountOf(image));
        var (taps, columns) = (windows.Taps, Ir.Tensor.CountOf(counts));
        var index = new long[positions.Length];
        for (var i = 0; i < index.Length; i++)
        {
            var position = positions[((i % columns) * taps) + (i / columns)];
            index[i] = position < 0 ? outside : position;
        }

        var elements = g.DY().Reshape(0, 0, outside).Op("Pad", g.Ints64(0, 0, 0, 0, 0, 1));
        return elements
            .Op("Gather", g.B.Constant(Ir.Tensor.From<long>([taps, columns], index)), Int("axis", 2))
            .ReshapeTo(g.X());
    }

    private static Term DepthToSpace(GradientContext g)
    {
        var block = g.Int("blocksize", 1);
        if (g.Text("mode", "DCR") == "DCR")
        {
            return g.DY().Op("SpaceToDepth", Int("blocksize", block));
        }

        var x = g.X();
        var shape = g.Join(
            x.DimVector(0),
            g.Ints64(-1),
            x.DimVector(2),
            g.Ints64(block),
            x.DimVector(3),
            g.Ints64(block)
        );
        return g.DY().Op("Reshape", shape).Transpose(0, 1, 3, 5, 2, 4).ReshapeTo(x);
    }

    private static Term Dropout(GradientContext g)
    {
        var training = g.Node.Input(2);
        if (training is null || (training.Constant is { } flag && flag.Data.Span[0] == 0))
        {
            return g.DY();
        }

        if (g.B.Graph.Root != g.B.Graph)
        {
            throw g.Unsupported(
                "dropout draws anew at every step of a loop, whose gradient takes the steps again",
                "Export the model with a fixed number of steps, or without dropout in the loop."
            );
        }

        var scale = g.Has(1) ? 1 / (1 - g.X(1)) : g.DY().Scalar(2);
        if (training.Constant is null)
        {
            scale = scale.Where(training, scale.Scalar(1));
        }

        return (g.DY() * scale.Cast(g.DY().Type)).Where(g.ForwardOutput(1, ElementType.Bool), g.DY().Scalar(0));
    }
}
