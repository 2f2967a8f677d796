using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>
/// The gradients that a training graph computes itself. Its backward nodes are set aside while passes work on the
/// forward part, then put back, and ONNX Runtime's gradient operators among them replaced.
/// </summary>
/// <param name="model">The whole training graph: the forward outputs, then the gradients.</param>
/// <param name="gradients">The gradient's value for each parameter that has one, by names.</param>
/// <param name="seeds">For forward outputs the values that the backward part reads as their gradients, by names: inputs
/// or constants.</param>
/// <param name="path">The file, for messages.</param>
internal sealed class FileGradients(
    Import.Proto.ModelProto model,
    IReadOnlyDictionary<string, string> gradients,
    IReadOnlyDictionary<string, string> seeds,
    string path
) : GradientSource
{
    private readonly List<Node> _backward = [];
    private readonly Dictionary<string, Value> _values = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Value> _seeds = new(StringComparer.Ordinal);

    /// <inheritdoc/>
    public override bool TakesSeed => seeds.Count > 0;

    /// <inheritdoc/>
    /// <remarks>Forward values that the backward part reads are outputs of the graph, which passes keep.</remarks>
    public override Graph Import(RewriteContext c)
    {
        var graph = GraphImporter.Import(model, path);
        var names = gradients.Values.ToHashSet(StringComparer.Ordinal);
        foreach (var value in graph.Nodes.SelectMany(n => n.Outputs).Where(o => names.Contains(o.Name)))
        {
            (_values[value.Name], value.Declared) = (value, null);
        }

        foreach (var seed in graph.Inputs.Concat(graph.Constants()).Where(v => seeds.Values.Contains(v.Name)))
        {
            _seeds[seed.Name] = seed;
        }

        graph.Inputs.RemoveAll(_seeds.ContainsValue);
        var outputs = graph.Outputs.Where(o => !names.Contains(o.Name)).ToArray();
        graph.Outputs.Clear();
        graph.Outputs.AddRange(outputs);
        var forward = Needed(graph, outputs);
        var backward = Needed(graph, _values.Values).Where(n => !forward.Contains(n)).ToHashSet();
        foreach (var node in graph.Nodes.Where(n => !forward.Contains(n)))
        {
            graph.Remove(node);
            if (backward.Contains(node))
            {
                _backward.Add(node);
            }
        }

        graph.Outputs.AddRange(
            _backward.SelectMany(n => n.Inputs).OfType<Value>().Where(v => v.Producer is not null).Distinct()
        );
        return graph;
    }

    public override IReadOnlyDictionary<Value, Value> Append(RewriteContext c, Value seed, IReadOnlyList<Value> wanted)
    {
        var graph = c.Training;
        var starts = Starts(graph, c.Loss.Source, seed);
        _backward.ForEach(graph.Add);
        foreach (var (start, gradient) in starts)
        {
            start.ReplaceAllUses(gradient);
        }

        var found = new Dictionary<Value, Value>();
        foreach (var parameter in c.Plan.Trained)
        {
            found[c.ParameterInputs[parameter]] =
                gradients.TryGetValue(parameter.Name, out var name) && _values.TryGetValue(name, out var gradient)
                    ? gradient
                    : throw new MacOnnxException(
                        "MAC0804",
                        parameter.Name,
                        "The training graph does not compute this parameter's gradient.",
                        "Leave it frozen, or have the gradients computed anew: RewriteOptions.RebuildsBackward."
                    );
        }

        foreach (var output in OutputsWithGradients(c).Where(o => !found.ContainsKey(o)))
        {
            found[output] = seeds.ContainsKey(output.Name) ? seed : GradientOf(output);
        }

        var products = new WeightGradients(_backward.ToHashSet(), starts.Select(s => s.Gradient).ToHashSet());
        c.Differences =
        [
            .. products.Differences(
                c.Plan.Blocks.Select(b => b.Layer),
                p => found.GetValueOrDefault(c.ParameterInputs[p])
            ),
        ];

        // What nobody reads yet would be dropped.
        graph.Outputs.AddRange(new[] { c.Loss.Value, c.Loss.Count }.OfType<Value>());
        var first = graph.Outputs.Count;
        graph.Outputs.AddRange(found.Values);
        ShapeInference.Apply(graph, path, standIns: GradientOperators.StandIns);
        var builder = new GraphBuilder(graph);
        foreach (var node in graph.Nodes.Where(n => GradientOperators.Find(n) is not null))
        {
            builder.Before = node;
            builder.Origin = $"import {node}";
            builder.Prefix = $"backward/{(node.Name.Length > 0 ? node.Name : node.Outputs[0].Name).TrimStart('/')}/";
            var results = GradientOperators.Find(node)!.Emit(new(builder, node));
            foreach (var (output, result) in node.Outputs.Zip(results))
            {
                if (result is { } term)
                {
                    (term.V.Type, term.V.Shape) = (output.Type, output.Shape);
                    output.ReplaceAllUses(term);
                }
            }

            graph.Remove(node);
        }

        foreach (var (index, input) in found.Keys.ToArray().Index())
        {
            builder = new GraphBuilder(graph) { Origin = "gradient", Prefix = $"{input.Name}/" };
            var gradient = new Term(builder, graph.Outputs[first + index]);
            found[input] = gradient.Cast(input.Type);
            found[input].Shape = gradient.V.Shape;
        }

        return found;
    }

    /// <summary>Gives what the backward part starts from: the gradient of the loss, and zero for other
    /// outputs.</summary>
    private List<(Value Start, Value Gradient)> Starts(Graph graph, Value source, Value seed)
    {
        if (seeds.Count > 0 && !seeds.ContainsKey(source.Name))
        {
            throw new MacOnnxException(
                "MAC0804",
                path,
                $"The backward part takes no gradient of '{source.Name}'.",
                $"RewriteOptions.LossInput takes one of: {string.Join(", ", seeds.Keys)}."
            );
        }

        var b = new GraphBuilder(graph) { Origin = "backward seed", Prefix = "backward/" };
        return
        [
            .. seeds.Select(s =>
                (
                    _seeds[s.Value],
                    s.Key == source.Name ? seed : new Term(b, graph.Outputs.First(o => o.Name == s.Key)).Zeros().V
                )
            ),
        ];
    }

    /// <summary>Gives the outputs of layers whose curvature is made of their gradients.</summary>
    private static IEnumerable<Value> OutputsWithGradients(RewriteContext c) =>
        c
            .Plan.Blocks.Where(b => b.Statistics.Any(s => s.Degree > 0))
            .SelectMany(b => b.Layer.Outputs)
            .Select(o => o.Value)
            .Distinct();

    private Value GradientOf(Value value) =>
        _backward.SelectMany(n => n.Outputs).FirstOrDefault(o => o.Name == value.Name + TrainingGraph.GradientSuffix)
        ?? throw new MacOnnxException(
            "MAC0804",
            path,
            $"The graph has no gradient of '{value.Name}', which the optimizer needs.",
            "Choose another optimizer, or have the gradients computed anew: RewriteOptions.RebuildsBackward."
        );

    /// <summary>Gives the nodes that some values are computed by.</summary>
    private static HashSet<Node> Needed(Graph graph, IEnumerable<Value> values)
    {
        var (live, needed) = (values.ToHashSet(), new HashSet<Node>());
        foreach (var node in graph.Nodes.Reverse())
        {
            if (node.Outputs.Any(live.Contains))
            {
                needed.Add(node);
                live.UnionWith(node.Reads);
            }
        }

        return needed;
    }
}
