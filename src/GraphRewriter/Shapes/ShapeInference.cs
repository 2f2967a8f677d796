using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Shapes;

/// <summary>
/// Finds the type and shape of every value by asking ONNX Runtime, at two sizes of the model's dynamic dimensions.
/// </summary>
/// <remarks>
/// The engine that will run the graph is the authority on shapes: each probe is a copy of the graph in which every
/// value is an
/// output, loaded (never run) with all inputs given sizes. What integer arithmetic computes from shapes is evaluated by
/// <see cref="ShapeEvaluation"/>; values equal in both probes become constants.
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
    public static void Apply(Graph graph, string path, Func<Value, bool>? mayTrain = null)
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
                Infer(graph, probes, mayTrain);
                return;
            }
            catch (OnnxRuntimeException e)
            {
                failure ??= e;
            }
        }

        if (Unknown(graph) is { Count: > 0 } unknown)
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

    private static void Infer(Graph graph, Dictionary<string, long>[] probes, Func<Value, bool>? mayTrain)
    {
        var evaluated = probes.Select(_ => new Dictionary<Value, Tensor>()).ToArray();
        for (var round = 0; round < MostRounds; round++)
        {
            var found = probes.Select((sizes, i) => Probe(graph, sizes, evaluated[i])).ToArray();
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

        ForgetUnknownRanks(graph, probes[0], evaluated[0]);

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
        Dictionary<Value, Tensor> evaluated
    )
    {
        var scalars = graph
            .Nodes.SelectMany(n => n.Outputs)
            .Where(v => v.Shape is { Rank: 0 } && v.Type.IsFloatingPoint() && !evaluated.ContainsKey(v))
            .ToArray();
        if (scalars.Length > 0)
        {
            var found = Probe(graph, sizes, evaluated, scalars);
            foreach (var value in scalars.Where(v => found[RankPrefix + v.Name].Dims is not [0]))
            {
                value.Shape = null;
            }
        }
    }

    private static bool Same(Tensor a, Tensor b) =>
        a.Dims.SequenceEqual(b.Dims) && a.Data.Span.SequenceEqual(b.Data.Span);

    /// <summary>Loads one copy of the graph and reads what ONNX Runtime inferred.</summary>
    private static Dictionary<string, (ElementType Type, long[] Dims)> Probe(
        Graph graph,
        Dictionary<string, long> sizes,
        Dictionary<Value, Tensor> evaluated,
        params Value[] scalars
    )
    {
        var known = evaluated.ToDictionary(e => e.Key.Name, e => e.Value, StringComparer.Ordinal);
        var constants = graph
            .Constants()
            .ToLookup(v => v.Type.IsFloatingPoint() && v.Constant!.ElementCount > LargestCarried);
        List<Node> nodes =
        [
            .. graph.Nodes.Where(n => !n.Outputs.All(o => o.Name.Length == 0 || known.ContainsKey(o.Name))),
            .. scalars.Select(v => new Node("Shape", "", "", [v], [], [new(RankPrefix + v.Name, graph)])),
        ];
        var outputs = nodes.SelectMany(n => n.Outputs).Select(o => o.Name).Where(o => o.Length > 0).ToArray();
        if (outputs.Length == 0)
        {
            return known.ToDictionary(k => k.Key, k => (k.Value.Type, k.Value.Dims.ToArray()), StringComparer.Ordinal);
        }

        var model = ModelWriter.PartToBytes(
            graph,
            nodes,
            graph.Inputs.Concat(constants[true]).Select(v => (v.Name, v.Type, Dims(v, sizes))),
            constants[false].Select(v => (v.Name, v.Constant!)).Concat(known.Select(k => (k.Key, k.Value))),
            outputs
        );
        using var options = Options(graph.Root.ConfigureSession);
        options.AddSessionConfigEntry("session.disable_prepacking", "1");
        using var session = new InferenceSession(model, options);
        var found = session
            .OutputMetadata.Concat(session.InputMetadata)
            .Where(o => o.Value.IsTensor)
            .ToDictionary(
                o => o.Key,
                o => ((ElementType)(int)o.Value.ElementDataType, o.Value.Dimensions.Select(d => (long)d).ToArray()),
                StringComparer.Ordinal
            );
        foreach (var (name, tensor) in known)
        {
            found[name] = (tensor.Type, tensor.Dims.ToArray());
        }

        return found;
    }

    /// <summary>Gives the dimensions of an input or constant, those that are not known as -1.</summary>
    private static IReadOnlyList<long>? Dims(Value value, Dictionary<string, long> sizes) =>
        value is { Constant: null, Declared.Dims: { } dims }
            ? [.. dims.Select(d => d.Name is { } name ? sizes[name] : d.Size ?? -1)]
            : value.Shape?.Dims.Select(d => d.IsStatic ? d.Size : -1).ToArray();

    /// <summary>
    /// Gives all operators that ONNX Runtime does not know, with the nodes that use them: its own message names one.
    /// </summary>
    private static List<string> Unknown(Graph graph)
    {
        var unknown = new List<string>();
        foreach (var nodes in graph.Nodes.GroupBy(n => n.QualifiedOp, StringComparer.Ordinal))
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

    private static SessionOptions Options(Action<SessionOptions>? configure)
    {
        var options = new SessionOptions
        {
            GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
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
