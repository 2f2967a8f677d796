using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// ONNX Runtime's LambOptimizer (arXiv 1904.00962): m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g^2, direction
/// r = d theta + (m' / c1) / (sqrt(v' / c2) + epsilon), theta' = theta - lr q r with the ratio q = |theta| / |r|, kept
/// between two bounds, and 1 where either norm is zero.
/// </summary>
/// <remarks>Every parameter decays. Norms are those of one parameter's tensor.</remarks>
/// <param name="correction">The correction of the averages for their start at zero.</param>
/// <param name="least">The least ratio.</param>
/// <param name="largest">The largest ratio.</param>
internal sealed class LambRule(BiasCorrection correction, double least, double largest) : UpdateRule(isDecoupled: true)
{
    public override string OpType => "LambUpdate";

    public override string[] States => ["exp_avg", "exp_avg_sq"];

    public override bool DecaysAll => true;

    /// <inheritdoc/>
    /// <remarks>Formulas differ, so that the operator's inputs do.</remarks>
    public override (string Name, string Formula)[] Scalars =>
        [
            ("learning_rate", "learning_rate"),
            ("weight_decay", "weight_decay"),
            ("beta1", "beta1"),
            ("beta2", "beta2"),
            ("first_moment_scale", $"1 / {correction.Of("beta1")}"),
            ("second_moment_scale", $"{correction.Of("beta2")} ^ -1"),
            ("epsilon", "epsilon"),
        ];

    public override Value[] Emit(UpdateStep step, Func<Term, Term> precondition)
    {
        var (first, second) = Averages(step, precondition(step.Gradient));
        var deviation = (second * step.Scalar("second_moment_scale")).Sqrt() + step.Scalar("epsilon");
        var direction = first * step.Scalar("first_moment_scale") / deviation;
        direction = step.Decays ? (step.Scalar("weight_decay") * step.Theta) + direction : direction;
        return [step.Theta - (step.Scalar("learning_rate") * Ratio(step.Theta, direction) * direction), first, second];
    }

    private Term Ratio(Term theta, Term direction)
    {
        var (weight, change) = (SquaredNorm(theta), SquaredNorm(direction));
        var ratio = (weight / change).Sqrt();
        ratio = double.IsPositiveInfinity(largest) ? ratio : ratio.Op("Min", ratio.Scalar(largest));
        ratio = double.IsNegativeInfinity(least) ? ratio : ratio.Op("Max", ratio.Scalar(least));
        var zero = weight.Scalar(0);
        var isZero = weight.Op("Equal", zero).Op("Or", change.Op("Equal", zero));
        return weight.Scalar(1).Where(isZero, ratio);
    }

    private static Term SquaredNorm(Term x) => x.Op("ReduceSumSquare", Attr.Int("keepdims", 0));
}
