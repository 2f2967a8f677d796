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
            var gradient = update.Scaled(gradients[layer.Weight]);
            Term? biasGradient = layer.Bias is { } given ? update.Scaled(gradients[given]) : null;
            var (weight, bias) = update.Precondition(layer, gradient, biasGradient);
            update.Step(layer.Weight, gradient, sum => update.Minus(sum, weight, layer.Weight.Value.KnownShape));
            if (layer.Bias is { } parameter)
            {
                update.Step(parameter, biasGradient!.Value, sum => sum - bias!.Value);
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

    /// <summary>
    /// MAC's step is G' = G - c p^T with c = G p / (rho + |p|^2), G = [dW | db] and p with a final 1 where there is a bias. Gives what is
    /// subtracted: c p^T from the weight's gradient, c from the bias's.
    /// </summary>
    private (Outer Weight, Term? Bias) Precondition(Layer layer, Term weight, Term? bias)
    {
        var (p, square) = CurvatureGraph.Inputs(_b, layer, _options.Depthwise);
        var denominator = square + Scalar("damping");
        if (layer is { Groups: 1, OutputFirst: false })
        {
            var product = p.Op("MatMul", weight);
            var row = (bias is { } b ? Plus(product, As(b, 1, layer.Out)) : product) / denominator;
            return (new Outer(p, row, true, []), bias is null ? null : row.ReshapeTo(layer.Bias!.Value));
        }

        // [groups, outputs of a group, inputs]; one group is a plain matrix.
        var groups = p.V.KnownShape[0].Size;
        long[] lead = layer.Groups == 1 ? [] : [layer.Groups];
        long[] rows = [.. lead, layer.Out / layer.Groups];
        long[] shared = layer.Groups == 1 ? [] : [groups];
        var dot = As(weight, [.. rows, layer.In]).Op("MatMul", As(p, [.. shared, layer.In, 1]));
        var along = bias is { } added ? Plus(dot, As(added, [.. rows, 1])) : dot;
        var c = along / (layer.Groups == 1 ? denominator : As(denominator, [.. shared, 1, 1]));
        return (new Outer(c, As(p, [.. shared, 1, layer.In]), false, [.. rows, layer.In]), bias is null ? null : c.ReshapeTo(layer.Bias!.Value));
    }

    /// <summary>Adds to a matrix-vector product. ONNX Runtime would fuse Add into a Gemm, which is three times slower for one column; it leaves Sum alone.</summary>
    private static Term Plus(Term product, Term other) => product.Op("Sum", other);

    private static Term As(Term term, params ReadOnlySpan<long> dims) =>
        term.V.Shape is { } shape && shape.SameAs(Shape.Of(dims)) ? term : term.Reshape(dims);

    /// <summary>Subtracts an outer product; one group is a Gemm, which reads and writes the matrix once.</summary>
    private Term Minus(Term term, Outer outer, Shape shape)
    {
        var matrix = outer.Rows.Length == 0 || shape.SameAs(Shape.Of(outer.Rows)) ? term : term.Reshape(outer.Rows);
        var result = outer.Rows.Length <= 2
            ? new Term(_b, _b.Op("Gemm", [outer.Left.V, outer.Right.V, matrix.V], Int("transA", outer.IsLeftTransposed ? 1 : 0), Float("alpha", -1)))
            : matrix - (outer.Left * outer.Right);
        return ReferenceEquals(matrix.V, term.V) ? result : result.Reshape([.. shape.Dims.Select(d => d.Size)]);
    }

    /// <summary>Emits the update of one parameter.</summary>
    /// <param name="parameter">The parameter.</param>
    /// <param name="gradient">Its gradient.</param>
    /// <param name="subtract">Subtracts from a sum that holds the gradient once what MAC takes off it; null for plain parameters.</param>
    private void Step(Parameter parameter, Term gradient, Func<Term, Term>? subtract = null)
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
        var next = old + d;
        next = subtract is null ? next : subtract(next);
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

    /// <summary>An outer product, [rows, 1] by [1, columns] for each group.</summary>
    /// <param name="Left">The left factor.</param>
    /// <param name="Right">The right factor.</param>
    /// <param name="IsLeftTransposed">Whether the left factor is a row.</param>
    /// <param name="Rows">The shape of the product; empty for the parameter's own.</param>
    private sealed record Outer(Term Left, Term Right, bool IsLeftTransposed, long[] Rows);
}
