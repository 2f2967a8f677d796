using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Shapes;

/// <summary>
/// Finds types and shapes inside the subgraphs of If, Loop and Scan, of what is known of the values that they read. A
/// Loop's states are taken to keep the shapes that they start with.
/// </summary>
internal static class SubgraphShapes
{
    /// <summary>Constants with more elements than this are declared, not carried.</summary>
    private const int LargestCarried = 64;

    private const string RankPrefix = "rank/";

    /// <summary>Sets types and shapes in all subgraphs; what ONNX Runtime does not infer stays unknown.</summary>
    public static void Apply(Graph graph)
    {
        foreach (var node in graph.Nodes.Where(n => n.Domain.Length == 0))
        {
            foreach (var body in node.Attributes.Graphs)
            {
                SetInputs(node, body);
                Infer(body);
                Apply(body);
            }
        }
    }

    private static void SetInputs(Node node, Graph body)
    {
        if (node.Is("Loop") && body.Inputs.Count == node.Inputs.Count)
        {
            (body.Inputs[0].Type, body.Inputs[0].Shape) = (ElementType.Int64, Shape.Scalar);
            (body.Inputs[1].Type, body.Inputs[1].Shape) = (ElementType.Bool, Shape.Scalar);
            foreach (var (inner, outer) in body.Inputs.Zip(node.Inputs).Skip(2))
            {
                (inner.Type, inner.Shape) = (outer!.Type, outer.Shape);
            }
        }
        else if (node.Is("Scan") && body.Inputs.Count == node.Inputs.Count)
        {
            var states = node.Inputs.Count - (int)node.Attributes.Int("num_scan_inputs", 0);
            var axes = node.Attributes.Ints("scan_input_axes");
            foreach (var (i, (inner, outer)) in body.Inputs.Zip(node.Inputs).Index())
            {
                (inner.Type, inner.Shape) = (outer!.Type, outer.Shape);
                if (i >= states && outer.Shape is { Rank: > 0 } shape)
                {
                    inner.Shape = new([.. shape.Dims.RemoveAt(shape.Axis(axes?[i - states] ?? 0))]);
                }
            }
        }
    }

    private static void Infer(Graph body)
    {
        var read = body.Inputs.Concat(body.Captured()).Concat(body.Constants()).Distinct().ToArray();
        var carried = read.Where(v => v.Constant is { } c && c.ElementCount <= LargestCarried).ToArray();
        var outputs = body.Nodes.SelectMany(n => n.Outputs).Where(o => o.Name.Length > 0).ToArray();
        if (outputs.Length == 0)
        {
            return;
        }

        var found = new[] { (Func<Dim, long>)(d => d.First), d => d.Second }.Select(d => Probe(d, [])).ToArray();
        foreach (var output in outputs)
        {
            if (found.All(f => f.ContainsKey(output.Name)))
            {
                var (first, second) = (found[0][output.Name], found[1][output.Name]);
                output.Type = (ElementType)(int)first.ElementDataType;
                output.Shape =
                    first.Dimensions.Length == second.Dimensions.Length
                        ? new([.. first.Dimensions.Zip(second.Dimensions, (a, b) => new Dim(a, b))])
                        : null;
            }
        }

        // ONNX Runtime shows a value without a known rank like a scalar; the size of its shape tells them apart.
        Value[] scalars = [.. outputs.Where(o => o.Shape is { Rank: 0 })];
        if (scalars.Length > 0)
        {
            var ranks = Probe(d => d.First, scalars);
            foreach (var value in scalars)
            {
                value.Shape = ranks.GetValueOrDefault(RankPrefix + value.Name)?.Dimensions is [0] ? value.Shape : null;
            }
        }

        IReadOnlyDictionary<string, NodeMetadata> Probe(Func<Dim, long> size, Value[] ranked)
        {
            var model = ModelWriter.PartToBytes(
                body,
                [
                    .. body.Nodes,
                    .. ranked.Select(v => new Node("Shape", "", "", [v], [], [new(RankPrefix + v.Name, body)])),
                ],
                read.Except(carried)
                    .Select(v => (v.Name, v.Type, (IReadOnlyList<long>?)v.Shape?.Dims.Select(size).ToArray())),
                carried.Select(v => (v.Name, v.Constant!)),
                [.. outputs.Select(o => o.Name), .. ranked.Select(v => RankPrefix + v.Name)]
            );
            using var options = new SessionOptions
            {
                GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
                LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
            };
            body.Root.ConfigureSession?.Invoke(options);
            try
            {
                using var session = new InferenceSession(model, options);
                return session.OutputMetadata.Where(o => o.Value.IsTensor).ToDictionary();
            }
            catch (OnnxRuntimeException)
            {
                return new Dictionary<string, NodeMetadata>();
            }
        }
    }
}
