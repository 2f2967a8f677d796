using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Operators that pick elements: what flows back is added up where each element came from.</summary>
/// <remarks>
/// Adding goes through ScatterElements, which is exact where an element was picked several times; ScatterND with
/// reduction "add" is not on ONNX Runtime's CPU provider, and is used only where every element is picked once.
/// </remarks>
internal static class Indexing
{
    public static IEnumerable<OpRule> Rules { get; } =
    [
        new("Slice", g => [Slice(g)], Flow: Flow.Elements),
        new("Gather", g => [Gather(g)], Flow: Flow.Elements),
        new(
            "GatherElements",
            g => [Scatter(g.X().Zeros(), g.X(1), g.DY(), g.Axis("axis", 0), add: true)],
            Flow: Flow.Elements
        ),
        new(
            "GatherND",
            g => [Undo(g, index => index.Op("GatherND", g.X(1), Int("batch_dims", g.Int("batch_dims", 0))))],
            Flow: Flow.Elements
        ),
        new("Compress", g => [Undo(g, index => index.Op("Compress", g.X(1), [.. g.Node.Attributes.All]), once: true)]),
        new(
            "ScatterElements",
            g =>
                Scatter(
                    g,
                    updates => Scatter(g.DY(), g.X(1), updates.Zeros(), g.Axis("axis", 0), add: false),
                    () => g.DY().Op("GatherElements", g.X(1), Int("axis", g.Axis("axis", 0)))
                )
        ),
        new(
            "ScatterND",
            g =>
                Scatter(
                    g,
                    updates => g.DY().Op("ScatterND", g.X(1), updates.Zeros()),
                    () => g.DY().Op("GatherND", g.X(1))
                )
        ),
        new(
            "ReverseSequence",
            g => [g.DY().Op("ReverseSequence", g.X(1), [.. g.Node.Attributes.All])],
            Flow: Flow.Elements
        ),
        new(
            "TopK",
            g => [Scatter(g.X().Zeros(), g.ForwardOutput(1, ElementType.Int64), g.DY(), g.Axis("axis", -1), add: false)]
        ),
    ];

    /// <summary>
    /// Undoes any operator that only picks elements: applies it to the elements' numbers, and adds up by number.
    /// </summary>
    /// <param name="g">The node; element picking is from its first input.</param>
    /// <param name="pick">Applies the operator to a tensor of the input's shape.</param>
    /// <param name="once">Whether no element is picked twice.</param>
    public static Term Undo(GradientContext g, Func<Term, Term> pick, bool once = false)
    {
        var x = g.X();
        var (zero, one) = (g.Of(g.B.Int64(0)), g.Of(g.B.Int64(1)));
        var count = x.V.KnownShape.IsStatic ? g.Of(g.B.Int64(x.V.KnownShape.Count)) : x.Op("Size");
        var numbers = pick(zero.Op("Range", count, one).ReshapeTo(x)).Reshape(-1);
        var zeros = x.Zeros().Reshape(-1);
        var flat = g.DY().Reshape(-1);
        return (
            once ? zeros.Op("ScatterND", numbers.Unsqueeze(1), flat) : Scatter(zeros, numbers, flat, 0, add: true)
        ).ReshapeTo(x);
    }

    private static Term Scatter(Term data, Term indices, Term updates, int axis, bool add) =>
        data.Op("ScatterElements", indices, updates, Int("axis", axis), Text("reduction", add ? "add" : "none"));

    /// <summary>The data receive what was not overwritten; the updates receive what they were written to.</summary>
    private static Term?[] Scatter(GradientContext g, Func<Term, Term> cleared, Func<Term> picked) =>
        g.Text("reduction", "none") switch
        {
            "add" => [g.DY(), null, picked()],
            "none" => [cleared(g.X(2)), null, picked()],
            var other => throw g.Unsupported($"reduction is '{other}'", "Only 'none' and 'add' are differentiated."),
        };

    private static Term Slice(GradientContext g)
    {
        // A contiguous slice is undone by padding, where the amounts are known now.
        var (x, y) = (g.ShapeX(), g.ShapeY());
        var steps = g.Has(4) ? g.ConstantInts(4) : [1];
        if (
            g.ConstantInts(1) is { } starts
            && (!g.Has(3) || g.ConstantInts(3) is not null)
            && steps?.All(s => s == 1) == true
        )
        {
            var axes = (g.ConstantInts(3) ?? [.. Enumerable.Range(0, starts.Length).Select(a => (long)a)])
                .Select(a => x.Axis(a))
                .ToArray();
            if (axes.All(a => x[a].IsStatic && y[a].IsStatic))
            {
                var before = axes.Zip(starts, (a, s) => Math.Clamp(s < 0 ? s + x[a].Size : s, 0, x[a].Size)).ToArray();
                var after = axes.Zip(before, (a, b) => x[a].Size - y[a].Size - b);
                return PadZeros(g, g.DY(), [.. before, .. after], axes);
            }
        }

        return Undo(g, index => g.Op("Slice", [index, .. g.Node.Inputs.Skip(1)]), once: true);
    }

    /// <summary>
    /// Pads axes, or crops them where an amount is negative: first the amounts in front, then those behind.
    /// </summary>
    public static Term PadZeros(GradientContext g, Term term, long[] amounts, int[] axes)
    {
        // All axes are named: ONNX Runtime's transpose optimizer does not understand a Pad of some.
        var all = new long[2 * g.ShapeX().Rank];
        for (var i = 0; i < axes.Length; i++)
        {
            (all[axes[i]], all[axes[i] + g.ShapeX().Rank]) = (amounts[i], amounts[i + axes.Length]);
        }

        return all.All(a => a == 0) ? term : term.Op("Pad", g.Ints64(all));
    }

    private static Term Gather(GradientContext g)
    {
        var axis = g.Axis("axis", 0);
        var (x, shape, rank) = (g.X(), g.ShapeX(), g.ShapeX().Rank);
        if (g.ConstantInts(1) is [var only] && g.X(1).V.Rank <= 1 && shape[axis].IsStatic)
        {
            // One constant index is a slice.
            var (at, size) = (only < 0 ? only + shape[axis].Size : only, shape[axis].Size);
            return PadZeros(g, g.X(1).V.Rank == 0 ? g.DY().Unsqueeze(axis) : g.DY(), [at, size - at - 1], [axis]);
        }

        // The rows picked, as one axis; each element of a row goes to the row's index.
        var picked = g.Join(Enumerable.Range(0, rank).Select(a => a == axis ? g.Ints64(-1) : x.DimVector(a)));
        var rows = g.X(1).V.Rank == 1 ? g.DY() : g.DY().Op("Reshape", picked);
        var column = g.X(1).Reshape([.. Enumerable.Range(0, rank).Select(a => a == axis ? -1L : 1)]);
        var indices = rank == 1 ? column : column.Op("Expand", rows.Op("Shape"));
        return Scatter(x.Zeros(), indices, rows, axis, add: true);
    }
}
