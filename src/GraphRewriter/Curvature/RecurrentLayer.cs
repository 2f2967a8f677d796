using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>
/// The input or the recurrent weights of a recurrent operator, [.., out, in]. Its rows are the inputs, or the hidden
/// states before, of every time step that is part of a sequence.
/// </summary>
/// <param name="Weight">The weights: all of the operator's, or some.</param>
/// <param name="Node">The operator.</param>
/// <param name="IsRecurrent">Whether these are recurrent weights.</param>
/// <param name="DirectionOfUnit">The direction that each unit belongs to; -1 where its rows are not known.</param>
internal sealed record RecurrentLayer(
    Parameter Weight,
    Node Node,
    bool IsRecurrent,
    ImmutableArray<int> DirectionOfUnit
) : Layer(Weight, null, Node)
{
    public override string Kind => "recurrent";

    public override bool OutputFirst => true;

    public override long Out => Weight.Initial.ElementCount / Weight.Dims[^1];

    public override bool HasOneInput => false;

    public override ImmutableArray<ActivationMean> Means =>
        IsRecurrent ? [.. Directions.Select(Hidden)] : [ActivationMean.Of(InputMean)];

    public override ImmutableArray<int> MeanOfUnit =>
        [.. DirectionOfUnit.Select(d => d < 0 || !IsRecurrent ? Math.Min(d, 0) : Directions.IndexOf(d))];

    private int[] Directions => [.. DirectionOfUnit.Where(d => d >= 0).Distinct().Order()];

    private Value? Lengths => Node.Input(Recurrent.Lengths);

    private Statistic InputMean =>
        new(
            $"{Weight.Name}.mac_mean",
            Node,
            [1, In],
            $"{Input.Name}/{Lengths?.Name ?? "False"}",
            (b, _) =>
            {
                var x = new Term(b, Input);
                if (Lengths is null)
                {
                    return x.Mean([0, 1], keepDims: false).Reshape(1, In);
                }

                var lengths = Valid(b);
                var steps = b.Op("Range", [b.Int64(0), x.DimVector(0).Squeeze(0), b.Int64(1)]);
                var isValid = new Term(b, steps).Unsqueeze(1).Op("Less", lengths).AsNumber(x.Type);
                return (x * isValid.Unsqueeze(2)).Sum([0, 1], keepDims: false).Reshape(1, In)
                    / lengths.Sum([0], keepDims: false).Cast(x.Type);
            }
        );

    public override Term Rows(Term input) =>
        throw new InvalidOperationException($"'{Weight.Name}' has no input rows that all of its units see.");

    /// <summary>
    /// The states before the steps are those after them, less the last and with the first: (sum of Y - Y_h + h0) over
    /// the number of steps. Y is zero behind the end of a sequence.
    /// </summary>
    private ActivationMean Hidden(int direction) =>
        ActivationMean.Of(
            new(
                Directions.Length == 1 ? $"{Weight.Name}.mac_mean" : $"{Weight.Name}.mac_mean{direction}",
                Node,
                [1, In],
                null,
                (b, _) =>
                {
                    var y = Part(b, Node.Outputs[0], 1, direction);
                    var sum =
                        y.Sum([0, 1], keepDims: false)
                        - Part(b, Node.Outputs[1], 0, direction).Sum([0], keepDims: false);
                    sum = Node.Input(Recurrent.H) is { } first
                        ? sum + Part(b, first, 0, direction).Sum([0], keepDims: false)
                        : sum;
                    var count = Lengths is null
                        ? y.Op("Size").Cast(y.Type) / In
                        : Valid(b).Sum([0], keepDims: false).Cast(y.Type);
                    return (sum / count).Reshape(1, In);
                }
            )
        );

    private Term Valid(GraphBuilder b) => new Term(b, Lengths!).Cast(ElementType.Int64);

    /// <summary>Gives what a direction has of a value.</summary>
    private static Term Part(GraphBuilder b, Value value, int axis, int direction) =>
        new Term(b, value).Op("Gather", b.Int64(direction), Int("axis", axis));
}
