using System.Text.Json.Serialization;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter;

/// <summary>What is minimized.</summary>
public enum LossKind
{
    /// <summary>
    /// Softmax cross entropy of logits and integer class indices, mean over the samples that are not ignored.
    /// </summary>
    CrossEntropy,

    /// <summary>Mean of squared differences.</summary>
    Mse,

    /// <summary>Mean of absolute differences.</summary>
    L1,

    /// <summary>Mean of Huber's loss with threshold 1.</summary>
    Huber,

    /// <summary>Mean binary cross entropy of logits and targets from 0 to 1.</summary>
    BceWithLogits,

    /// <summary>The model's output is the loss.</summary>
    Output,
}

/// <summary>The usual pairs of <see cref="CurvatureKind"/> and <see cref="UpdateKind"/>.</summary>
public enum OptimizerKind
{
    /// <summary>MAC and momentum.</summary>
    Mac,

    /// <summary>SGD with momentum.</summary>
    Sgd,

    /// <summary>Adam with decoupled weight decay.</summary>
    AdamW,

    /// <summary>MAC and AdamW.</summary>
    MacAdamW,

    /// <summary>K-FAC and momentum.</summary>
    Kfac,

    /// <summary>FOOF and momentum.</summary>
    Foof,

    /// <summary>Eva and momentum.</summary>
    Eva,

    /// <summary>SMAC and momentum.</summary>
    Smac,

    /// <summary>Muon without a preconditioner.</summary>
    Muon,

    /// <summary>
    /// The optimizer of the training artifacts that are rewritten, with its numbers and with gradients of several
    /// batches summed; only for <see cref="Artifacts.TrainingArtifacts"/>.
    /// </summary>
    Keep,
}

/// <summary>What preconditions the gradients of layers.</summary>
public enum CurvatureKind
{
    /// <summary>Nothing.</summary>
    None,

    /// <summary>The mean input row of each layer: MAC (arXiv 2506.08464).</summary>
    Mac,

    /// <summary>The second moments of input rows and of gradients: K-FAC (arXiv 1503.05671).</summary>
    Kfac,

    /// <summary>The second moment of input rows: FOOF (arXiv 2201.12250).</summary>
    Foof,

    /// <summary>The means of input rows and of gradients: Eva (arXiv 2308.02123).</summary>
    Eva,

    /// <summary>MAC, and the mean square of each unit's gradient: SMAC (arXiv 2506.08464).</summary>
    Smac,
}

/// <summary>What updates parameters by their (preconditioned) gradients.</summary>
public enum UpdateKind
{
    /// <summary>SGD with momentum.</summary>
    Momentum,

    /// <summary>Adam with decoupled weight decay (arXiv 1711.05101).</summary>
    AdamW,

    /// <summary>
    /// Momentum made orthogonal for the matrices of hidden layers, AdamW for all else (arXiv 2502.16982).
    /// </summary>
    Muon,
}

/// <summary>How weight decay enters the update.</summary>
public enum WeightDecayMode
{
    /// <summary>Added to the (preconditioned) gradient, so that it passes through the momentum.</summary>
    Coupled,

    /// <summary>Applied to the weights directly: theta *= 1 - learning rate * decay.</summary>
    Decoupled,
}

/// <summary>What the first layer's curvature is.</summary>
public enum FirstLayerMode
{
    /// <summary>The rank-one matrix of the activation mean, like every other layer.</summary>
    Mean,

    /// <summary>
    /// The exact second moment of the layer's input over the training set, inverted once before training.
    /// </summary>
    Full,
}

/// <summary>The statistic of a depthwise convolution.</summary>
public enum DepthwiseMode
{
    /// <summary>One mean patch for each channel.</summary>
    PerGroup,

    /// <summary>One mean patch, averaged over channels.</summary>
    Pooled,
}

/// <summary>The statistic of an attention layer's value projection.</summary>
public enum ValueStatistic
{
    /// <summary>Mean attention of each token times its activation mean.</summary>
    Product,

    /// <summary>Mean over samples of the attention-weighted input.</summary>
    Joint,

    /// <summary>The plain mean, as for every other dense layer.</summary>
    None,
}

/// <summary>Which mode batch normalizations run in while training.</summary>
public enum BatchNormMode
{
    /// <summary>As the model says: in inference mode the statistics stay fixed.</summary>
    AsExported,

    /// <summary>All use the batch's statistics and update the running ones.</summary>
    Train,

    /// <summary>All use the running statistics, which stay fixed.</summary>
    Frozen,
}

/// <summary>Parameters with hyper-parameters of their own.</summary>
/// <param name="Pattern">The regular expression of their names.</param>
/// <param name="Formulas">
/// For hyper-parameters of the update, in snake case, the formula that stands for each:
/// <c>learning_rate: 0.1 * learning_rate</c>, <c>weight_decay: 0</c>.
/// </param>
public sealed record ParameterGroup(string Pattern, IReadOnlyDictionary<string, string> Formulas);

