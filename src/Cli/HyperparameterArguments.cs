using System.CommandLine;
using MacOnnx.GraphRewriter;

namespace MacOnnx.Cli;

/// <summary>The options for numbers that can change from run to run without rewriting.</summary>
internal sealed class HyperparameterArguments
{
    private readonly Option<float?> _learningRate = Options.Number<float>(
        "--learning-rate",
        "Default 0.1; 0.001 for the updates adamw and muon, and for keep.",
        "R"
    );
    private readonly Option<float?> _momentum = Options.Number<float>(
        "--momentum",
        "Momentum of the updates momentum and muon. Default 0.9, for muon 0.95.",
        "MU"
    );
    private readonly Option<float?> _weightDecay = Options.Number<float>("--weight-decay", "Default 0.", "W");
    private readonly Option<float?> _damping = Options.Number<float>(
        "--damping",
        "The damping rho of preconditioners. Default 1.",
        "RHO"
    );
    private readonly Option<float?> _statDecay = Options.Number<float>(
        "--stat-decay",
        "Decay of the moving averages (EMA) of statistics. Default 0.95.",
        "G"
    );
    private readonly Option<int?> _statEvery = Options.Number<int>(
        "--stat-every",
        "Steps between updates of the moving averages (EMA) of statistics. Default 5.",
        "TCOV"
    );
    private readonly Option<int?> _refreshEvery = Options.Number<int>(
        "--refresh-every",
        "Steps between refreshes of preconditioners. Default 50.",
        "TINV"
    );
    private readonly Option<float?> _beta1 = Options.Number<float>(
        "--beta1",
        "The decay of AdamW's first moment. Default 0.9.",
        "B"
    );
    private readonly Option<float?> _beta2 = Options.Number<float>(
        "--beta2",
        "The decay of AdamW's second moment. Default 0.999.",
        "B"
    );
    private readonly Option<float?> _epsilon = Options.Number<float>(
        "--epsilon",
        "AdamW's epsilon. Default 1e-8.",
        "E"
    );
    private readonly Option<float?> _maxGradientNorm = Options.Number<float>(
        "--max-gradient-norm",
        "The largest global norm of the gradients. Default 0: no clipping.",
        "N"
    );
    private readonly Option<float?> _ema = Options.Number<float>(
        "--ema",
        "Decay of an average of the weights, for 'eval --ema' and 'export --ema'. Default 0: none is kept.",
        "D"
    );
    private readonly Option<float?> _lossScale = Options.Number<float>(
        "--loss-scale",
        "What the loss of a model with float16 weights is multiplied with. Default 0: found while training.",
        "S"
    );

    public void AddTo(Command command)
    {
        foreach (
            var option in new Option[]
            {
                _learningRate,
                _momentum,
                _weightDecay,
                _damping,
                _statDecay,
                _statEvery,
                _refreshEvery,
                _beta1,
                _beta2,
                _epsilon,
                _maxGradientNorm,
                _ema,
                _lossScale,
            }
        )
        {
            command.Add(option);
        }
    }

    /// <summary>Gives the hyper-parameters that were given, over the others.</summary>
    public Hyperparameters Apply(ParseResult parsed, Hyperparameters others) =>
        others with
        {
            LearningRate = parsed.GetValue(_learningRate) ?? others.LearningRate,
            Momentum = parsed.GetValue(_momentum) ?? others.Momentum,
            WeightDecay = parsed.GetValue(_weightDecay) ?? others.WeightDecay,
            Damping = parsed.GetValue(_damping) ?? others.Damping,
            StatDecay = parsed.GetValue(_statDecay) ?? others.StatDecay,
            StatEvery = parsed.GetValue(_statEvery) ?? others.StatEvery,
            RefreshEvery = parsed.GetValue(_refreshEvery) ?? others.RefreshEvery,
            Beta1 = parsed.GetValue(_beta1) ?? others.Beta1,
            Beta2 = parsed.GetValue(_beta2) ?? others.Beta2,
            Epsilon = parsed.GetValue(_epsilon) ?? others.Epsilon,
            MaxGradientNorm = parsed.GetValue(_maxGradientNorm) ?? others.MaxGradientNorm,
            Ema = parsed.GetValue(_ema) ?? others.Ema,
            LossScale = parsed.GetValue(_lossScale) ?? others.LossScale,
        };
}
