using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Shapes;

/// <summary>Runs a part of a graph on ONNX Runtime while a model is being understood.</summary>
internal static class SubgraphRun
{
    /// <summary>Runs nodes, in topological order, on known tensors.</summary>
    /// <param name="graph">The graph that the nodes are from.</param>
    /// <param name="nodes">The nodes.</param>
    /// <param name="known">The tensors they read beside the graph's constants.</param>
    /// <param name="outputs">The values wanted.</param>
    public static Tensor[] Run(
        Graph graph,
        IReadOnlyList<Node> nodes,
        IReadOnlyDictionary<string, Tensor> known,
        IReadOnlyList<string> outputs
    )
    {
        var large = known.Where(k => IsLarge(k.Value)).ToArray();
        var model = ModelWriter.PartToBytes(
            graph,
            nodes,
            large.Select(k => (k.Key, k.Value.Type, (IReadOnlyList<long>?)k.Value.Dims)),
            known.Where(k => !IsLarge(k.Value)).Select(k => (k.Key, k.Value)),
            outputs
        );
        using var options = new SessionOptions
        {
            GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
            IntraOpNumThreads = 1,
        };
        graph.Root.ConfigureSession?.Invoke(options);
        using var session = new InferenceSession(model, options);
        using var run = new RunOptions();
        var inputs = large.Select(k => OrtValues.Of(k.Value)).ToArray();
        try
        {
            using var results = session.Run(run, [.. large.Select(k => k.Key)], inputs, outputs);
            return [.. results.Select(OrtValues.ToTensor)];
        }
        finally
        {
            Array.ForEach(inputs, i => i.Dispose());
        }
    }

    /// <summary>Whether a tensor is passed as an input; what computes shapes is small and must be constant.</summary>
    private static bool IsLarge(Tensor tensor) => tensor.Data.Length > 1 << 16;
}