/// <summary>How a model is rewritten. The defaults are those of the command line.</summary>
public sealed record RewriteOptions
{
    /// <summary>Gets the loss.</summary>
    public LossKind Loss { get; init; } = LossKind.CrossEntropy;

    /// <summary>Gets the model output that feeds the loss; null for the first.</summary>
    public string? LossInput { get; init; }

    /// <summary>
    /// Gets the class axis of the logits; null for the last axis (axis 1 where the logits have four or more axes), or
    /// the other of the two where that one has no fixed size.
    /// </summary>
    public int? ClassAxis { get; init; }

    /// <summary>Gets the label of samples that do not count.</summary>
    public long IgnoreIndex { get; init; } = -100;

    /// <summary>Gets the share of the target spread evenly over all classes, 0 or more and less than 1.</summary>
    public float LabelSmoothing { get; init; }

    /// <summary>Gets one weight for each class, or null for equal weights.</summary>
    public IReadOnlyList<float>? ClassWeights { get; init; }

    /// <summary>Gets the name of the target's graph input.</summary>
    public string TargetName { get; init; } = "labels";

    /// <summary>Gets the optimizer: a pair of what preconditions and what updates.</summary>
    public OptimizerKind Optimizer { get; init; } = OptimizerKind.Mac;

    /// <summary>Gets what preconditions the gradients; null for what the optimizer's name says.</summary>
    public CurvatureKind? Curvature { get; init; }

    /// <summary>Gets what updates the parameters; null for what the optimizer's name says.</summary>
    public UpdateKind? Update { get; init; }

    /// <summary>Gets whether momentum is Nesterov's.</summary>
    public bool Nesterov { get; init; }

    /// <summary>Gets how weight decay enters the update; null for decoupled (coupled for momentum).</summary>
    public WeightDecayMode? WeightDecayMode { get; init; }

    /// <summary>
    /// Gets the regular expression of the parameters that do not decay; null for biases and other parameters of fewer
    /// than two axes.
    /// </summary>
    public string? NoDecay { get; init; }

    /// <summary>Gets the groups of parameters with hyper-parameters of their own.</summary>
    public IReadOnlyList<ParameterGroup> Groups { get; init; } = [];

    /// <summary>
    /// Gets the factor, more than 0 and at most 1, on a parameter's learning rate for each trained matrix or kernel
    /// between it and the loss.
    /// </summary>
    public float LayerDecay { get; init; } = 1;

    /// <summary>Gets whether the preconditioner keeps the factor 1/damping of the exact inverse.</summary>
    public bool InverseScaled { get; init; }

    /// <summary>Gets the first layer's curvature.</summary>
    public FirstLayerMode FirstLayer { get; init; } = FirstLayerMode.Mean;

    /// <summary>Gets the statistic of depthwise convolutions.</summary>
    public DepthwiseMode Depthwise { get; init; } = DepthwiseMode.PerGroup;

    /// <summary>Gets the statistic of attention's value projections.</summary>
    public ValueStatistic ValueStatistic { get; init; } = ValueStatistic.Product;

    /// <summary>Gets the regular expression of what trains; null for every weight the loss depends on.</summary>
    public string? Trainable { get; init; }

    /// <summary>Gets the regular expression of what does not train; null for none.</summary>
    public string? Frozen { get; init; }

    /// <summary>
    /// Gets whether weights that are stored as integers become float weights, and operators on integers float ones
    /// between quantizations. The exported model then has float weights too.
    /// </summary>
    public bool Dequantize { get; init; }

    /// <summary>
    /// Gets whether steps that refresh preconditioners also measure what these do in each layer.
    /// </summary>
    public bool Diagnostics { get; init; }

    /// <summary>Gets the mode of batch normalizations.</summary>
    public BatchNormMode BatchNorm { get; init; } = BatchNormMode.AsExported;

    /// <summary>
    /// Gets whether a moving average of the weights is kept, of decay <see cref="Hyperparameters.Ema"/>.
    /// </summary>
    [JsonIgnore]
    public bool AveragesWeights => Hyperparameters.Ema > 0;

    /// <summary>
    /// Gets whether the update clips the gradients' global norm, to <see cref="Hyperparameters.MaxGradientNorm"/>.
    /// </summary>
    [JsonIgnore]
    public bool ClipsGradients => Hyperparameters.MaxGradientNorm > 0;

