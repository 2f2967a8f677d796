using System.CommandLine;
using System.Globalization;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.Cli;

/// <summary>The options that say how a model is rewritten.</summary>
internal sealed class RewriteArguments
{
    private readonly Option<LossKind?> _loss = Options.Choice(
        "--loss",
        "What is minimized; output: the model's output is the loss. Default cross-entropy.",
        ("cross-entropy", LossKind.CrossEntropy),
        ("mse", LossKind.Mse),
        ("l1", LossKind.L1),
        ("huber", LossKind.Huber),
        ("bce-with-logits", LossKind.BceWithLogits),
        ("output", LossKind.Output)
    );

    private readonly Option<string?> _lossInput = Options.Text(
        "--loss-input",
        "The model output that feeds the loss. Default the first.",
        "NAME"
    );
    private readonly Option<int?> _classAxis = Options.Number<int>(
        "--class-axis",
        "The class axis of the logits. Default the one that the labels' shape leaves out, the last if two fit.",
        "K"
    );
    private readonly Option<long?> _ignoreIndex = Options.Number<long>(
        "--ignore-index",
        "The label of samples that do not count. Default -100.",
        "LABEL"
    );
    private readonly Option<float?> _labelSmoothing = Options.Number<float>(
        "--label-smoothing",
        "The share of the target spread evenly over all classes. Default 0.",
        "S"
    );
    private readonly Option<string?> _classWeights = Options.Text(
        "--class-weights",
        "One weight for each class, with commas between.",
        "W,W,..."
    );
    private readonly Option<string?> _targetName = Options.Text(
        "--target-name",
        "The name of the target. Default labels.",
        "NAME"
    );
    private readonly Option<OptimizerKind?> _optimizer = Options.Choice(
        "--optimizer",
        "Default mac.",
        ("mac", OptimizerKind.Mac),
        ("sgd", OptimizerKind.Sgd),
        ("adamw", OptimizerKind.AdamW),
        ("mac-adamw", OptimizerKind.MacAdamW)
    );
    private readonly Option<bool> _nesterov = Options.Switch("--nesterov", "Use Nesterov's momentum.");
    private readonly Option<WeightDecayMode?> _weightDecayMode = Options.Choice(
        "--weight-decay-mode",
        "Whether weight decay passes through the momentum. Default coupled, decoupled for adamw.",
        ("coupled", WeightDecayMode.Coupled),
        ("decoupled", WeightDecayMode.Decoupled)
    );

    private readonly Option<string?> _noDecay = Options.Text(
        "--no-decay",
        "The parameters that do not decay; '^$' for none. Default biases and normalizations.",
        "REGEX"
    );
    private readonly Option<bool> _inverseScaled = Options.Switch(
        "--inverse-scaled",
        "Keep the factor 1/damping of the exact inverse in MAC's preconditioner."
    );
    private readonly Option<FirstLayerMode?> _firstLayer = Options.Choice(
        "--first-layer",
        "MAC's curvature of the first layer. Default mean.",
        ("mean", FirstLayerMode.Mean),
        ("full", FirstLayerMode.Full)
    );
    private readonly Option<DepthwiseMode?> _depthwise = Options.Choice(
        "--depthwise",
        "MAC's statistic of depthwise convolutions. Default per-group.",
        ("per-group", DepthwiseMode.PerGroup),
        ("pooled", DepthwiseMode.Pooled)
    );
    private readonly Option<ValueStatistic?> _valueStatistic = Options.Choice(
        "--value-statistic",
        "MAC's statistic of attention's value projections. Default product.",
        ("product", ValueStatistic.Product),
        ("joint", ValueStatistic.Joint),
        ("none", ValueStatistic.None)
    );

    private readonly Option<string?> _trainable = Options.Text(
        "--trainable",
        "What trains. Default every weight that the loss depends on.",
        "REGEX"
    );
    private readonly Option<string?> _frozen = Options.Text("--frozen", "What does not train.", "REGEX");
    private readonly Option<BatchNormMode?> _batchNorm = Options.Choice(
        "--batch-norm",
        "The mode of batch normalizations. Default as-exported.",
        ("as-exported", BatchNormMode.AsExported),
        ("train", BatchNormMode.Train),
        ("frozen", BatchNormMode.Frozen)
    );
    private readonly Option<bool> _dequantize = Options.Switch(
        "--dequantize",
        "Make float weights of those stored as integers, and train them."
    );

    private readonly Option<string[]> _dimensions = new("--dim")
    {
        Description = "Fix a dynamic dimension; may be repeated.",
        HelpName = "NAME=SIZE",
        Arity = ArgumentArity.OneOrMore,
    };
    private readonly HyperparameterArguments _hyperparameters = new();

    /// <summary>
    /// Initializes a new instance of the <see cref="RewriteArguments"/> class and adds the options to a command.
    /// </summary>
    public RewriteArguments(Command command)
    {
        foreach (var option in Structural)
        {
            command.Add(option);
        }

        _hyperparameters.AddTo(command);
    }

