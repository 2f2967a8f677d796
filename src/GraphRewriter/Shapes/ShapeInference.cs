using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Shapes;

/// <summary>
/// Finds the type and shape of every value by asking ONNX Runtime, at two sizes of the model's dynamic dimensions.
/// </summary>
/// <remarks>
/// The engine that will run the graph is the authority on shapes: each probe is a copy of the graph, as far as shapes
/// are open, in which every value is an output, loaded (never run) with all inputs given sizes. What integer
/// arithmetic computes from shapes is evaluated by <see cref="ShapeEvaluation"/>; values equal in both probes become
/// constants.
/// </remarks>
internal static class ShapeInference
{
    /// <summary>Float constants with more elements than this are declared, not carried, in the probe models.</summary>
    private const int LargestCarried = 64;

    private const int MostRounds = 64;

    private const string RankPrefix = "rank of ";

    /// <summary>
    /// Sizes tried for dynamic dimensions: each of its own size, first small ones (position tables are short), then
    /// ones that pools and
    /// strides divide; then all of one size, since some exporters name the batch differently in every input; then the
    /// others so many
    /// times as large as the first.
    /// </summary>
    private static readonly (long First, long Second, long Step, long Times)[] Sizes =
    [
        (5, 7, 6, 1),
        (13, 17, 16, 1),
        (64, 96, 32, 1),
        (224, 256, 32, 1),
        (2, 3, 1, 1),
        (5, 7, 0, 1),
        (64, 96, 0, 1),
        (224, 256, 0, 1),
        (5, 7, 0, 2),
        (5, 7, 0, 3),
        (5, 7, 0, 4),
    ];

    /// <summary>
    /// Sets <see cref="Value.Type"/> and <see cref="Value.Shape"/> throughout and makes constants of what shapes alone
    /// determine.
    /// </summary>
    /// <param name="graph">The graph; its input declarations must name every dynamic dimension.</param>
    /// <param name="path">The model, for messages.</param>
    /// <param name="mayTrain">Says of a floating-point constant whether it may train: what is computed from such a one
    /// in floating point stays in the graph. Null where none may.</param>
    /// <param name="standIns">Gives for a node that ONNX Runtime does not know others whose outputs have its names and
    /// shapes; for any other the node itself. Null where it knows all.</param>
    public static void Apply(
        Graph graph,
        string path,
        Func<Value, bool>? mayTrain = null,
        Func<Node, IEnumerable<Node>>? standIns = null
    )
    {
        var symbols = graph
            .Inputs.SelectMany(i => i.Declared?.Dims ?? [])
            .Select(d => d.Name)
            .OfType<string>()
            .Distinct(StringComparer.Ordinal)
            .ToArray();
        OnnxRuntimeException? failure = null;
        foreach (
            var (first, second, step, times) in Sizes
                .Where(s => symbols.Length > 1 || s.Step > 0)
                .Take(symbols.Length == 0 ? 1 : int.MaxValue)
        )
        {
            var probes = new[] { first, second }
                .Select(size =>
                    symbols
                        .Select((s, i) => (s, Size: i == 0 ? size : (size * times) + (i * step)))
                        .ToDictionary(p => p.s, p => p.Size, StringComparer.Ordinal)
                )
                .Take(symbols.Length == 0 ? 1 : 2)
                .ToArray();
            try
            {
                Infer(graph, probes, mayTrain, standIns ?? (node => [node]));
                return;
            }
            catch (OnnxRuntimeException e)
            {
                failure ??= e;
            }
        }

        if (Unknown(graph, standIns) is { Count: > 0 } unknown)
        {
            throw new MacOnnxException(
                "MAC0013",
                path,
                $"ONNX Runtime does not know these operators: {string.Join(", ", unknown)}.",
                "Export the model with standard operators.",
                failure
            );
        }

        throw Refused(path, failure!);
    }

