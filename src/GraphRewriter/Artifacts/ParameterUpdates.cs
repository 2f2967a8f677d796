using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>
/// An update of a parameter that a graph holds: by a node of an optimizer, or open-coded. Names are null where the
/// graph has none, as where a whole sequence is an input.
/// </summary>
/// <param name="Node">The optimizer's node; of an open-coded update its last one.</param>
/// <param name="Index">The parameter's place among those of the node.</param>
internal sealed record ParameterUpdate(NodeProto Node, int Index)
{
    /// <summary>Gets the parameter.</summary>
    public string? Weight { get; init; }

    /// <summary>Gets its gradient, before clipping.</summary>
    public string? Gradient { get; init; }

    /// <summary>Gets the optimizer's state, first moment first.</summary>
    public IReadOnlyList<string?> Moments { get; init; } = [];

    /// <summary>Gets the copy of less precision that the forward part reads.</summary>
    public string? Copy { get; init; }

    /// <summary>Gets the learning rate.</summary>
    public string? Rate { get; init; }

    /// <summary>Gets the count of updates.</summary>
    public string? Step { get; init; }

    /// <summary>Gets what gradients are divided by.</summary>
    public string? LossScale { get; init; }

    /// <summary>Gets the norm of all gradients, which then are clipped.</summary>
    public string? Norm { get; init; }

    /// <summary>Gets whether standard operators spell it: w - rate g.</summary>
    public bool IsOpenCoded => Node.OpType is "Sub" or "Add";
}

/// <summary>Finds updates of parameters in graphs: optimizer graphs, and graphs of forward, backward and
/// update.</summary>
/// <remarks>
/// Inputs are those of the schemas of ONNX Runtime 1.19 and, for LambOptimizer, of its kernel: update signal, loss
/// scale, gradient norm, rate, step, then five of each parameter.
/// </remarks>
internal static class ParameterUpdates
{
    private static readonly string[] Operators =
    [
        "AdamWOptimizer",
        "AdamOptimizer",
        "SGDOptimizerV2",
        "SGDOptimizer",
        "LambOptimizer",
    ];

    /// <summary>Whether a node updates parameters.</summary>
    public static bool IsOptimizer(NodeProto node) =>
        node.Domain is "com.microsoft" or "" && Operators.Contains(node.OpType);

    /// <summary>Gives the updates: those of optimizer nodes or, where there is none, open-coded ones.</summary>
    public static ParameterUpdate[] Find(GraphProto graph)
    {
        var producers = Producers(graph);
        ParameterUpdate[] updates = [.. graph.Node.Where(IsOptimizer).SelectMany(n => Of(n, producers))];
        return updates.Length > 0 ? updates : [.. OpenCoded(graph, producers)];
    }

    /// <summary>Gives the node that computes each value.</summary>
    public static Dictionary<string, NodeProto> Producers(GraphProto graph) =>
        graph
            .Node.SelectMany(n => n.Output.Where(o => o.Length > 0).Select(o => (o, n)))
            .DistinctBy(p => p.o)
            .ToDictionary(p => p.o, p => p.n, StringComparer.Ordinal);

    private static IEnumerable<ParameterUpdate> Of(NodeProto node, Dictionary<string, NodeProto> producers)
    {
        switch (node.OpType)
        {
            case "AdamWOptimizer":
                return Sequences(2, 3, [4, 5], step: 1);
            case "SGDOptimizerV2":
                return Sequences(1, 2, [], step: null);
            case "AdamOptimizer":
                return [Single(0, 2, [4, 5]) with { Step = In(1), Copy = In(6), LossScale = In(7), Norm = In(8) }];
            case "SGDOptimizer":
                return [Single(0, 1, [])];
            default:
                return Enumerable
                    .Range(0, Math.Max(0, (node.Input.Count - 1) / 5))
                    .Select(i => new ParameterUpdate(node, i)
                    {
                        LossScale = In(1),
                        Norm = In(2),
                        Rate = In(3),
                        Step = In(4),
                        Weight = In(5 + (5 * i)),
                        Gradient = In(6 + (5 * i)),
                        Moments = [In(7 + (5 * i)), In(8 + (5 * i))],
                        Copy = In(9 + (5 * i)),
                    });
        }

        string? In(int index) => index < node.Input.Count && node.Input[index].Length > 0 ? node.Input[index] : null;

        ParameterUpdate Single(int rate, int weight, int[] moments) =>
            new(node, 0)
            {
                Rate = In(rate),
                Weight = In(weight),
                Gradient = In(weight + 1),
                Moments = [.. moments.Select(In)],
            };

        IEnumerable<ParameterUpdate> Sequences(int weights, int gradients, int[] moments, int? step)
        {
            var (w, g) = (Elements(In(weights)), Elements(In(gradients)));
            var states = moments.Select(m => Elements(In(m))).ToArray();
            return Enumerable
                .Range(0, w?.Count ?? 1)
                .Select(i => new ParameterUpdate(node, i)
                {
                    Rate = In(0),
                    Step = step is { } s ? In(s) : null,
                    Weight = w?[i],
                    Gradient = g?.ElementAtOrDefault(i),
                    Moments = [.. states.Select(s => s?.ElementAtOrDefault(i))],
                });
        }

        IReadOnlyList<string>? Elements(string? sequence)
        {
            for (var n = 0; n < 2; n++)
            {
                switch (sequence is null ? null : producers.GetValueOrDefault(sequence))
                {
                    case { OpType: "SequenceConstruct" } list:
                        return list.Input;
                    case { OpType: "InplaceClipGradNorm", Input.Count: > 0 } clip:
                        sequence = clip.Input[0];
                        break;
                    default:
                        return null;
                }
            }

            return null;
        }
    }

