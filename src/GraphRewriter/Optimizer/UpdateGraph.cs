using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>Builds the optimizer graph: gradients, parameters and state in; new parameters and state out.</summary>
/// <remarks>
/// An output "X_new" may be bound to the buffer of the input "X": every other reader of X comes before the node that writes it.
/// </remarks>
internal sealed class UpdateGraph
{
    private readonly GraphBuilder _b;
    private readonly RewriteOptions _options;
    private readonly Regex? _noDecay;
    private readonly List<StateTensor> _states;
    private readonly Dictionary<string, Value> _scalars = new(StringComparer.Ordinal);

    private UpdateGraph(RewriteOptions options, List<StateTensor> states)
    {
        _b = new GraphBuilder(new Graph { Name = "optimizer" });
        _b.Graph.Opsets[""] = Import.OpsetUpgrade.Target;
        (_options, _states) = (options, states);
        _noDecay = ParameterFinder.Pattern(options.NoDecay, "--no-decay");
    }

    private bool Decoupled => (_options.WeightDecayMode ?? (_options.Optimizer == OptimizerKind.AdamW ? WeightDecayMode.Decoupled : WeightDecayMode.Coupled)) == WeightDecayMode.Decoupled;

    /// <summary>Builds the graph; adds the optimizer's state to <paramref name="states"/>.</summary>
    public static Graph Build(IReadOnlyList<Parameter> trained, IEnumerable<BatchStatistic> running, RewriteOptions options, List<StateTensor> states)
    {
        var update = new UpdateGraph(options, states);
        var gradients = update.Gradients(trained);
        foreach (var parameter in trained.Where(p => p.Layer is null))
        {
            update.Step(parameter, gradients[parameter]);
        }

        foreach (var layer in trained.Select(p => p.Layer).OfType<Layer>().Distinct())
        {
            update._b.Origin = $"mac {layer.Node}";
            update._b.Prefix = $"{layer.Weight.Name}/";
            var (weight, bias) = update.Precondition(layer, gradients[layer.Weight], layer.Bias is { } given ? gradients[given] : null);
            update.Step(layer.Weight, weight);
            if (layer.Bias is { } parameter)
            {
                update.Step(parameter, bias!.Value);
            }
        }

        foreach (var uses in running.GroupBy(s => s.Mean))
        {
            update.Advance(uses.Key, uses.Select(s => (s.BatchMean, s.Momentum)));
        }

        foreach (var uses in running.GroupBy(s => s.Variance))
        {
            update.Advance(uses.Key, uses.Select(s => (s.BatchVariance, s.Momentum)));
        }

        update._b.Graph.Prune();
        return update._b.Graph;
    }

    /// <summary>Whether weight decay applies to a parameter.</summary>
    public static bool Decays(Parameter parameter, Regex? noDecay) =>
        noDecay is null ? parameter.Value.Rank >= 2 && parameter.Kind is not ("bias" or "normalization") : !noDecay.IsMatch(parameter.Name);

    private Term Scalar(string name) => new(_b, _scalars.TryGetValue(name, out var value) ? value : _scalars[name] = _b.Input(name, ElementType.Float, Shape.Scalar));

    private Term State(string name, Shape shape, StateOrigin origin)
    {
        _states.Add(new StateTensor(name, ElementType.Float, [.. shape.Dims.Select(d => d.Size)], origin));
        return new(_b, _b.Input(name, ElementType.Float, shape));
    }

    private Dictionary<Parameter, Term> Gradients(IReadOnlyList<Parameter> trained)
    {
        var gradients = trained.ToDictionary(p => p, p => new Term(_b, _b.Input(TrainingNames.Gradient(p.Name), ElementType.Float, p.Value.KnownShape)));
        if (!_options.ClipsGradients)
        {
            return gradients;
        }

        _b.Origin = "clip";
        var norm = GradientNorm.Append(_b, gradients.Values);
        var limit = Scalar("max_gradient_norm");
        var scale = (limit / (norm + 1e-6)).Op("Min", limit.Scalar(1));
        return gradients.ToDictionary(g => g.Key, g => g.Value * scale);
    }