    /// <summary>Checks that ONNX Runtime loads a model file.</summary>
    /// <exception cref="MacOnnxException">It does not (MAC0010).</exception>
    public static void Check(string path, Action<SessionOptions>? configure)
    {
        try
        {
            using var options = Options(configure);
            using var session = new InferenceSession(path, options);
        }
        catch (OnnxRuntimeException e)
        {
            throw Refused(path, e);
        }
    }

    /// <summary>
    /// Says, as the end of a sentence, which output of a graph ONNX Runtime infers to have another type or shape than
    /// the graph declares; null where there is none.
    /// </summary>
    /// <param name="graph">The graph, of operators that ONNX Runtime knows.</param>
    public static string? FindFalseOutput(Graph graph)
    {
        var found = Probe(graph, [], [], node => [node], []);
        var wrong = graph.Outputs.FirstOrDefault(o =>
            found.TryGetValue(o.Name, out var inferred) && !Fits(o, inferred)
        );
        return wrong is null ? null : $"the output '{wrong.Name}' is not {wrong.Type}{wrong.Shape}, as it is declared";
    }

    private static bool Fits(Value value, Found found) =>
        found.Type == value.Type
        && (
            value.Shape is not { } shape
            || (
                found.Dims.Length == shape.Rank
                && shape.Dims.Zip(found.Dims).All(d => d.Second < 0 || !d.First.IsStatic || d.First.Size == d.Second)
            )
        );

    private static void Infer(
        Graph graph,
        Dictionary<string, long>[] probes,
        Func<Value, bool>? mayTrain,
        Func<Node, IEnumerable<Node>> standIns
    )
    {
        var evaluated = probes.Select(_ => new Dictionary<Value, Tensor>()).ToArray();
        var found = probes.Select(_ => new Dictionary<string, Found>(StringComparer.Ordinal)).ToArray();
        for (var round = 0; round < MostRounds; round++)
        {
            for (var i = 0; i < probes.Length; i++)
            {
                found[i] = Probe(graph, probes[i], evaluated[i], standIns, found[i]);
            }

            foreach (
                var value in graph.Inputs.Concat(graph.Nodes.SelectMany(n => n.Outputs)).Where(v => v.Name.Length > 0)
            )
            {
                if (found[0].TryGetValue(value.Name, out var a) && found[^1].TryGetValue(value.Name, out var b))
                {
                    value.Type = a.Type;
                    value.Shape =
                        a.Dims.Length == b.Dims.Length
                            ? new Shape([.. a.Dims.Zip(b.Dims, (x, y) => new Dim(x, y))])
                            : null;
                }
            }

            if (!ShapeEvaluation.Extend(graph, evaluated))
            {
                break;
            }
        }

        ForgetUnknownRanks(graph, probes[0], evaluated[0], standIns, found[0]);

        var trained = DependingOnTrained(graph, mayTrain);
        foreach (
            var (value, tensor) in evaluated[0]
                .Where(e => !trained.Contains(e.Key) && Same(e.Value, evaluated[^1][e.Key]))
        )
        {
            (value.Constant, value.Shape) = (tensor, Shape.Of(tensor.Dims.AsSpan()));
        }

        foreach (var node in graph.Nodes)
        {
            if (node.Outputs.All(o => o.Constant is not null))
            {
                graph.Remove(node);
                continue;
            }

            for (var i = 0; i < node.Outputs.Count; i++)
            {
                if (node.Outputs[i] is { Constant: not null } constant)
                {
                    node.SetOutput(i, graph.AddValue(graph.FreshName(constant.Name)));
                }
            }
        }

        graph.Prune();
        SubgraphShapes.Apply(graph);
    }

    /// <summary>Finds the floating-point values on the way from what may train: a constant of them could not.</summary>
    private static HashSet<Value> DependingOnTrained(Graph graph, Func<Value, bool>? mayTrain)
    {
        var depending = new HashSet<Value>();
        if (mayTrain is not null)
        {
            depending.UnionWith(graph.Constants().Where(v => v.Type.IsFloatingPoint() && mayTrain(v)));
            foreach (var node in graph.Nodes.Where(n => n.Reads.Any(depending.Contains)))
            {
                depending.UnionWith(node.Outputs.Where(o => o.Type.IsFloatingPoint()));
            }
        }

        return depending;
    }

