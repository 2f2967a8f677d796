using System.Collections.Immutable;
using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>Builds the optimizer graph: gradients, parameters and state in; new parameters and state out.</summary>
/// <remarks>
/// Every update is one call of an operator that the model defines: the rule's, or one that fuses a correction into it,
/// such as MacMomentumUpdate.
/// </remarks>
internal sealed class UpdateGraph
{
    private readonly BoundGraph _g;
    private readonly (UpdateRule Hidden, UpdateRule Other) _rules;
    private readonly HashSet<Parameter> _hidden;
    private readonly Regex? _noDecay;
    private readonly ParameterGroups _groups;
    private readonly Dictionary<string, Term> _updated = new(StringComparer.Ordinal);
    private readonly IReadOnlyDictionary<Parameter, string> _gradients;
    private readonly Dictionary<Parameter, string[]> _states = [];

    private UpdateGraph(
        Plan plan,
        BufferTable buffers,
        RewriteOptions options,
        KeptOptimizer? kept,
        IReadOnlyDictionary<Parameter, string> gradients
    )
    {
        (_g, _gradients) = (BoundGraph.New(PackageFiles.Optimizer, buffers), gradients);
        (_rules, _hidden) = (kept is null ? UpdateRule.Of(options) : (kept.Rule, kept.Rule), [.. plan.HiddenMatrices]);
        _noDecay = ParameterFinder.Pattern(options.NoDecay, "RewriteOptions.NoDecay");
        _groups = new(options, plan, kept);
    }

    /// <summary>Builds the graph.</summary>
    /// <param name="plan">What trains, and the curvature blocks.</param>
    /// <param name="gradients">The buffer of each trained parameter's gradient.</param>
    /// <param name="running">The running statistics that a step advances.</param>
    /// <param name="options">The update rule, clipping and weight decay.</param>
    /// <param name="buffers">Receives the optimizer's state.</param>
    /// <param name="kept">The optimizer that is kept from a file; null for that of the options.</param>
    /// <returns>The graph, and the average of the weights where one is kept.</returns>
    public static (BoundGraph Graph, WeightAverage? Average) Build(
        Plan plan,
        IReadOnlyDictionary<Parameter, string> gradients,
        IEnumerable<RunningStatistic> running,
        RewriteOptions options,
        BufferTable buffers,
        KeptOptimizer? kept = null
    )
    {
        var update = new UpdateGraph(plan, buffers, options, kept, gradients);
        var (layers, plain) = (plan.Blocks, plan.Trained.ToHashSet());
        plain.ExceptWith(layers.SelectMany(b => new[] { b.Layer.Weight, b.Layer.Bias }).OfType<Parameter>());
        var gradient = update.Gradients(options.ClipsGradients);
        foreach (var parameter in plan.Trained.Where(plain.Contains))
        {
            update.Step(parameter, gradient(parameter));
        }

        foreach (var block in layers)
        {
            update.Step(block, gradient(block.Layer.Weight), block.Layer.Bias is { } b ? gradient(b) : null);
        }

        foreach (var uses in running.GroupBy(s => s.Buffer))
        {
            RunningStatistic.Advance(update._g, uses.Key, uses);
        }

        var average = options.AveragesWeights ? update.Average(plan.Trained) : null;
        update._g.Finish();
        update._g.Prune();
        return (update._g, average);
    }

    /// <summary>Gives the gradients, scaled down to the largest norm where that is asked for.</summary>
    private Func<Parameter, Term> Gradients(bool clips)
    {
        if (!clips)
        {
            return p => _g.Read(_gradients[p]);
        }

        _g.B.Origin = "clip";
        var norm = GradientNorm.Append(_g.B, _gradients.Values.Select(_g.Read));
        var limit = _g.Scalar("max_gradient_norm");
        var scale = (limit / (norm + 1e-6)).Op("Min", limit.Scalar(1));
        return p => _g.Read(_gradients[p]) * scale;
    }

    /// <summary>Emits the update of a layer's weight and bias.</summary>
    private void Step(CurvatureBlock block, Term weight, Term? bias)
    {
        var layer = block.Layer;
        SetOrigin($"{block.Name.ToLowerInvariant()} {layer.Node}", layer.Weight);
        if ((layer.Bias is null || HaveSameRule(layer.Weight, layer.Bias)) && block.Correction(_g) is { } correction)
        {
            Fused(layer, correction, weight, bias);
            return;
        }

        var (g, db) = block.Precondition(_g, weight, bias);
        Step(layer.Weight, g);
        if (layer.Bias is { } parameter)
        {
            Step(parameter, db!.Value);
        }
    }

