using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>A weight that several products take slices of, each with an input of its own.</summary>
/// <param name="Weight">The weight.</param>
/// <param name="Bias">What the products add, sliced alike; or null.</param>
/// <param name="Slices">The products, each with the units of the weight that are its own.</param>
internal sealed record SlicedLayer(
    Parameter Weight,
    Parameter? Bias,
    ImmutableArray<(DenseLayer Layer, ImmutableArray<bool> Units)> Slices
) : Layer(Weight, Bias, Slices[0].Layer.Node)
{
    public override string Kind => "dense";

    public override bool OutputFirst => Slices[0].Layer.OutputFirst;

    public override bool HasOneInput => false;

    public override ImmutableArray<ActivationMean> Means => [.. Slices.SelectMany(s => s.Layer.Means)];

    public override ImmutableArray<int> MeanOfUnit
    {
        get
        {
            var rows = Enumerable.Repeat(-1, (int)Out).ToArray();
            var first = 0;
            foreach (var (layer, units) in Slices)
            {
                foreach (var (unit, _) in units.Index().Where(u => u.Item))
                {
                    rows[unit] = first + layer.MeanOfUnit[unit];
                }

                first += layer.MeanCount;
            }

            return [.. rows];
        }
    }

    public override ImmutableArray<(Value Value, ImmutableArray<int> Units)> Outputs =>
        [
            .. Slices.Select(s =>
                (
                    s.Layer.Node.Outputs[0],
                    (ImmutableArray<int>)[.. s.Units.Index().Where(u => u.Item).Select(u => u.Index)]
                )
            ),
        ];

    public override Term Rows(Term input) =>
        throw new InvalidOperationException($"'{Weight.Name}' has no input rows that all of its units see.");
}