    /// <summary>
    /// Gets the pair that <see cref="Optimizer"/>, <see cref="Curvature"/> and <see cref="Update"/> say.
    /// </summary>
    [JsonIgnore]
    public (CurvatureKind Curvature, UpdateKind Update) Methods
    {
        get
        {
            var (curvature, update) = Optimizer switch
            {
                OptimizerKind.Mac => (CurvatureKind.Mac, UpdateKind.Momentum),
                OptimizerKind.AdamW => (CurvatureKind.None, UpdateKind.AdamW),
                OptimizerKind.MacAdamW => (CurvatureKind.Mac, UpdateKind.AdamW),
                OptimizerKind.Kfac => (CurvatureKind.Kfac, UpdateKind.Momentum),
                OptimizerKind.Foof => (CurvatureKind.Foof, UpdateKind.Momentum),
                OptimizerKind.Eva => (CurvatureKind.Eva, UpdateKind.Momentum),
                OptimizerKind.Smac => (CurvatureKind.Smac, UpdateKind.Momentum),
                OptimizerKind.Muon => (CurvatureKind.None, UpdateKind.Muon),
                OptimizerKind.Keep => (CurvatureKind.None, UpdateKind.AdamW),
                _ => (CurvatureKind.None, UpdateKind.Momentum),
            };
            return (Curvature ?? curvature, Update ?? update);
        }
    }

    /// <summary>
    /// Gets whether the gradients that a training graph computes itself are dropped and computed anew.
    /// </summary>
    public bool RebuildsBackward { get; init; }

    /// <summary>Gets sizes for dynamic dimensions by name, which become fixed.</summary>
    public IReadOnlyDictionary<string, long> Dimensions { get; init; } = new Dictionary<string, long>();

    /// <summary>Gets the hyper-parameters that training starts from.</summary>
    public Hyperparameters Hyperparameters { get; init; } = new();

    /// <summary>
    /// Gets what adjusts the sessions that run parts of the model while it is understood, so that ONNX Runtime knows
    /// operators of other domains; null for nothing. Not part of a package.
    /// </summary>
    [JsonIgnore]
    public Action<SessionOptions>? ConfigureSession { get; init; }
}

/// <summary>Numbers that can change while training: inputs of the update graph, or schedules of the runtime.</summary>
public sealed record Hyperparameters
{
    /// <summary>Gives the hyper-parameters that the command line starts from.</summary>
    /// <param name="update">What updates the parameters.</param>
    public static Hyperparameters Default(UpdateKind update) =>
        update switch
        {
            UpdateKind.AdamW => new() { LearningRate = 0.001f },
            UpdateKind.Muon => new() { LearningRate = 0.001f, Momentum = 0.95f },
            _ => new(),
        };

    /// <summary>Gets the learning rate.</summary>
    public float LearningRate { get; init; } = 0.1f;

    /// <summary>Gets the momentum factor mu.</summary>
    public float Momentum { get; init; } = 0.9f;

    /// <summary>Gets the weight decay.</summary>
    public float WeightDecay { get; init; }

    /// <summary>Gets the damping rho of preconditioners, more than 0.</summary>
    public float Damping { get; init; } = 1f;

    /// <summary>Gets the decay g of the moving averages (EMA) of statistics, 0 or more and less than 1.</summary>
    public float StatDecay { get; init; } = 0.95f;

    /// <summary>Gets the steps between updates of the moving averages (EMA) of statistics (Tcov).</summary>
    public int StatEvery { get; init; } = 5;

    /// <summary>Gets the steps between refreshes of preconditioners (Tinv).</summary>
    public int RefreshEvery { get; init; } = 50;

    /// <summary>Gets AdamW's decay of the first moment.</summary>
    public float Beta1 { get; init; } = 0.9f;

    /// <summary>Gets AdamW's decay of the second moment.</summary>
    public float Beta2 { get; init; } = 0.999f;

    /// <summary>Gets AdamW's epsilon.</summary>
    public float Epsilon { get; init; } = 1e-8f;

    /// <summary>
    /// Gets the largest global norm of the gradients; 0 for no clipping, which is decided when the model is rewritten.
    /// </summary>
    public float MaxGradientNorm { get; init; }

    /// <summary>
    /// Gets the decay of the moving average of the weights (EMA), 0 or more and less than 1; 0 for no average, which is
    /// decided when the model is rewritten.
    /// </summary>
    public float Ema { get; init; }

    /// <summary>
    /// Gets what the loss is multiplied with where weights are float16, so that small gradients do not underflow;
    /// 0 for a scale that is halved after a step without finite numbers and doubled after 2,000 steps with them.
    /// </summary>
    public float LossScale { get; init; }

    /// <summary>Gives a hyper-parameter by its name in the formulas of a manifest: snake case.</summary>
    /// <param name="name">The name, such as <c>learning_rate</c>.</param>
    /// <returns>The value; null for another name. A largest gradient norm of 0 is infinite.</returns>
    public double? Named(string name) =>
        name switch
        {
            "learning_rate" => LearningRate,
            "momentum" => Momentum,
            "weight_decay" => WeightDecay,
            "damping" => Damping,
            "stat_decay" => StatDecay,
            "beta1" => Beta1,
            "beta2" => Beta2,
            "epsilon" => Epsilon,
            "ema" => Ema,
            "max_gradient_norm" => MaxGradientNorm > 0 ? MaxGradientNorm : double.PositiveInfinity,
            _ => null,
        };
}
