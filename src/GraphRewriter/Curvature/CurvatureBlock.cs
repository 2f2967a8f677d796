using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>The curvature of one layer: what it measures, what it keeps, and what it makes of a gradient.</summary>
/// <param name="Layer">The layer.</param>
internal abstract record CurvatureBlock(Layer Layer)
{
    /// <summary>Gets the method's name in reports.</summary>
    public abstract string Name { get; }

    /// <summary>Gets what reports say of the layer's weight.</summary>
    public virtual string Remark => Layer.Remark;

    /// <summary>Gets the statistics that the training graph computes for the block.</summary>
    public virtual IEnumerable<Statistic> Statistics => [];

    /// <summary>Gets the matrices that the host computes for the block.</summary>
    public virtual IEnumerable<HostRefresh> HostRefreshes => [];

    /// <summary>Adds the block's state to the buffers.</summary>
    public abstract void Declare(BufferTable buffers);

    /// <summary>
    /// Emits, into the curvature graph, the update of moving averages and of the cached preconditioner. The graph runs
    /// in steps that update statistics, refresh preconditioners or change a scalar that the graph reads.
    /// </summary>
    /// <param name="g">The curvature graph.</param>
    /// <param name="average">The moving average that all blocks share.</param>
    /// <param name="statistic">Gives the batch's statistics.</param>
    public virtual void Update(BoundGraph g, MovingAverage average, Func<Statistic, Term> statistic) { }

    /// <summary>Emits the preconditioned gradient into the optimizer graph.</summary>
    /// <param name="g">The optimizer graph.</param>
    /// <param name="weight">The weight's gradient, of the weight's shape.</param>
    /// <param name="bias">The bias's gradient, of the bias's shape; null where the layer has none.</param>
    public abstract (Term Weight, Term? Bias) Precondition(BoundGraph g, Term weight, Term? bias);

    /// <summary>
    /// Emits, into the diagnostics graph, what the preconditioner takes of a gradient along the direction that it
    /// dampens, and the cosine of the gradient's rows with that direction, [1] each; null where there is no one
    /// direction.
    /// </summary>
    /// <param name="g">The diagnostics graph.</param>
    /// <param name="weight">The weight's gradient, of the weight's shape.</param>
    /// <param name="bias">The bias's gradient, of the bias's shape; null where the layer has none.</param>
    public virtual (Term Shrinkage, Term Cosine)? Measure(BoundGraph g, Term weight, Term? bias) => null;

    /// <summary>
    /// Gives the preconditioner as a correction that an update can make in its own pass over the weight; null where it
    /// has no such form.
    /// </summary>
    public virtual Correction? Correction(BoundGraph g) => null;
}

/// <summary>A preconditioner of the form G' = G + C(G) with C cheap beside a pass over the weight.</summary>
/// <param name="OpPrefix">What the name of a fused update operator starts with.</param>
/// <param name="Inputs">What C needs beside G.</param>
/// <param name="Attributes">What a kernel must know.</param>
/// <param name="Add">
/// Adds C to a sum that holds the weight's gradient once; also gives what to add to one that holds the bias's.
/// </param>
internal sealed record Correction(
    string OpPrefix,
    Value[] Inputs,
    Attr[] Attributes,
    Func<GraphBuilder, Value, Value, Value?, (Value Sum, Value? Bias)> Add
);