    /// <summary>G' = G - (G p) p^T / (rho + |p|^2), G = [dW | db] and p with a final 1 where there is a bias.</summary>
    private (Term Weight, Term? Bias) Precondition(Layer layer, Term weight, Term? bias)
    {
        var damping = Scalar("damping");
        Term Scaled(Term gradient) => _options.InverseScaled ? gradient / damping : gradient;
        var (p, square) = CurvatureGraph.Inputs(_b, layer, _options.Depthwise);
        var denominator = square + damping;
        var groups = p.V.KnownShape[0].Size;
        if (layer.Groups == 1 && !layer.OutputFirst)
        {
            var product = p.Op("MatMul", weight);
            var c = (bias is { } b ? product + b.Reshape(1, layer.Out) : product) / denominator;
            return (Scaled(new(_b, _b.Op("Gemm", [p.V, c.V, weight.V], Int("transA", 1), Float("alpha", -1)))), bias is { } db ? Scaled(db - c.ReshapeTo(layer.Bias!.Value)) : null);
        }

        // [groups, outputs of a group, inputs]; one group is a plain matrix.
        var rows = layer.Groups == 1 ? weight.Reshape(layer.Out, layer.In) : weight.Reshape(layer.Groups, layer.Out / layer.Groups, layer.In);
        var column = layer.Groups == 1 ? p.Reshape(layer.In, 1) : p.Reshape(groups, layer.In, 1);
        var dot = rows.Op("MatMul", column);
        var along = bias is { } added ? dot + (layer.Groups == 1 ? added.Reshape(layer.Out, 1) : added.Reshape(layer.Groups, layer.Out / layer.Groups, 1)) : dot;
        var coefficient = along / (layer.Groups == 1 ? denominator : denominator.Reshape(groups, 1, 1));
        var matrix = layer.Groups == 1
            ? new Term(_b, _b.Op("Gemm", [coefficient.V, p.V, rows.V], Float("alpha", -1)))
            : rows - (coefficient * p.Reshape(groups, 1, layer.In));
        return (Scaled(matrix.Reshape([.. layer.Weight.Value.KnownShape.Dims.Select(d => d.Size)])), bias is { } gradient ? Scaled(gradient - coefficient.ReshapeTo(layer.Bias!.Value)) : null);
    }

    /// <summary>Emits the update of one parameter by its (preconditioned) gradient.</summary>
    private void Step(Parameter parameter, Term gradient)
    {
        (_b.Origin, _b.Prefix) = ($"update {parameter.Name}", $"{parameter.Name}/");
        var theta = new Term(_b, _b.Input(parameter.Name, ElementType.Float, parameter.Value.KnownShape));
        var (lr, decay) = (Scalar("learning_rate"), Scalar("weight_decay"));
        var decays = Decays(parameter, _noDecay);
        var d = decays && !Decoupled ? gradient + (decay * theta) : gradient;
        var kept = decays && Decoupled ? theta * (1 - (lr * decay)) : theta;
        if (_options.Optimizer == OptimizerKind.AdamW)
        {
            var (m, v) = (State($"{parameter.Name}.exp_avg", parameter.Value.KnownShape, StateOrigin.Zeros), State($"{parameter.Name}.exp_avg_sq", parameter.Value.KnownShape, StateOrigin.Zeros));
            var (beta1, beta2) = (Scalar("beta1"), Scalar("beta2"));
            var first = (beta1 * m) + ((1 - beta1) * d);
            var second = (beta2 * v) + ((1 - beta2) * (d * d));
            Output(m, first);
            Output(v, second);
            Output(theta, kept - (Scalar("step_size") * (first / ((second.Sqrt() * Scalar("second_moment_scale")) + Scalar("epsilon")))));
            return;
        }

        var momentum = Scalar("momentum");
        var buffer = State($"{parameter.Name}.momentum", parameter.Value.KnownShape, StateOrigin.Zeros);
        var next = (momentum * buffer) + d;
        Output(buffer, next);
        Output(theta, kept - (lr * (_options.Nesterov ? d + (momentum * next) : next)));
    }

    /// <summary>running = momentum running + (1 - momentum) batch, as ONNX defines it (the population variance).</summary>
    private void Advance(Value running, IEnumerable<(Value Batch, float Momentum)> uses)
    {
        (_b.Origin, _b.Prefix) = ($"running statistic {running.Name}", $"{running.Name}/");
        var old = new Term(_b, _b.Input(running.Name, ElementType.Float, running.KnownShape));
        Output(old, uses.Aggregate(old, (value, use) =>
            (value * use.Momentum) + (new Term(_b, _b.Input(use.Batch.Name, ElementType.Float, running.KnownShape)) * (1 - (double)use.Momentum))));
    }

    private void Output(Term old, Term value)
    {
        value.V.Shape = old.V.Shape;
        _b.Graph.Outputs.Add(_b.Graph.Outputs.Contains(value.V) ? _b.Named(value, TrainingNames.New(old.V.Name)) : Renamed(value, TrainingNames.New(old.V.Name)));
    }

    private Value Renamed(Term value, string name)
    {
        _b.Graph.Rename(value, name);
        return value;
    }
}
