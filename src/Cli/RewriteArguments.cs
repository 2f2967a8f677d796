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
        "A usual pair of --curvature and --update, or keep: that of training artifacts. Default mac.",
        ("mac", OptimizerKind.Mac),
        ("mac-adamw", OptimizerKind.MacAdamW),
        ("sgd", OptimizerKind.Sgd),
        ("adamw", OptimizerKind.AdamW),
        ("kfac", OptimizerKind.Kfac),
        ("foof", OptimizerKind.Foof),
        ("eva", OptimizerKind.Eva),
        ("smac", OptimizerKind.Smac),
        ("muon", OptimizerKind.Muon),
        ("keep", OptimizerKind.Keep)
    );
    private readonly Option<CurvatureKind?> _curvature = Options.Choice(
        "--curvature",
        "What preconditions the gradients. Default what --optimizer says.",
        ("none", CurvatureKind.None),
        ("mac", CurvatureKind.Mac),
        ("kfac", CurvatureKind.Kfac),
        ("foof", CurvatureKind.Foof),
        ("eva", CurvatureKind.Eva),
        ("smac", CurvatureKind.Smac)
    );
    private readonly Option<UpdateKind?> _update = Options.Choice(
        "--update",
        "What updates the parameters. Default what --optimizer says.",
        ("momentum", UpdateKind.Momentum),
        ("adamw", UpdateKind.AdamW),
        ("muon", UpdateKind.Muon)
    );
    private readonly Option<bool> _nesterov = Options.Switch("--nesterov", "Use Nesterov's momentum.");
    private readonly Option<WeightDecayMode?> _weightDecayMode = Options.Choice(
        "--weight-decay-mode",
        "Whether weight decay passes through the momentum. Default coupled for momentum, else decoupled.",
        ("coupled", WeightDecayMode.Coupled),
        ("decoupled", WeightDecayMode.Decoupled)
    );

    private readonly Option<string?> _noDecay = Options.Text(
        "--no-decay",
        "The parameters that do not decay; '^$' for none. Default biases and normalizations.",
        "REGEX"
    );
    private readonly Option<string[]> _groups = new("--group")
    {
        Description =
            "Give the parameters that a pattern matches hyper-parameters of their own: learning-rate, weight-decay, "
            + "momentum, beta1, beta2 or epsilon, as a number or, with x, as a factor; may be repeated.",
        HelpName = "'REGEX: NAME=VALUE[x], ...'",
        Arity = ArgumentArity.OneOrMore,
    };
    private readonly Option<float?> _layerDecay = Options.Number<float>(
        "--layer-decay",
        "The factor on a parameter's learning rate for each matrix or kernel between it and the loss. Default 1.",
        "F"
    );
    private readonly Option<bool> _inverseScaled = Options.Switch(
        "--inverse-scaled",
        "Keep the factor 1/damping of the exact inverse in the preconditioner of mac and smac."
    );
    private readonly Option<FirstLayerMode?> _firstLayer = Options.Choice(
        "--first-layer",
        "Whether the first layer's curvature is its input's exact second moment over the data. Default mean: no.",
        ("mean", FirstLayerMode.Mean),
        ("full", FirstLayerMode.Full)
    );
    private readonly Option<DepthwiseMode?> _depthwise = Options.Choice(
        "--depthwise",
        "The mean of the input of depthwise convolutions. Default per-group.",
        ("per-group", DepthwiseMode.PerGroup),
        ("pooled", DepthwiseMode.Pooled)
    );
    private readonly Option<ValueStatistic?> _valueStatistic = Options.Choice(
        "--value-statistic",
        "The mean of the input of attention's value projections, for mac and smac. Default product.",
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

    private readonly Option<bool> _diagnostics = Options.Switch(
        "--diagnostics",
        "Measure, in steps that refresh preconditioners, what these do in each layer."
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
    public RewriteArguments(Command command) => AddTo(command);

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
            _curvature,
            _update,
            _nesterov,
            _weightDecayMode,
            _noDecay,
            _groups,
            _layerDecay,
            _inverseScaled,
            _firstLayer,
            _depthwise,
            _valueStatistic,
            _trainable,
            _frozen,
            _batchNorm,
            _dequantize,
            _diagnostics,
            _dimensions,
        ];

    /// <summary>Adds the options to a command.</summary>
    public void AddTo(Command command)
    {
        foreach (var option in Structural)
        {
            command.Add(option);
        }

        _hyperparameters.AddTo(command);
    }

    /// <summary>Gives the options for rewriting.</summary>
    /// <param name="parsed">The command line.</param>
    /// <param name="common">A command line whose options apply where the first has none; null for none.</param>
    public RewriteOptions ToOptions(ParseResult parsed, ParseResult? common = null)
    {
        var defaults = new RewriteOptions();
        var options = Apply(parsed, common is null ? defaults : Apply(common, defaults));
        var hyperparameters = Hyperparameters.Default(options.Methods.Update);
        hyperparameters = common is null ? hyperparameters : _hyperparameters.Apply(common, hyperparameters);
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
            : applied.Ema > 0 != others.Ema > 0 ? "--ema"
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
            Curvature = parsed.GetValue(_curvature) ?? others.Curvature,
            Update = parsed.GetValue(_update) ?? others.Update,
            Nesterov = parsed.GetValue(_nesterov) || others.Nesterov,
            WeightDecayMode = parsed.GetValue(_weightDecayMode) ?? others.WeightDecayMode,
            NoDecay = parsed.GetValue(_noDecay) ?? others.NoDecay,
            Groups = parsed.GetValue(_groups) is { Length: > 0 } groups ? [.. groups.Select(Group)] : others.Groups,
            LayerDecay = parsed.GetValue(_layerDecay) ?? others.LayerDecay,
            Diagnostics = parsed.GetValue(_diagnostics) || others.Diagnostics,
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
        a with { ClassWeights = b.ClassWeights, Dimensions = b.Dimensions, Groups = b.Groups } == b
        && a.Groups.Select(Text).SequenceEqual(b.Groups.Select(Text))
        && (a.ClassWeights ?? []).SequenceEqual(b.ClassWeights ?? [])
        && a.Dimensions.OrderBy(d => d.Key, StringComparer.Ordinal)
            .SequenceEqual(b.Dimensions.OrderBy(d => d.Key, StringComparer.Ordinal));

    private static string Text(ParameterGroup group) => $"{group.Pattern}: {string.Join(", ", group.Formulas)}";

    /// <summary>Reads a group: the last colon ends the pattern.</summary>
    private static ParameterGroup Group(string text)
    {
        var colon = text.LastIndexOf(':');
        var formulas = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var part in colon < 0 ? [] : text[(colon + 1)..].Split(','))
        {
            var (name, value) = part.Split('=') is [var left, var right] ? (left.Trim(), right.Trim()) : ("", "");
            var isFactor = value.EndsWith('x');
            if (
                name.Length == 0
                || !double.TryParse(isFactor ? value[..^1] : value, CultureInfo.InvariantCulture, out var number)
                || !double.IsFinite(number)
            )
            {
                formulas.Clear();
                break;
            }

            var property = name.Replace('-', '_');
            var amount = number.ToString("0.#################", CultureInfo.InvariantCulture);
            formulas[property] = isFactor ? $"{amount} * {property}" : amount;
        }

        return formulas.Count > 0
            ? new(text[..colon].Trim(), formulas)
            : throw new MacOnnxException(
                "MAC0303",
                "--group",
                $"'{text}' is not a pattern and hyper-parameters.",
                "Give it as 'REGEX: learning-rate=0.1x, weight-decay=0'."
            );
    }

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
