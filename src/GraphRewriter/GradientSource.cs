using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter;

/// <summary>Where the gradients of a training graph come from.</summary>
internal abstract class GradientSource
{
    /// <summary>Makes the forward part of the training graph.</summary>
    public virtual Graph Import(RewriteContext c) => GraphImporter.Import(c.Model, c.Path);

    /// <summary>Gives the nodes between parameters and loss that gradients cannot pass.</summary>
    public abstract IReadOnlyList<Node> Obstacles(RewriteContext c);

    /// <summary>Appends the gradients to the training graph.</summary>
    /// <param name="c">The context, its parameters being inputs.</param>
    /// <param name="seed">The gradient of what is differentiated with respect to the loss's source.</param>
    /// <param name="wanted">The parameters' inputs.</param>
    /// <returns>The gradient of each wanted value, and perhaps of others.</returns>
    public abstract IReadOnlyDictionary<Value, Value> Append(RewriteContext c, Value seed, IReadOnlyList<Value> wanted);
}

/// <summary>Gradients by the rules in <c>Ops/</c>.</summary>
internal sealed class RuleGradients : GradientSource
{
    public override IReadOnlyList<Node> Obstacles(RewriteContext c) =>
        Backward.WithoutRule(c.Training, c.Loss.Source, c.Plan.Trained.Select(p => p.Value));

    public override IReadOnlyDictionary<Value, Value> Append(
        RewriteContext c,
        Value seed,
        IReadOnlyList<Value> wanted
    ) => Backward.Differentiate(c.Training, c.Loss.Source, seed, wanted, c.Path);
}
