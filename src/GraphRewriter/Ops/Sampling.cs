using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Sampling of images at computed points, and the points that affine maps give.</summary>
/// <remarks>
/// Along each axis a sample is a sum over neighbouring pixels whose weights are polynomials of its distance to the
/// first of them; pixels outside are 0, the nearest one or the mirrored one. So the image receives the output's
/// gradient times the weights, added up by pixel, and the grid receives it times the pixels and the weights' slopes.
/// </remarks>
internal static class Sampling
{
    /// <summary>The cubic kernel's free number, as ONNX Runtime and PyTorch have it.</summary>
    private const double A = -0.75;

    public static IEnumerable<OpRule> Rules { get; } =
    [new("GridSample", GridSample), new("AffineGrid", g => [AffineGrid(g)])];

    /// <summary>
    /// Gives the place of the first neighbour, counted from the pixel at or before the sample, and the coefficients
    /// (constant first) of each neighbour's weight.
    /// </summary>
    private static (int First, double[][] Weights) Kernel(string mode) =>
        mode switch
        {
            "nearest" => (
                0,
                [
                    [1],
                ]
            ),
            "linear" => (
                0,
                [
                    [1, -1],
                    [0, 1],
                ]
            ),
            _ => (
                -1,
                [
                    [0, A, -2 * A, A],
                    [1, 0, -(A + 3), A + 2],
                    [0, -A, (2 * A) + 3, -(A + 2)],
                    [0, 0, A, -A],
                ]
            ),
        };

    private static Term?[] GridSample(GradientContext g)
    {
        var (x, rank) = (g.X(), g.ShapeX().Rank - 2);
        var axes = Enumerable.Range(0, rank).Select(a => Neighbours(g, a)).ToArray();
        var pixels = x.Reshape(0, 0, -1);
        var dy = g.DY().Reshape(0, 0, -1);
        var (places, parts) = (new List<Value>(), new List<Value>());
        var slopes = new Term?[rank];
        foreach (var chosen in Combinations(axes))
        {
            var place = chosen
                .Select((n, a) => Enumerable.Range(a + 1, rank - a - 1).Aggregate(n.Index, (i, b) => i * Size(x, b)))
                .Aggregate((a, b) => a + b)
                .Unsqueeze(1);
            if (g.Needs(0))
            {
                places.Add(place);
                parts.Add(dy * Product(chosen.Select(n => n.Weight)).Unsqueeze(1));
            }

            if (g.Needs(1))
            {
                var received = (dy * pixels.Op("GatherElements", Along(place, dy), Int("axis", 2))).Sum([1], false);
                for (var a = 0; a < rank; a++)
                {
                    var part = received * Product(chosen.Select((n, i) => i == a ? n.Slope : n.Weight));
                    slopes[a] = slopes[a] is { } sum ? sum + part : part;
                }
            }
        }

        return [g.Needs(0) ? Image() : null, g.Needs(1) ? Grid() : null];

        Term Image()
        {
            var all = g.Op("Concat", [.. parts], Int("axis", 2));
            var at = Along(g.Op("Concat", [.. places], Int("axis", 2)), all);
            return pixels.Zeros().Op("ScatterElements", at, all, Int("axis", 2), Text("reduction", "add")).ReshapeTo(x);
        }

        // The grid's last axis names the image's last axis first.
        Term Grid() =>
            g.Op("Concat", [.. slopes.Reverse().Select(s => s!.Value.Unsqueeze(2).V)], Int("axis", 2))
                .ReshapeTo(g.X(1));

        Term Along(Term place, Term like) => place.Op("Expand", like.Op("Shape"));
    }