    /// <summary>
    /// A value whose rank is not known looks like a scalar. The shape that a Shape of it would have tells them apart.
    /// </summary>
    private static void ForgetUnknownRanks(
        Graph graph,
        Dictionary<string, long> sizes,
        Dictionary<Value, Tensor> evaluated,
        Func<Node, IEnumerable<Node>> standIns,
        Dictionary<string, Found> before
    )
    {
        var scalars = graph
            .Nodes.SelectMany(n => n.Outputs)
            .Where(v => v.Shape is { Rank: 0 } && v.Type.IsFloatingPoint() && !evaluated.ContainsKey(v))
            .ToArray();
        if (scalars.Length > 0)
        {
            var found = Probe(graph, sizes, evaluated, standIns, before, scalars);
            foreach (var value in scalars.Where(v => found[RankPrefix + v.Name].Dims is not [0]))
            {
                value.Shape = null;
            }
        }
    }

    private static bool Same(Tensor a, Tensor b) =>
        a.Dims.SequenceEqual(b.Dims) && a.Data.Span.SequenceEqual(b.Data.Span);

    /// <summary>
    /// Loads a copy of the graph, as far as its shapes are not known yet, and reads what ONNX Runtime inferred.
    /// </summary>
    /// <param name="graph">The graph.</param>
    /// <param name="sizes">The sizes of dynamic dimensions; those without one stay open.</param>
    /// <param name="evaluated">The values that shapes determine.</param>
    /// <param name="standIns">Gives, for a node, those that compute its shapes in its place.</param>
    /// <param name="before">What an earlier probe found at the same sizes.</param>
    /// <param name="scalars">Values whose Shape is asked for too.</param>
    private static Dictionary<string, Found> Probe(
        Graph graph,
        Dictionary<string, long> sizes,
        Dictionary<Value, Tensor> evaluated,
        Func<Node, IEnumerable<Node>> standIns,
        Dictionary<string, Found> before,
        params Value[] scalars
    )
    {
        List<Node> nodes =
        [
            .. graph.Nodes.Where(n => !n.Outputs.All(o => o.Name.Length == 0 || IsKnown(o))).SelectMany(standIns),
            .. scalars.Select(v => new Node("Shape", "", "", [v], [], [new(RankPrefix + v.Name, graph)])),
        ];
        var found = new Dictionary<string, Found>(before, StringComparer.Ordinal);
        foreach (var (value, tensor) in evaluated)
        {
            found[value.Name] = new(tensor.Type, [.. tensor.Dims]);
        }

        var outputs = nodes.SelectMany(n => n.Outputs).Select(o => o.Name).Where(o => o.Length > 0).ToArray();
        if (outputs.Length == 0)
        {
            return found;
        }

        var own = outputs.ToHashSet(StringComparer.Ordinal);
        var read = nodes.SelectMany(n => n.Reads).Distinct().Where(v => !own.Contains(v.Name)).ToArray();
        var constants = read.Select(v => (v.Name, Tensor: evaluated.GetValueOrDefault(v) ?? v.Constant))
            .Where(c => c.Tensor is { } t && !(t.Type.IsFloatingPoint() && t.ElementCount > LargestCarried))
            .ToDictionary(c => c.Name, c => c.Tensor!, StringComparer.Ordinal);
        var model = ModelWriter.PartToBytes(
            graph,
            nodes,
            graph
                .Inputs.Union(read.Where(v => !constants.ContainsKey(v.Name)))
                .Select(v =>
                    v.Producer is null
                        ? (v.Name, v.Type, Dims(v, sizes))
                        : (v.Name, found[v.Name].Type, found[v.Name].Dims)
                ),
            constants.Select(c => (c.Key, c.Value)),
            outputs
        );
        using var options = Options(graph.Root.ConfigureSession);
        options.AddSessionConfigEntry("session.disable_prepacking", "1");
        using var session = new InferenceSession(model, options);
        foreach (var (name, port) in session.OutputMetadata.Concat(session.InputMetadata).Where(p => p.Value.IsTensor))
        {
            if (!constants.ContainsKey(name))
            {
                found[name] = new((ElementType)(int)port.ElementDataType, [.. port.Dimensions.Select(d => (long)d)]);
            }
        }

        return found;

        // Integers may be what shapes are computed from: what ONNX Runtime knows of their elements would be lost.
        bool IsKnown(Value value) =>
            evaluated.ContainsKey(value)
            || (
                before.TryGetValue(value.Name, out var known)
                && known is { Dims.Length: > 0 }
                && (known.Type.IsFloatingPoint() || known.Type == ElementType.Bool)
                && known.Dims.All(d => d >= 0)
            );
    }

