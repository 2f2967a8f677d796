using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// How a parameter follows from its gradient: the state, the scalars and the formula of an optimizer.
/// </summary>
/// <param name="isDecoupled">Whether weight decay shrinks the parameter itself instead of entering the
/// gradient.</param>
internal abstract class UpdateRule(bool isDecoupled)
{
    /// <summary>Gets the operator that computes an update.</summary>
    public abstract string OpType { get; }

    /// <summary>Gets, for each tensor of state, what its name adds to the parameter's.</summary>
    public abstract string[] States { get; }

    /// <summary>Gets the scalars, each with the formula that gives it, in the operator's order.</summary>
    public abstract (string Name, string Formula)[] Scalars { get; }

    /// <summary>Gets whether all parameters decay where no pattern says otherwise, biases too.</summary>
    public virtual bool DecaysAll => false;

    /// <summary>Gets what a kernel must know beside the inputs.</summary>
    public virtual Attr[] Attributes => [Int("decoupled", isDecoupled)];

    /// <summary>Makes the rules that the options ask for: of the matrices of hidden layers, and of all else.</summary>
    public static (UpdateRule Hidden, UpdateRule Other) Of(RewriteOptions options)
    {
        var (_, update) = options.Methods;
        var mode =
            options.WeightDecayMode
            ?? (update == UpdateKind.Momentum ? WeightDecayMode.Coupled : WeightDecayMode.Decoupled);
        var isDecoupled = mode == WeightDecayMode.Decoupled;
        UpdateRule other = update switch
        {
            UpdateKind.Momentum => new MomentumRule(isDecoupled, options.Nesterov),
            UpdateKind.AdamW or UpdateKind.Muon => new AdamWRule(isDecoupled),
            _ => throw new InvalidOperationException($"No rule for {update}."),
        };
        return (update == UpdateKind.Muon ? new MuonRule(isDecoupled) : other, other);
    }

    /// <summary>Emits the new parameter, then the new state.</summary>
    /// <param name="step">The parameter, its state, gradient and the scalars.</param>
    /// <param name="precondition">
    /// Makes of a sum that holds the gradient once one that holds the preconditioned gradient.
    /// </param>
    public abstract Value[] Emit(UpdateStep step, Func<Term, Term> precondition);

    /// <summary>
    /// Gives Adam's moving averages: m' = b1 m + (1 - b1) g and v' = b2 v + (1 - b2) g^2, where the state is m and v.
    /// </summary>
    protected static (Term First, Term Second) Averages(UpdateStep step, Term gradient)
    {
        var (beta1, beta2) = (step.Scalar("beta1"), step.Scalar("beta2"));
        var first = (beta1 * step.States[0]) + ((1 - beta1) * gradient);
        return (first, (beta2 * step.States[1]) + ((1 - beta2) * (gradient * gradient)));
    }

    /// <summary>Gives the gradient with coupled weight decay, and the parameter less decoupled weight decay.</summary>
    protected (Term Gradient, Term Theta) Decayed(UpdateStep step)
    {
        if (!step.Decays)
        {
            return (step.Gradient, step.Theta);
        }

        var decay = step.Scalar("weight_decay");
        return isDecoupled
            ? (step.Gradient, step.Theta * (1 - (step.Scalar("learning_rate") * decay)))
            : (step.Gradient + (decay * step.Theta), step.Theta);
    }
}

/// <summary>What an update is computed from.</summary>
/// <param name="Theta">The parameter.</param>
/// <param name="States">Its state, in the order of <see cref="UpdateRule.States"/>.</param>
/// <param name="Gradient">Its gradient.</param>
/// <param name="Decays">Whether weight decay applies to it.</param>
/// <param name="Scalar">Gives a scalar of <see cref="UpdateRule.Scalars"/> by name.</param>
internal sealed record UpdateStep(Term Theta, Term[] States, Term Gradient, bool Decays, Func<string, Term> Scalar);
