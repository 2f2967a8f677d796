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
            update.Step(layer, update.Scaled(gradients[layer.Weight]), layer.Bias is { } bias ? update.Scaled(gradients[bias]) : null);
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

    /// <summary>Divides a gradient by the damping where the exact inverse is asked for; MAC's step is linear in the gradient.</summary>
    private Term Scaled(Term gradient) => _options.InverseScaled ? gradient / Scalar("damping") : gradient;

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

    /// <summary>Emits the update of a layer's weight and bias.</summary>
    private void Step(Layer layer, Term weight, Term? bias)
    {
        (_b.Origin, _b.Prefix) = ($"mac {layer.Node}", $"{layer.Weight.Name}/");
        if (layer.IsExact)
        {
            StepExact(layer, weight, bias);
            return;
        }

        var (p, scale) = CurvatureGraph.Inputs(_b, layer, _options.Depthwise);
        var preconditioner = new Preconditioner(layer, p, scale);
        Value? added = null;
        Step(layer.Weight, weight, (old, d) =>
        {
            (var sum, added) = layer.IsFused ? IfRefreshed(preconditioner, old, d, weight, bias) : preconditioner.Apply(_b, old + d, weight, bias?.V);
            return new(_b, sum);
        });
        if (layer.Bias is { } parameter)
        {
            Step(parameter, bias!.Value, (old, d) => old + d + new Term(_b, added!));
        }
    }

    /// <summary>G' = G (A + rho I)^-1 with the layer's second moment A, whose inverse the runtime gives.</summary>
    private void StepExact(Layer layer, Term weight, Term? bias)
    {
        _states.Add(new StateTensor(TrainingNames.SecondMoment(layer), ElementType.Float, [layer.MomentSize, layer.MomentSize], StateOrigin.Zeros));
        var inverse = new Term(_b, _b.Input(TrainingNames.Inverse(layer), ElementType.Float, Shape.Of(layer.MomentSize, layer.MomentSize)));
        var axis = layer.OutputFirst ? 1 : 0;
        var matrix = layer.OutputFirst ? weight.Reshape(layer.Out, layer.In) : weight;
        var joined = bias is { } db ? new Term(_b, _b.Op("Concat", [matrix.V, (layer.OutputFirst ? db.Reshape(layer.Out, 1) : db.Reshape(1, layer.Out)).V], Int("axis", axis))) : matrix;
        var result = layer.OutputFirst ? joined.Op("MatMul", inverse) : inverse.Op("MatMul", joined);
        Term Part(long from, long to) => new(_b, _b.Op("Slice", [result.V, _b.Int64s(from), _b.Int64s(to), _b.Int64s(axis)]));
        Step(layer.Weight, Part(0, layer.In).ReshapeTo(layer.Weight.Value));
        if (layer.Bias is { } parameter)
        {
            Step(parameter, Part(layer.In, layer.MomentSize).ReshapeTo(parameter.Value));
        }
    }

    /// <summary>Preconditions in the steps whose gradients the training graph left as they are, and only adds in the others.</summary>
    private (Value Sum, Value? Bias) IfRefreshed(Preconditioner preconditioner, Term old, Term d, Term weight, Term? bias)
    {
        var layer = preconditioner.Layer;
        var flag = _scalars.TryGetValue(TrainingNames.Refreshed, out var known) ? known : _scalars[TrainingNames.Refreshed] = _b.Input(TrainingNames.Refreshed, ElementType.Bool, Shape.Scalar);
        List<string> names = [_b.Graph.FreshName($"{layer.Weight.Name}/sum")];
        List<Shape> shapes = [layer.Weight.Value.KnownShape];
        if (layer.Bias is { } parameter)
        {
            names.Add(_b.Graph.FreshName($"{layer.Weight.Name}/added"));
            shapes.Add(parameter.Value.KnownShape);
        }

        static Value Sum(GraphBuilder b, Term x, Term y) => new Term(b, x) + new Term(b, y);
        var results = Conditional.Append(
            _b,
            flag,
            names,
            shapes,
            b => preconditioner.Apply(b, Sum(b, old, d), weight, bias?.V) is var (sum, added) && added is not null ? [sum, added] : [sum],
            b => bias is { } gradient ? [Sum(b, old, d), new Term(b, gradient).Zeros()] : [Sum(b, old, d)]);
        return (results[0], results.ElementAtOrDefault(1));
    }

    /// <summary>Emits the update of one parameter.</summary>
    /// <param name="parameter">The parameter.</param>
    /// <param name="gradient">Its gradient.</param>
    /// <param name="combine">Adds the decayed momentum and the gradient, and takes off what MAC takes off the gradient; null for a plain sum.</param>
    private void Step(Parameter parameter, Term gradient, Func<Term, Term, Term>? combine = null)
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

        // The subtraction comes last: it is then the only pass over the matrix that MAC adds to SGD.
        var momentum = Scalar("momentum");
        var buffer = State($"{parameter.Name}.momentum", parameter.Value.KnownShape, StateOrigin.Zeros);
        var old = momentum * buffer;
        var next = combine is null ? old + d : combine(old, d);
        Output(buffer, next);
        Output(theta, kept - (lr * (_options.Nesterov ? (next - old) + (momentum * next) : next)));
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