    /// <summary>Emits one call that corrects the gradients of weight and bias and updates both.</summary>
    private void Fused(Layer layer, Correction correction, Term weight, Term? bias)
    {
        var (rule, w) = (RuleOf(layer.Weight), Parts(layer.Weight));
        var scalars = Scalars(rule, layer.Weight);
        var b = layer.Bias is { } parameter ? Parts(parameter) : default;
        List<Value> inputs = [.. w, weight, .. scalars.Values.Select(s => s.V), .. correction.Inputs];
        inputs.AddRange(bias is { } db ? [.. b!, db.V] : []);
        Attr[] attributes =
        [
            .. rule.Attributes,
            Int("decays", Decays(layer.Weight)),
            Int("bias_decays", layer.Bias is { } p && Decays(p)),
            .. correction.Attributes,
        ];
        Call(
            correction.OpPrefix + rule.OpType + (bias is null ? "" : "WithBias"),
            inputs,
            attributes,
            layer.Bias is { } own ? [.. BuffersOf(layer.Weight), .. BuffersOf(own)] : BuffersOf(layer.Weight),
            inner =>
            {
                Value? added = null;
                var results = rule.Emit(
                    StepOf(inner, w, weight, layer.Weight, scalars),
                    sum =>
                    {
                        (var next, added) = correction.Add(inner, sum, weight, bias?.V);
                        return new(inner, next);
                    }
                );
                return layer.Bias is null
                    ? results
                    :
                    [
                        .. results,
                        .. rule.Emit(
                            StepOf(inner, b!, bias!.Value, layer.Bias, scalars),
                            sum => sum + new Term(inner, added!)
                        ),
                    ];
            }
        );
    }

    /// <summary>Emits the update of one parameter by its gradient.</summary>
    private void Step(Parameter parameter, Term gradient)
    {
        SetOrigin($"update {parameter.Name}", parameter);
        var (rule, parts) = (RuleOf(parameter), Parts(parameter));
        var scalars = Scalars(rule, parameter);
        Call(
            rule.OpType,
            [.. parts, gradient.V, .. scalars.Values.Select(s => s.V)],
            [.. rule.Attributes, Int("decays", Decays(parameter))],
            BuffersOf(parameter),
            inner => rule.Emit(StepOf(inner, parts, gradient, parameter, scalars), sum => sum)
        );
    }

    private void SetOrigin(string origin, Parameter parameter) =>
        (_g.B.Origin, _g.B.Prefix) = (origin, $"{parameter.Name}/");

    /// <summary>Emits a call whose outputs replace buffers.</summary>
    private void Call(
        string opType,
        IReadOnlyList<Value> inputs,
        ReadOnlySpan<Attr> attributes,
        string[] buffers,
        Func<GraphBuilder, Value[]> body
    )
    {
        var results = FunctionCall.Append(_g.B, opType, inputs, attributes, body);
        foreach (var (buffer, result) in buffers.Zip(results))
        {
            _g.Write(buffer, _updated[buffer] = new(_g.B, result));
        }
    }

    /// <summary>
    /// Emits the moving average of the new weights: e' = d e + (1 - d) theta' and w' = d w + (1 - d). The average is
    /// e / w, which the first weights do not bias.
    /// </summary>
    private WeightAverage Average(IEnumerable<Parameter> parameters)
    {
        (_g.B.Origin, _g.B.Prefix) = ("weight average", "ema/");
        var (keep, gain) = (_g.Scalar("ema"), _g.Scalar("ema_gain", "1 - ema"));
        var weight = _g.Buffers.Add("ema.weight", BufferRole.State, ElementType.Float, []);
        _g.Write(weight, (keep * _g.Read(weight)) + gain);
        var averages = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var parameter in parameters)
        {
            var stem = $"{parameter.Name}.ema";
            var dims = parameter.Dims.AsSpan();
            var buffer = averages[parameter.Name] = _g.Buffers.Add(stem, BufferRole.State, ElementType.Float, dims);
            _g.Write(buffer, (keep * _g.Read(buffer)) + (gain * _updated[parameter.Name]));
        }

        return new(weight, averages.ToImmutableSortedDictionary(StringComparer.Ordinal));
    }

    private UpdateStep StepOf(
        GraphBuilder b,
        Value[] parts,
        Term gradient,
        Parameter parameter,
        OrderedDictionary<string, Term> scalars
    )
    {
        Term In(Value value) => new(b, value);
        return new(
            In(parts[0]),
            [.. parts.Skip(1).Select(In)],
            In(gradient),
            Decays(parameter),
            name => In(scalars[name])
        );
    }

    /// <summary>Gives the inputs for a parameter and its state.</summary>
    private Value[] Parts(Parameter parameter) => [.. BuffersOf(parameter).Select(b => _g.Read(b).V)];

    private string[] BuffersOf(Parameter parameter)
    {
        if (!_states.TryGetValue(parameter, out var buffers))
        {
            string State(string suffix) =>
                _g.Buffers.Add(
                    $"{parameter.Name}.{suffix}",
                    BufferRole.State,
                    ElementType.Float,
                    parameter.Dims.AsSpan()
                );
            _states[parameter] = buffers = [parameter.Name, .. RuleOf(parameter).States.Select(State)];
        }

        return buffers;
    }

    private UpdateRule RuleOf(Parameter parameter) => _hidden.Contains(parameter) ? _rules.Hidden : _rules.Other;

    /// <summary>Whether two parameters follow from their gradients by the same rule and the same scalars.</summary>
    private bool HaveSameRule(Parameter a, Parameter b) =>
        RuleOf(a) == RuleOf(b)
        && RuleOf(a).Scalars.All(s => _groups.Formula(a, s.Formula) == _groups.Formula(b, s.Formula));

    private OrderedDictionary<string, Term> Scalars(UpdateRule rule, Parameter parameter) =>
        new(
            rule.Scalars.Select(s =>
                KeyValuePair.Create(s.Name, _g.Scalar(s.Name, _groups.Formula(parameter, s.Formula)))
            )
        );

    private bool Decays(Parameter parameter) =>
        _noDecay is null ? RuleOf(parameter).DecaysAll || parameter.DecaysByDefault : !_noDecay.IsMatch(parameter.Name);
}
