using System.Collections.Immutable;
using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Loss;
using MacOnnx.GraphRewriter.Optimizer;

namespace MacOnnx.GraphRewriter;

/// <summary>What passes read and set; each property is set by one pass.</summary>
/// <param name="model">The model, normalized by <see cref="ModelReader.Normalize"/>.</param>
/// <param name="options">The options.</param>
/// <param name="path">The model file: messages name it, and external data are beside it.</param>
/// <param name="source">Where gradients come from; null for the rules in <c>Ops/</c>.</param>
/// <param name="declared">What other files say about initializers, by name; null for nothing.</param>
internal sealed class RewriteContext(
    ModelProto model,
    RewriteOptions options,
    string path,
    GradientSource? source = null,
    IReadOnlyDictionary<string, DeclaredKind>? declared = null
)
{
    private readonly Regex? _trainable = ParameterFinder.Pattern(options.Trainable, "RewriteOptions.Trainable");

    public ModelProto Model { get; } = model;

    public RewriteOptions Options { get; } = options;

    public string Path { get; } = path;

    public GradientSource Source { get; } = source ?? new RuleGradients();

    /// <summary>Gets or sets the model that is evaluated, its loss the first output, where it is not the one that
    /// trains.</summary>
    public ModelProto? EvaluationModel { get; set; }

    /// <summary>Gets or sets the optimizer that was read from a file; null for those of the options.</summary>
    public KeptOptimizer? Kept { get; set; }

    /// <summary>Gets what the file says about its constants.</summary>
    public InitializerFacts Facts { get; } = InitializerFacts.Of(model, declared);

    /// <summary>Gets or sets the constants of the model, without those of the loss.</summary>
    public IReadOnlySet<Value> Constants { get; set; } = null!;

    /// <summary>Gets the buffers of the package.</summary>
    public BufferTable Buffers { get; } = new();

    /// <summary>Gets or sets the graph of forward pass, loss, backward pass and statistics.</summary>
    public Graph Training { get; set; } = null!;

    /// <summary>Gets or sets the training graph's input for the dropout seed; null without dropout.</summary>
    public Value? DropoutSeed { get; set; }

    /// <summary>Gets or sets what training-mode batch normalizations give of each batch.</summary>
    public IReadOnlyList<BatchStatistic> BatchStatistics { get; set; } = [];

    public LossTerms Loss { get; set; } = null!;

    public Plan Plan { get; set; } = null!;

    /// <summary>Gets the nodes that should have been replaced, and why they were not.</summary>
    public Dictionary<Node, UnsupportedUseException> Refused { get; } = [];

    /// <summary>Gets or sets the nodes between parameters and loss that gradients do not pass.</summary>
    public IReadOnlyList<Obstacle> Obstacles { get; set; } = [];

    /// <summary>Gets or sets in what the gradients of a file do not fit the layers that were found.</summary>
    public IReadOnlyList<string> Differences { get; set; } = [];

    /// <summary>Gets or sets the training graph and its buffers.</summary>
    public BoundGraph BoundTraining { get; set; } = null!;

    /// <summary>Gets or sets the training graph's input of each parameter that is kept.</summary>
    public IReadOnlyDictionary<Parameter, Value> ParameterInputs { get; set; } = null!;

    /// <summary>Gets or sets what the loss is multiplied with before differentiation; null for nothing.</summary>
    public Value? LossScale { get; set; }

    /// <summary>Gets or sets the gradient of each trained parameter, and of other values.</summary>
    public IReadOnlyDictionary<Value, Value> Gradients { get; set; } = null!;

    /// <summary>Gets or sets the buffer of each statistic by its name.</summary>
    public IReadOnlyDictionary<string, string> Statistics { get; set; } = null!;

    /// <summary>Gets or sets the buffer of each trained parameter's gradient.</summary>
    public IReadOnlyDictionary<Parameter, string> GradientBuffers { get; set; } = null!;

    public IReadOnlyList<RunningStatistic> RunningStatistics { get; set; } = [];

    public BoundGraph Curvature { get; set; } = null!;

    public BoundGraph Update { get; set; } = null!;

    /// <summary>Gets or sets the moving average of the weights; null for none.</summary>
    public WeightAverage? Average { get; set; }

    /// <summary>Gets or sets the graph of diagnostics, and the buffer of each layer's; null for none.</summary>
    public (BoundGraph Graph, ImmutableSortedDictionary<string, string> Numbers)? Diagnostics { get; set; }

    public BoundGraph Accumulation { get; set; } = null!;

    public BoundGraph Evaluation { get; set; } = null!;

    /// <summary>Gets or sets the graph of the first layer's second moment; null for none.</summary>
    public BoundGraph? SecondMoment { get; set; }

    /// <summary>Gets the graphs that are bound to buffers.</summary>
    public IEnumerable<BoundGraph> BoundGraphs =>
        new[]
        {
            BoundTraining,
            Update,
            Curvature,
            Accumulation,
            Diagnostics?.Graph,
            Evaluation,
            SecondMoment,
        }.OfType<BoundGraph>();

    /// <summary>Gets the optimizer's state by the names of its buffers, where training does not start anew.</summary>
    public Dictionary<string, Tensor> InitialState { get; } = new(StringComparer.Ordinal);

    /// <summary>Gets the updates that were applied before.</summary>
    public long InitialUpdates { get; private set; }

    /// <summary>Takes the state of the optimizer that is kept, where all of it is there.</summary>
    public void Resume(OrtOptimizerGroup group)
    {
        foreach (var parameter in Plan.Trained)
        {
            foreach (var (index, suffix) in Kept!.Rule.States.Index())
            {
                if (
                    group.Momentums.GetValueOrDefault(parameter.Name)?.GetValueOrDefault($"momentum{index}")
                        is { } tensor
                    && tensor.Dims.SequenceEqual(parameter.Dims)
                )
                {
                    InitialState[$"{parameter.Name}.{suffix}"] = tensor;
                }
            }
        }

        InitialUpdates = group.Step;
        if (Buffers.All.Any(b => b.Role == BufferRole.State && !InitialState.ContainsKey(b.Name)))
        {
            InitialState.Clear();
            InitialUpdates = 0;
        }
    }

    /// <summary>Whether a constant may train, so that nothing may be computed from its first values.</summary>
    public bool MayTrain(Value constant) =>
        Facts[constant.Name] is { } fact
        && (fact.MayTrain(constant.KnownShape.Rank) || _trainable?.IsMatch(constant.Name) == true);

    /// <summary>Gives the name of the parameter that an input of the training graph is.</summary>
    public Dictionary<Value, string> TrainedNames() => Plan.Trained.ToDictionary(p => ParameterInputs[p], p => p.Name);

    /// <summary>Gets the names of the model's own outputs.</summary>
    public IEnumerable<string> OutputNames => Model.Graph.Output.Select(o => o.Name);
}