    private IEnumerable<Option> Structural =>
        [
            _loss,
            _lossInput,
            _classAxis,
            _ignoreIndex,
            _labelSmoothing,
            _classWeights,
            _targetName,
            _optimizer,
            _nesterov,
            _weightDecayMode,
            _noDecay,
            _inverseScaled,
            _firstLayer,
            _depthwise,
            _valueStatistic,
            _trainable,
            _frozen,
            _batchNorm,
            _dequantize,
            _dimensions,
        ];

    /// <summary>Gives the options for rewriting.</summary>
    public RewriteOptions ToOptions(ParseResult parsed)
    {
        var options = Apply(parsed, new RewriteOptions());
        var hyperparameters = options.Optimizer is OptimizerKind.AdamW or OptimizerKind.MacAdamW
            ? options.Hyperparameters with
            {
                LearningRate = 0.001f,
            }
            : options.Hyperparameters;
        return options with { Hyperparameters = _hyperparameters.Apply(parsed, hyperparameters) };
    }

    /// <summary>Gives the hyper-parameters for training a package: those given, over the others.</summary>
    /// <exception cref="MacOnnxException">An option was given that only rewriting can follow, and the package was
    /// rewritten with another.</exception>
    public Hyperparameters ToHyperparameters(
        ParseResult parsed,
        Hyperparameters others,
        RewriteOptions rewritten,
        string package
    )
    {
        var applied = _hyperparameters.Apply(parsed, others);
        var changed =
            applied.MaxGradientNorm > 0 != others.MaxGradientNorm > 0 ? "--max-gradient-norm"
            : Same(Apply(parsed, rewritten), rewritten) ? null
            : string.Join(", ", Structural.Where(o => parsed.GetResult(o) is { Implicit: false }).Select(o => o.Name));
        return changed is null
            ? applied
            : throw new MacOnnxException(
                "MAC0304",
                changed,
                $"The package '{package}' was rewritten otherwise; this would change its graphs.",
                "Leave these options out, or start another run from the .onnx model."
            );
    }

    /// <summary>Gives the options that were given, over the others; hyper-parameters are not among them.</summary>
    private RewriteOptions Apply(ParseResult parsed, RewriteOptions others) =>
        others with
        {
            Loss = parsed.GetValue(_loss) ?? others.Loss,
            LossInput = parsed.GetValue(_lossInput) ?? others.LossInput,
            ClassAxis = parsed.GetValue(_classAxis) ?? others.ClassAxis,
            IgnoreIndex = parsed.GetValue(_ignoreIndex) ?? others.IgnoreIndex,
            LabelSmoothing = parsed.GetValue(_labelSmoothing) ?? others.LabelSmoothing,
            ClassWeights = parsed.GetValue(_classWeights) is { } weights ? Weights(weights) : others.ClassWeights,
            TargetName = parsed.GetValue(_targetName) ?? others.TargetName,
            Optimizer = parsed.GetValue(_optimizer) ?? others.Optimizer,
            Nesterov = parsed.GetValue(_nesterov) || others.Nesterov,
            WeightDecayMode = parsed.GetValue(_weightDecayMode) ?? others.WeightDecayMode,
            NoDecay = parsed.GetValue(_noDecay) ?? others.NoDecay,
            InverseScaled = parsed.GetValue(_inverseScaled) || others.InverseScaled,
            FirstLayer = parsed.GetValue(_firstLayer) ?? others.FirstLayer,
            Depthwise = parsed.GetValue(_depthwise) ?? others.Depthwise,
            ValueStatistic = parsed.GetValue(_valueStatistic) ?? others.ValueStatistic,
            Trainable = parsed.GetValue(_trainable) ?? others.Trainable,
            Frozen = parsed.GetValue(_frozen) ?? others.Frozen,
            BatchNorm = parsed.GetValue(_batchNorm) ?? others.BatchNorm,
            Dequantize = parsed.GetValue(_dequantize) || others.Dequantize,
            Dimensions = parsed.GetValue(_dimensions) is { Length: > 0 } given
                ? given.Select(Dimension).DistinctBy(d => d.Key).ToDictionary()
                : others.Dimensions,
        };

    private static bool Same(RewriteOptions a, RewriteOptions b) =>
        a with { ClassWeights = b.ClassWeights, Dimensions = b.Dimensions } == b
        && (a.ClassWeights ?? []).SequenceEqual(b.ClassWeights ?? [])
        && a.Dimensions.OrderBy(d => d.Key, StringComparer.Ordinal)
            .SequenceEqual(b.Dimensions.OrderBy(d => d.Key, StringComparer.Ordinal));

    private static float[] Weights(string text) =>
        [
            .. text.Split(',')
                .Select(t =>
                    float.TryParse(t, CultureInfo.InvariantCulture, out var w)
                        ? w
                        : throw new MacOnnxException(
                            "MAC0303",
                            "--class-weights",
                            $"'{t}' is not a number.",
                            "Give numbers with commas between."
                        )
                ),
        ];

    private static KeyValuePair<string, long> Dimension(string text) =>
        text.LastIndexOf('=') is var at and > 0
        && long.TryParse(text.AsSpan(at + 1), NumberStyles.None, CultureInfo.InvariantCulture, out var size)
        && size > 0
            ? new(text[..at], size)
            : throw new MacOnnxException(
                "MAC0303",
                "--dim",
                $"'{text}' is not a dimension and its size.",
                "Give it as NAME=SIZE, for example batch=32."
            );
}