    /// <summary>Gives the dimensions of an input or constant, those that are not known as -1.</summary>
    private static IReadOnlyList<long>? Dims(Value value, Dictionary<string, long> sizes) =>
        value is { Constant: null, Declared.Dims: { } dims }
            ? [.. dims.Select(d => d.Name is { } name ? sizes.GetValueOrDefault(name, -1) : d.Size ?? -1)]
            : value.Shape?.Dims.Select(d => d.IsStatic ? d.Size : -1).ToArray();

    /// <summary>
    /// Gives all operators that ONNX Runtime does not know, with the nodes that use them: its own message names one.
    /// </summary>
    private static List<string> Unknown(Graph graph, Func<Node, IEnumerable<Node>>? standIns)
    {
        var unknown = new List<string>();
        var all = standIns is null ? graph.Nodes : graph.Nodes.SelectMany(standIns);
        foreach (var nodes in all.GroupBy(n => n.QualifiedOp, StringComparer.Ordinal))
        {
            var node = nodes.First();
            var model = ModelWriter.PartToBytes(
                graph,
                [node],
                node.Reads.Distinct()
                    .Select(v =>
                        (
                            v.Name,
                            v.Type == ElementType.Undefined ? ElementType.Float : v.Type,
                            (IReadOnlyList<long>?)null
                        )
                    ),
                [],
                node.Outputs.Select(o => o.Name).Where(o => o.Length > 0)
            );
            try
            {
                using var options = Options(graph.Root.ConfigureSession);
                using var session = new InferenceSession(model, options);
            }
            catch (OnnxRuntimeException e)
                when (e.Message.Contains("is not a registered function/op", StringComparison.Ordinal)
                    || e.Message.Contains("No Op registered for", StringComparison.Ordinal)
                )
            {
                var names = nodes.Take(3).Select(n => n.Name.Length > 0 ? n.Name : n.Outputs[0].Name);
                unknown.Add($"{nodes.Key} ({string.Join(", ", names)}{(nodes.Count() > 3 ? ", ..." : "")})");
            }
            catch (OnnxRuntimeException)
            {
                // Known, and at fault in another way: the model's own error tells.
            }
        }

        return unknown;
    }

    /// <summary>What ONNX Runtime inferred of a value.</summary>
    /// <param name="Type">Its type.</param>
    /// <param name="Dims">Its dimensions, those that are not known below 0.</param>
    private sealed record Found(ElementType Type, long[] Dims);

    private static SessionOptions Options(Action<SessionOptions>? configure)
    {
        var options = new SessionOptions
        {
            GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
            IntraOpNumThreads = 1,
            EnableCpuMemArena = false,
            EnableMemoryPattern = false,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
        };
        configure?.Invoke(options);
        return options;
    }

    private static MacOnnxException Refused(string path, OnnxRuntimeException e) =>
        new(
            "MAC0010",
            path,
            $"ONNX Runtime cannot load the model: {FirstLine(e)}",
            "Check that ONNX Runtime runs the model, or fix its dimensions with RewriteOptions.Dimensions (NAME=SIZE).",
            e
        );

    private static string FirstLine(Exception e) => e.Message.ReplaceLineEndings("\n").Split('\n')[0];
}