    /// <summary>Gives the neighbours of every sample along one spatial axis, as [batch, samples].</summary>
    private static Neighbour[] Neighbours(GradientContext g, int axis)
    {
        var (x, rank, align) = (g.X(), g.ShapeX().Rank - 2, g.Int("align_corners", 0) != 0);
        var size = Pooling.Count(x, axis + 2);
        var grid = g.X(1).Reshape(0, -1, rank).Op("Gather", g.B.Int64(rank - 1 - axis), Int("axis", 2));
        var scale = (align ? size - 1 : size) / 2;
        var at = ((grid + 1) * scale) - (align ? 0 : 0.5);
        var mode = g.Text("mode", "linear");
        var (first, weights) = Kernel(mode);
        var start = at.Op(mode == "nearest" ? "Round" : "Floor");
        var distance = at - start;
        return
        [
            .. weights.Select(
                (w, i) =>
                {
                    var (index, inside) = Padded(g, start.Cast(ElementType.Int64) + (i + first), Size(x, axis));
                    var slope = Polynomial(distance, [.. w.Skip(1).Select((c, power) => c * (power + 1))]) * scale;
                    var weight = Polynomial(distance, w);
                    return inside is { } kept
                        ? new Neighbour(index, weight * kept, slope * kept)
                        : new Neighbour(index, weight, slope);
                }
            ),
        ];
    }

    /// <summary>Moves places outside the image into it; gives 1 and 0 where those outside count as 0.</summary>
    private static (Term Index, Term? Inside) Padded(GradientContext g, Term index, Term size)
    {
        var (zero, last) = (index.Scalar(0), size - 1);
        var clamped = index.Op("Max", zero).Op("Min", last);
        switch (g.Text("padding_mode", "zeros"))
        {
            case "border":
                return (clamped, null);
            case "reflection" when g.Int("align_corners", 0) != 0:
                // Mirrored at the pixels at the edges, which are not repeated.
                var period = (last + last).Op("Max", index.Scalar(1));
                var there = index.Op("Mod", period);
                return (there.Op("Min", period - there).Op("Min", last), null);
            case "reflection":
                var twice = size + size;
                var place = index.Op("Mod", twice);
                return (place.Op("Min", twice - 1 - place), null);
            default:
                return (clamped, index.Op("Equal", clamped).AsNumber(g.X().Type));
        }
    }

    private static Term Size(Term x, int axis) => x.DimVector(axis + 2).Squeeze(0);

    private static Term Product(IEnumerable<Term> factors) => factors.Aggregate((a, b) => a * b);

    /// <summary>Gives a polynomial, coefficients from the constant on.</summary>
    private static Term Polynomial(Term t, double[] coefficients) =>
        coefficients.Length switch
        {
            0 => t * 0,
            1 => (t * 0) + coefficients[0],
            _ => coefficients[..^1].Reverse().Aggregate(t.Scalar(coefficients[^1]), (sum, c) => (sum * t) + c),
        };

    private static IEnumerable<Neighbour[]> Combinations(Neighbour[][] axes) =>
        axes.Aggregate(
            (IEnumerable<Neighbour[]>)
                [
                    [],
                ],
            (chosen, axis) => chosen.SelectMany(c => axis.Select(n => (Neighbour[])[.. c, n]))
        );

    /// <summary>
    /// A grid is linear in the map: it receives the gradient times the points that the map moves, which are what the
    /// operator makes of the map that moves nothing.
    /// </summary>
    private static Term AffineGrid(GradientContext g)
    {
        var (theta, rank) = (g.X(), (int)g.ShapeX()[1].Size);
        var unmoved = Enumerable.Range(0, rank * (rank + 1)).Select(i => i / (rank + 1) == i % (rank + 1) ? 1.0 : 0);
        var identity = g.B.Constant(
            theta.Type == ElementType.Double
                ? Ir.Tensor.From<double>([1, rank, rank + 1], [.. unmoved])
                : Ir.Tensor.From<float>([1, rank, rank + 1], [.. unmoved.Select(v => (float)v)])
        );
        var maps = g.Op("Expand", [identity, theta.ShapeVector()]);
        var points = maps.Op("AffineGrid", g.X(1), [.. g.Node.Attributes.All]).Reshape(0, -1, rank);
        var moved = g.DY().Reshape(0, -1, rank);
        var offset = moved.Sum([1]).Transpose(0, 2, 1);
        return g.Op("Concat", [moved.MatMul(points, transposeThis: true), offset], Int("axis", 2));
    }

    /// <summary>A pixel that samples read along one axis, its weight and the weight's slope along the grid.</summary>
    private readonly record struct Neighbour(Term Index, Term Weight, Term Slope);
}
