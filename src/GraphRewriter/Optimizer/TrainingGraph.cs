using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>
/// Gives the training graph its inputs and outputs: parameters in; loss, gradients, their norm and statistics out.
/// </summary>
internal static class TrainingGraph
{
    /// <summary>Makes graph inputs of constants.</summary>
    /// <returns>The values with what they held.</returns>
    public static List<(Value Value, Tensor Tensor)> ConstantsToInputs(Graph graph, IEnumerable<string> names)
    {
        var wanted = names.ToHashSet(StringComparer.Ordinal);
        var moved = new List<(Value, Tensor)>();
        foreach (var value in graph.Constants().Where(v => wanted.Contains(v.Name)).ToArray())
        {
            moved.Add((value, value.Constant!));
            value.Constant = null;
            graph.Inputs.Add(value);
        }

        return moved;
    }

    /// <summary>Appends the statistics of layers; gives them in the order of <paramref name="layers"/>.</summary>
    public static List<Value> AppendStatistics(Graph graph, IReadOnlyList<Layer> layers, DepthwiseMode depthwise)
    {
        if (layers.Count == 0)
        {
            return [];
        }

        var flag = new GraphBuilder(graph).Input(TrainingNames.UpdateStatistics, ElementType.Bool, Shape.Scalar);
        return [.. Statistics.Append(graph, flag, layers, depthwise)];
    }

    /// <summary>
    /// Appends the norm of the gradients and makes outputs of the loss, the gradients, the norm and the statistics.
    /// </summary>
    public static void SetOutputs(
        Graph graph,
        Value loss,
        IReadOnlyList<Parameter> trained,
        IEnumerable<Value> statistics
    )
    {
        var builder = new GraphBuilder(graph) { Origin = "gradient norm", Prefix = "norm/" };
        var norm = builder.Named(
            GradientNorm.Append(builder, trained.Select(p => new Term(builder, p.Gradient!))),
            TrainingNames.GradientNorm
        );
        graph.Outputs.Clear();
        graph.Outputs.Add(loss);
        graph.Outputs.AddRange(trained.Select(p => p.Gradient!));
        graph.Outputs.Add(norm);
        graph.Outputs.AddRange(statistics);
    }

    /// <summary>
    /// Names the gradients, which lowering may have replaced, by <see cref="TrainingNames.Gradient"/>.
    /// </summary>
    public static void NameGradients(Graph graph, IReadOnlyList<Parameter> trained)
    {
        var builder = new GraphBuilder(graph) { Origin = "gradient" };
        var taken = new HashSet<Value>();
        for (var i = 0; i < trained.Count; i++)
        {
            var gradient = graph.Outputs[i + 1];
            var name = TrainingNames.Gradient(trained[i].Name);
            if (gradient.Producer is { Origin.Length: > 0 } && taken.Add(gradient))
            {
                graph.Rename(gradient, name);
            }
            else
            {
                gradient = builder.Named(gradient, name);
            }

            (trained[i].Gradient, graph.Outputs[i + 1]) = (gradient, gradient);
        }
    }
}
