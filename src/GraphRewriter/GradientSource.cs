using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter;

/// <summary>Where the gradients of a training graph come from.</summary>
internal abstract class GradientSource
{
    /// <summary>Gets whether gradients are multiples of the seed: it may then be scaled.</summary>
    public virtual bool TakesSeed => true;

    /// <summary>Makes the forward part of the training graph.</summary>
    public virtual Graph Import(RewriteContext c) => GraphImporter.Import(c.Model, c.Path);

    /// <summary>Appends the gradients to the training graph; sets what they do not pass.</summary>
    /// <param name="c">The context, its parameters being inputs.</param>
    /// <param name="seed">The gradient of what is differentiated with respect to the loss's source.</param>
    /// <param name="wanted">The parameters' inputs.</param>
    /// <returns>The gradient of each wanted value, and perhaps of others.</returns>
    public abstract IReadOnlyDictionary<Value, Value> Append(RewriteContext c, Value seed, IReadOnlyList<Value> wanted);
}

/// <summary>Gradients by the rules in <c>Ops/</c>.</summary>
internal sealed class RuleGradients : GradientSource
{
    public override IReadOnlyDictionary<Value, Value> Append(RewriteContext c, Value seed, IReadOnlyList<Value> wanted)
    {
        var gradients = Backward.Differentiate(c.Training, c.Loss.Source, seed, wanted, c.Refused, out var obstacles);
        c.Obstacles = obstacles;
        return gradients;
    }
}
