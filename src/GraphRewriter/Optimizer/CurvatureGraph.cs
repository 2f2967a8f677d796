using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// Builds the curvature graph, run only in steps that update MAC's running means or refresh its preconditioner.
/// </summary>
/// <remarks>
/// e is the running mean, p the bias-corrected mean in use: e' = keep e + gain m, p' = keep p + gain e'. The runtime
/// gives keep and
/// gain: (g, 1-g) or (1, 0) for e; (0, 1/(1-g^n)) or (1, 0) for p. It also keeps -1/(rho + |p|^2), so a change of rho
/// needs a run too.
/// </remarks>
internal static class CurvatureGraph
{
    public static Graph Build(IReadOnlyList<Layer> layers, RewriteOptions options, List<StateTensor> states)
    {
        var b = new GraphBuilder(new Graph { Name = "curvature" });
        b.Graph.Opsets[""] = Import.OpsetUpgrade.Target;
        Term Scalar(string name) => new(b, b.Input(name, ElementType.Float, Shape.Scalar));
        var damping = Scalar("damping");
        var (meanKeep, meanGain, refreshKeep, refreshGain) = (
            Scalar("mean_keep"),
            Scalar("mean_gain"),
            Scalar("refresh_keep"),
            Scalar("refresh_gain")
        );
        foreach (var layer in layers)
        {
            (b.Origin, b.Prefix) = ($"curvature {layer.Node}", $"{layer.Weight.Name}/");
            var shape = ShapeOf(layer, options.Depthwise);
            var mean = Statistics.Means(b, layer, options.Depthwise);
            var running = State(TrainingNames.RunningMean(layer), shape);
            var inUse = State(TrainingNames.InUse(layer), shape);
            var scale = State(TrainingNames.Scale(layer), new Shape(shape[0], 1));
            var next = (meanKeep * running) + (meanGain * mean);
            var refreshed = (refreshKeep * inUse) + (refreshGain * next);
            var length = (refreshed * refreshed).Sum([1]);
            Output(running, next);
            Output(inUse, refreshed);
            Output(scale, -1 / ((layer.Bias is null ? length : length + 1) + damping));
        }

        return b.Graph;

        Term State(string name, Shape shape)
        {
            states.Add(
                new StateTensor(name, ElementType.Float, [.. shape.Dims.Select(d => d.Size)], StateOrigin.Zeros)
            );
            return new(b, b.Input(name, ElementType.Float, shape));
        }

        void Output(Term old, Term value)
        {
            b.Graph.Rename(value, TrainingNames.New(old.V.Name));
            value.V.Shape = old.V.Shape;
            b.Graph.Outputs.Add(value);
        }
    }

    /// <summary>
    /// The statistic's shape: [groups, inputs of a group], one row for pooled layers; for dense layers one row, or two
    /// where some units are attention's values.
    /// </summary>
    public static Shape ShapeOf(Layer layer, DepthwiseMode depthwise) =>
        Shape.Of(Statistics.IsPooled(layer, depthwise) ? 1 : layer.Vectors, layer.In);

    /// <summary>Adds to a graph the inputs p and -1/(rho + |p|^2) of a layer.</summary>
    public static (Term P, Term Scale) Inputs(GraphBuilder b, Layer layer, DepthwiseMode depthwise)
    {
        var shape = ShapeOf(layer, depthwise);
        return (
            new(b, b.Input(TrainingNames.InUse(layer), ElementType.Float, shape)),
            new(b, b.Input(TrainingNames.Scale(layer), ElementType.Float, new Shape(shape[0], 1)))
        );
    }
}
