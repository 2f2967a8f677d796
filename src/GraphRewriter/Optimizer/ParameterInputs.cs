using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>Makes graph inputs of parameters and running statistics, bound to buffers of their names.</summary>
/// <remarks>
/// A float16 or bfloat16 parameter gets a float input, the master weight, and a Cast before everything that reads it:
/// small updates are not rounded away, and the gradient of the input is float.
/// </remarks>
internal static class ParameterInputs
{
    /// <summary>Makes the inputs, and the buffers.</summary>
    /// <param name="g">The graph, of which the parameters are values.</param>
    /// <param name="parameters">The parameters.</param>
    /// <returns>The input of each.</returns>
    public static Dictionary<Parameter, Value> Make(BoundGraph g, IEnumerable<Parameter> parameters)
    {
        var inputs = new Dictionary<Parameter, Value>();
        foreach (var parameter in parameters)
        {
            var role = parameter.Treatment == Treatment.Statistic ? BufferRole.RunningStatistic : BufferRole.Parameter;
            g.Buffers.Add(parameter.Name, role, ElementType.Float, parameter.Dims.AsSpan());
            inputs[parameter] = Make(g, parameter.Value);
        }

        return inputs;
    }

    /// <summary>Makes the inputs of another graph of the same model, whose constants have the same names.</summary>
    public static void MakeByName(BoundGraph g, IEnumerable<Parameter> parameters)
    {
        var constants = g.Graph.Constants().ToDictionary(v => v.Name, StringComparer.Ordinal);
        foreach (var parameter in parameters.Where(p => constants.ContainsKey(p.Name)))
        {
            Make(g, constants[parameter.Name]);
        }
    }

    private static Value Make(BoundGraph g, Value constant)
    {
        var (graph, name) = (g.Graph, constant.Name);
        constant.Constant = null;
        if (constant.Type == ElementType.Float)
        {
            graph.Inputs.Add(constant);
            g.Bind(constant, name);
            return constant;
        }

        graph.Rename(constant, graph.FreshName($"{name}/cast"));
        var master = new Value(name, graph) { Type = ElementType.Float, Shape = constant.Shape };
        var cast = new Node("Cast", "", constant.Name, [master], [Int("to", (long)constant.Type)], [constant])
        {
            Origin = $"master weight {name}",
        };
        graph.InsertBefore(graph.Nodes[0], cast);
        graph.Inputs.Add(master);
        g.Bind(master, name);
        return master;
    }
}
