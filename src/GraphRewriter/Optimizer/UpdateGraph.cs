using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>Builds the optimizer graph: gradients, parameters and state in; new parameters and state out.</summary>
/// <remarks>
/// An output "X_new" may be bound to the buffer of the input "X": every other reader of X comes before the node that
/// writes it.
/// Every update is one call of an operator that the model defines: MomentumUpdate, AdamWUpdate, MacUpdate or
/// MacUpdateWithBias.
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

    private bool Decoupled =>
        (
            _options.WeightDecayMode
            ?? (_options.Optimizer == OptimizerKind.AdamW ? WeightDecayMode.Decoupled : WeightDecayMode.Coupled)
        ) == WeightDecayMode.Decoupled;

    /// <summary>Builds the graph; adds the optimizer's state to <paramref name="states"/>.</summary>
    public static Graph Build(
        IReadOnlyList<Parameter> trained,
        IEnumerable<BatchStatistic> running,
        RewriteOptions options,
        List<StateTensor> states
    )
    {
        var update = new UpdateGraph(options, states);
        var gradients = update.Gradients(trained);
        foreach (var parameter in trained.Where(p => p.Layer is null))
        {
            update.Step(parameter, gradients[parameter]);
        }

        foreach (var layer in trained.Select(p => p.Layer).OfType<Layer>().Distinct())
        {
            update.Step(
                layer,
                update.Scaled(layer, gradients[layer.Weight]),
                layer.Bias is { } bias ? update.Scaled(layer, gradients[bias]) : null
            );
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

    /// <summary>
    /// Divides a gradient by the damping where the literal inverse is asked for; MAC's step is linear in the gradient.
    /// The inverse of a second moment holds that factor.
    /// </summary>
    private Term Scaled(Layer layer, Term gradient) =>
        _options.InverseScaled && !layer.IsExact ? gradient / Scalar("damping") : gradient;

    /// <summary>Whether weight decay applies to a parameter.</summary>
    public static bool Decays(Parameter parameter, Regex? noDecay) =>
        noDecay is null
            ? parameter.Value.Rank >= 2 && parameter.Kind is not ("bias" or "normalization")
            : !noDecay.IsMatch(parameter.Name);

    private Term Scalar(string name) =>
        new(
            _b,
            _scalars.TryGetValue(name, out var value)
                ? value
                : _scalars[name] = _b.Input(name, ElementType.Float, Shape.Scalar)
        );

    private Term State(string name, Shape shape, StateOrigin origin)
    {
        _states.Add(new StateTensor(name, ElementType.Float, [.. shape.Dims.Select(d => d.Size)], origin));
        return new(_b, _b.Input(name, ElementType.Float, shape));
    }

    private Dictionary<Parameter, Term> Gradients(IReadOnlyList<Parameter> trained)
    {
        var gradients = trained.ToDictionary(
            p => p,
            p => new Term(_b, _b.Input(TrainingNames.Gradient(p.Name), ElementType.Float, p.Value.KnownShape))
        );
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
        var (w, buffer) = (Theta(layer.Weight), Buffer(layer.Weight));
        List<Value> inputs = [w, buffer, weight, .. Coefficients, p, scale];
        List<Term> olds = [w, buffer];
        if (layer.Bias is { } parameter)
        {
            olds.AddRange(Theta(parameter), Buffer(parameter));
            inputs.AddRange(olds[2], olds[3], bias!.Value);
        }

        Attr[] attributes =
        [
            .. Flags,
            Int("decays", Decays(layer.Weight)),
            Int("bias_decays", layer.Bias is { } b && Decays(b)),
            Int("output_first", layer.OutputFirst),
        ];
        Call(
            layer.Bias is null ? "MacUpdate" : "MacUpdateWithBias",
            inputs,
            preconditioner.VectorOfUnit is { } units ? [.. attributes, Ints("vector_of_unit", units)] : attributes,
            olds,
            inner =>
            {
                Value? added = null;
                var results = Momentum(
                    inner,
                    layer.Weight,
                    w,
                    buffer,
                    weight,
                    sum =>
                    {
                        (var next, added) = preconditioner.Apply(inner, sum, weight, bias?.V);
                        return new(inner, next);
                    }
                );
                return layer.Bias is null
                    ? results
                    :
                    [
                        .. results,
                        .. Momentum(
                            inner,
                            layer.Bias,
                            olds[2],
                            olds[3],
                            bias!.Value,
                            sum => sum + new Term(inner, added!)
                        ),
                    ];
            }
        );
    }

    /// <summary>G' = G (A + rho I)^-1 with the layer's second moment A, whose inverse the runtime gives.</summary>
    private void StepExact(Layer layer, Term weight, Term? bias)
    {
        _states.Add(
            new StateTensor(
                TrainingNames.SecondMoment(layer),
                ElementType.Float,
                [layer.MomentSize, layer.MomentSize],
                StateOrigin.Zeros
            )
        );
        var inverse = new Term(
            _b,
            _b.Input(TrainingNames.Inverse(layer), ElementType.Float, Shape.Of(layer.MomentSize, layer.MomentSize))
        );
        var axis = layer.OutputFirst ? 1 : 0;
        var matrix = layer.OutputFirst ? weight.Reshape(layer.Out, layer.In) : weight;
        var joined = bias is { } db
            ? new Term(
                _b,
                _b.Op(
                    "Concat",
                    [matrix.V, (layer.OutputFirst ? db.Reshape(layer.Out, 1) : db.Reshape(1, layer.Out)).V],
                    Int("axis", axis)
                )
            )
            : matrix;
        var result = layer.OutputFirst ? joined.Op("MatMul", inverse) : inverse.Op("MatMul", joined);
        Term Part(long from, long to) =>
            new(_b, _b.Op("Slice", [result.V, _b.Int64s(from), _b.Int64s(to), _b.Int64s(axis)]));
        Step(layer.Weight, Part(0, layer.In).ReshapeTo(layer.Weight.Value));
        if (layer.Bias is { } parameter)
        {
            Step(parameter, Part(layer.In, layer.MomentSize).ReshapeTo(parameter.Value));
        }
    }

    /// <summary>Emits the update of one parameter by its gradient.</summary>
    private void Step(Parameter parameter, Term gradient)
    {
        (_b.Origin, _b.Prefix) = ($"update {parameter.Name}", $"{parameter.Name}/");
        var theta = Theta(parameter);
        Attr[] flags = [.. Flags, Int("decays", Decays(parameter))];
        if (_options.Optimizer == OptimizerKind.AdamW)
        {
            var (m, v) = (
                State($"{parameter.Name}.exp_avg", parameter.Value.KnownShape, StateOrigin.Zeros),
                State($"{parameter.Name}.exp_avg_sq", parameter.Value.KnownShape, StateOrigin.Zeros)
            );
            string[] scalars =
            [
                "learning_rate",
                "weight_decay",
                "beta1",
                "beta2",
                "step_size",
                "second_moment_scale",
                "epsilon",
            ];
            Call(
                "AdamWUpdate",
                [theta, m, v, gradient, .. scalars.Select(s => Scalar(s).V)],
                flags,
                [theta, m, v],
                inner => AdamW(inner, parameter, theta, m, v, gradient)
            );
            return;
        }

        var buffer = Buffer(parameter);
        Call(
            "MomentumUpdate",
            [theta, buffer, gradient, .. Coefficients],
            flags,
            [theta, buffer],
            inner => Momentum(inner, parameter, theta, buffer, gradient, sum => sum)
        );
    }

    /// <summary>Emits a call whose outputs replace state.</summary>
    private void Call(
        string opType,
        IReadOnlyList<Value> inputs,
        ReadOnlySpan<Attr> attributes,
        IReadOnlyList<Term> olds,
        Func<GraphBuilder, Value[]> body
    )
    {
        var results = FunctionCall.Append(_b, opType, inputs, attributes, body);
        for (var i = 0; i < results.Length; i++)
        {
            Output(olds[i], new(_b, results[i]));
        }
    }

    private bool Decays(Parameter parameter) => Decays(parameter, _noDecay);

    private Attr[] Flags => [Int("decoupled", Decoupled), Int("nesterov", _options.Nesterov)];

    private Value[] Coefficients => [Scalar("learning_rate"), Scalar("momentum"), Scalar("weight_decay")];

    private Term Theta(Parameter parameter) =>
        new(_b, _b.Input(parameter.Name, ElementType.Float, parameter.Value.KnownShape));

    private Term Buffer(Parameter parameter) =>
        State($"{parameter.Name}.momentum", parameter.Value.KnownShape, StateOrigin.Zeros);

    /// <summary>
    /// d: the gradient, and coupled weight decay; and the parameter, smaller by decoupled weight decay.
    /// </summary>
    private (Term D, Term Kept) Decayed(GraphBuilder b, Parameter parameter, Term theta, Term gradient)
    {
        Term In(Value value) => new(b, value);
        var (kept, d, decay) = (In(theta), In(gradient), In(Scalar("weight_decay")));
        return !Decays(parameter) ? (d, kept)
            : Decoupled ? (d, kept * (1 - (In(Scalar("learning_rate")) * decay)))
            : (d + (decay * kept), kept);
    }

    /// <summary>v' = mu v + d, theta' = theta - lr v', or Nesterov's theta' = theta - lr (d + mu v').</summary>
    /// <param name="b">Where to emit.</param>
    /// <param name="parameter">The parameter.</param>
    /// <param name="theta">The parameter's value.</param>
    /// <param name="buffer">v.</param>
    /// <param name="gradient">The gradient.</param>
    /// <param name="precondition">Takes mu v + d and takes off it what MAC takes off the gradient.</param>
    private Value[] Momentum(
        GraphBuilder b,
        Parameter parameter,
        Term theta,
        Term buffer,
        Term gradient,
        Func<Term, Term> precondition
    )
    {
        // The subtraction comes last: it is then the only pass over the matrix that MAC adds to SGD.
        var (lr, momentum) = (new Term(b, Scalar("learning_rate")), new Term(b, Scalar("momentum")));
        var (d, kept) = Decayed(b, parameter, theta, gradient);
        var old = momentum * new Term(b, buffer);
        var next = precondition(old + d);
        return [kept - (lr * (_options.Nesterov ? (next - old) + (momentum * next) : next)), next];
    }

    private Value[] AdamW(GraphBuilder b, Parameter parameter, Term theta, Term m, Term v, Term gradient)
    {
        Term In(string scalar) => new(b, Scalar(scalar));
        var (beta1, beta2) = (In("beta1"), In("beta2"));
        var (d, kept) = Decayed(b, parameter, theta, gradient);
        var first = (beta1 * new Term(b, m)) + ((1 - beta1) * d);
        var second = (beta2 * new Term(b, v)) + ((1 - beta2) * (d * d));
        return
        [
            kept - (In("step_size") * (first / ((second.Sqrt() * In("second_moment_scale")) + In("epsilon")))),
            first,
            second,
        ];
    }

    /// <summary>
    /// running = momentum running + (1 - momentum) batch, as ONNX defines it (the population variance).
    /// </summary>
    private void Advance(Value running, IEnumerable<(Value Batch, float Momentum)> uses)
    {
        (_b.Origin, _b.Prefix) = ($"running statistic {running.Name}", $"{running.Name}/");
        var old = new Term(_b, _b.Input(running.Name, ElementType.Float, running.KnownShape));
        Output(
            old,
            uses.Aggregate(
                old,
                (value, use) =>
                    (value * use.Momentum)
                    + (
                        new Term(_b, _b.Input(use.Batch.Name, ElementType.Float, running.KnownShape))
                        * (1 - (double)use.Momentum)
                    )
            )
        );
    }

    private void Output(Term old, Term value)
    {
        (value.V.Type, value.V.Shape) = (old.V.Type, old.V.Shape);
        _b.Graph.Outputs.Add(
            _b.Graph.Outputs.Contains(value.V)
                ? _b.Named(value, TrainingNames.New(old.V.Name))
                : Renamed(value, TrainingNames.New(old.V.Name))
        );
    }

    private Value Renamed(Term value, string name)
    {
        _b.Graph.Rename(value, name);
        return value;
    }
}
