using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Bindings;

/// <summary>What a buffer of a package is for.</summary>
public enum BufferRole
{
    /// <summary>A parameter of the model, trained or frozen. Checkpoints hold it.</summary>
    Parameter,

    /// <summary>A running statistic of a batch normalization. Checkpoints hold it.</summary>
    RunningStatistic,

    /// <summary>State of the optimizer, zeros at first. Checkpoints hold it.</summary>
    State,

    /// <summary>The gradient of a parameter: a mean over what the loss averages.</summary>
    Gradient,

    /// <summary>A statistic of a batch: a mean over samples.</summary>
    Statistic,

    /// <summary>The gradient or statistic of one batch of several: allocated in runs that accumulate.</summary>
    Batch,

    /// <summary>A number that <see cref="BufferInfo.Formula"/> gives before a graph runs.</summary>
    Scalar,

    /// <summary>Whether a train step computes statistics.</summary>
    UpdateStatistics,

    /// <summary>What dropout masks are a function of.</summary>
    DropoutSeed,

    /// <summary>What the loss is multiplied with before differentiation, for float16 weights.</summary>
    LossScale,

    /// <summary>The loss of a train step.</summary>
    Loss,

    /// <summary>
    /// The number of elements, or the sum of weights, that the loss of a train step is the mean over.
    /// </summary>
    LossCount,

    /// <summary>The global l2 norm of the gradients.</summary>
    GradientNorm,

    /// <summary>The loss of an evaluation step.</summary>
    EvaluationLoss,

    /// <summary>What the loss of an evaluation step is the mean over.</summary>
    EvaluationCount,

    /// <summary>The right answers of an evaluation step.</summary>
    Correct,

    /// <summary>The labels of an evaluation step that are not ignored.</summary>
    Labeled,

    /// <summary>What the preconditioner of a layer does: the numbers of the diagnostics graph.</summary>
    Diagnostics,

    /// <summary>A matrix that the host computes, see <see cref="HostRefresh"/>.</summary>
    HostResult,
}

/// <summary>Where a buffer lives.</summary>
public enum BufferPlace
{
    /// <summary>Where the graphs run.</summary>
    Device,

    /// <summary>In the host's memory: the runtime reads or writes it in every step.</summary>
    Host,
}

/// <summary>A tensor that the runtime keeps and binds graphs to.</summary>
/// <param name="Name">The name, unique in the package. State has this name in checkpoints.</param>
/// <param name="Role">What it is for.</param>
/// <param name="Type">The element type.</param>
/// <param name="Dims">The dimensions.</param>
/// <param name="Place">Where it lives.</param>
/// <param name="Formula">For a scalar how to compute it, as <see cref="Formula"/> reads it; null for all else.</param>
public sealed record BufferInfo(
    string Name,
    BufferRole Role,
    ElementType Type,
    ImmutableArray<long> Dims,
    BufferPlace Place,
    string? Formula = null
)
{
    /// <summary>Gets whether checkpoints hold it.</summary>
    public bool IsState => Role is BufferRole.Parameter or BufferRole.RunningStatistic or BufferRole.State;

    /// <summary>Whether a tensor has its type and shape.</summary>
    internal bool Fits(Tensor tensor) => tensor.Type == Type && tensor.Dims.SequenceEqual(Dims);

    /// <summary>Gets the bytes it takes.</summary>
    public long Bytes => Tensor.CountOf(Dims.AsSpan()) * Type.Size();
}

/// <summary>Whether a graph reads or writes a buffer.</summary>
public enum BindingDirection
{
    /// <summary>The graph's input is bound to the buffer.</summary>
    In,

    /// <summary>The graph's output is bound to the buffer.</summary>
    Out,
}

/// <summary>An input or output of a graph and the buffer that it is bound to.</summary>
/// <param name="Graph">The graph's file in the package.</param>
/// <param name="Value">The graph's input or output.</param>
/// <param name="Buffer">The buffer.</param>
/// <param name="Direction">Whether the graph reads or writes it.</param>
public sealed record Binding(string Graph, string Value, string Buffer, BindingDirection Direction);

/// <summary>A matrix that the host computes from another one: result = (source + damping I)^-1.</summary>
/// <param name="Source">The buffer of the symmetric, positive semidefinite matrix, [n, n].</param>
/// <param name="Result">The buffer of the inverse, [n, n].</param>
/// <param name="Damping">The buffer of the damping, one number of more than 0.</param>
/// <param name="Pass">
/// What computes the source once, before the first step; null where the curvature graph updates it.
/// </param>
public sealed record HostRefresh(string Source, string Result, string Damping, DataPass? Pass);

/// <summary>
/// The moving average of the weights (EMA): of each parameter the average's buffer over the weight's.
/// </summary>
/// <param name="Weight">The buffer of the weight that all averages carry; 0 before the first step.</param>
/// <param name="Averages">For each trained parameter the buffer of its average.</param>
public sealed record WeightAverage(string Weight, ImmutableSortedDictionary<string, string> Averages);

/// <summary>A pass over the training data that computes the mean of a tensor.</summary>
/// <param name="Graph">The graph that computes the tensor from a batch's inputs.</param>
/// <param name="Samples">
/// The buffer of the number of samples that the mean is over, which checkpoints hold: 0 where it is not computed yet.
/// </param>
public sealed record DataPass(string Graph, string Samples);