    /// <summary>
    /// Finds outputs w - rate g, or w + rate g with a negative constant rate, of an initializer w that the graph reads
    /// elsewhere too, beside an output of one number.
    /// </summary>
    private static IEnumerable<ParameterUpdate> OpenCoded(GraphProto graph, Dictionary<string, NodeProto> producers)
    {
        if (!graph.Output.Any(IsNumber))
        {
            return [];
        }

        var initializers = graph.Initializer.ToDictionary(i => i.Name, StringComparer.Ordinal);
        var inputs = graph.Input.ToDictionary(i => i.Name, StringComparer.Ordinal);
        var readers = graph.Node.SelectMany(n => n.Input.Distinct().Select(i => (i, n))).ToLookup(r => r.i, r => r.n);
        return graph
            .Output.Select(o => producers.GetValueOrDefault(o.Name))
            .Where(n => n is { OpType: "Sub" or "Add", Domain: "" or "ai.onnx", Input.Count: 2 })
            .Select(n => Match(n!))
            .OfType<ParameterUpdate>();

        ParameterUpdate? Match(NodeProto node)
        {
            var weight = node.Input[0];
            if (
                !initializers.TryGetValue(weight, out var w)
                || w.Dims.Count == 0
                || readers[weight].Count() < 2
                || producers.GetValueOrDefault(node.Input[1]) is not { OpType: "Mul", Input.Count: 2 } product
            )
            {
                return null;
            }

            var rate = product.Input.FirstOrDefault(IsRate);
            return rate is null || (node.OpType == "Add" && NumberOf(graph, rate) is not < 0)
                ? null
                : new(node, 0)
                {
                    Weight = weight,
                    Rate = rate,
                    Gradient = product.Input.First(i => i != rate),
                };
        }

        bool IsRate(string name) =>
            initializers.TryGetValue(name, out var tensor) ? tensor.Dims.All(d => d == 1)
            : inputs.TryGetValue(name, out var input) ? IsNumber(input)
            : NumberOf(graph, name) is not null;
    }

    /// <summary>Whether a value is declared as one number.</summary>
    public static bool IsNumber(ValueInfoProto value) =>
        value.Type?.TensorType?.Shape is { } shape && shape.Dim.All(d => d.HasDimValue && d.DimValue == 1);

    /// <summary>Gives the number that an initializer or Constant node holds; null for none.</summary>
    public static double? NumberOf(GraphProto graph, string? name)
    {
        return TensorOf(graph, name) switch
        {
            { ElementCount: 1, Type: ElementType.Int64 or ElementType.Int32 } integer => integer.ToInt64()[0],
            { ElementCount: 1 } number when number.Type.IsFloatingPoint() => number.ToDouble()[0],
            _ => null,
        };
    }

    /// <summary>Gives the tensor that an initializer or Constant node holds; null for none.</summary>
    public static Tensor? TensorOf(GraphProto graph, string? name) =>
        graph.Initializer.FirstOrDefault(i => i.Name == name) is { } initializer ? TensorFormat.FromProto(initializer)
        : graph.Node.FirstOrDefault(n => n.OpType == "Constant" && n.Output.Contains(name)) is { } constant
            ? GraphImporter.ConstantOf(constant)
        : null;
}
