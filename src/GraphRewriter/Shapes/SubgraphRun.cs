using Google.Protobuf;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import.Proto;
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
        IReadOnlyList<NodeProto> nodes,
        IReadOnlyDictionary<string, Tensor> known,
        IReadOnlyList<string> outputs
    )
    {
        var model = ModelWriter.ToProto(new Graph { Name = "part" });
        model.OpsetImport.Clear();
        model.OpsetImport.AddRange(
            graph.Opsets.Select(o => new OperatorSetIdProto { Domain = o.Key, Version = o.Value })
        );
        foreach (var domain in nodes.Select(n => n.Domain).Distinct().Where(d => !graph.Opsets.ContainsKey(d)))
        {
            model.OpsetImport.Add(new OperatorSetIdProto { Domain = domain, Version = 1 });
        }

        model.Graph.Node.AddRange(nodes);
        model.Graph.Initializer.AddRange(
            known.Where(k => !IsLarge(k.Value)).Select(k => Import.TensorFormat.ToProto(k.Value, k.Key))
        );
        var large = known.Where(k => IsLarge(k.Value)).ToArray();
        model.Graph.Input.AddRange(
            large.Select(k => ModelWriter.Declare(k.Key, k.Value.Type, Shape.Of(k.Value.Dims.AsSpan())))
        );
        model.Graph.Output.AddRange(outputs.Select(o => new ValueInfoProto { Name = o }));
        using var options = new SessionOptions
        {
            GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
            IntraOpNumThreads = 1,
        };
        using var session = new InferenceSession(model.ToByteArray(), options);
        using var run = new RunOptions();
        var inputs = large.Select(k => ToOrt(k.Value)).ToArray();
        try
        {
            using var results = session.Run(run, [.. large.Select(k => k.Key)], inputs, outputs);
            return
            [
                .. results.Select(r =>
                {
                    var info = r.GetTensorTypeAndShape();
                    return new Tensor(
                        (ElementType)(int)info.ElementDataType,
                        [.. info.Shape],
                        r.GetTensorMutableRawData().ToArray()
                    );
                }),
            ];
        }
        finally
        {
            Array.ForEach(inputs, i => i.Dispose());
        }
    }

    /// <summary>Whether a tensor is passed as an input; what computes shapes is small and must be constant.</summary>
    private static bool IsLarge(Tensor tensor) => tensor.Data.Length > 1 << 16;

    private static OrtValue ToOrt(Tensor tensor)
    {
        var value = OrtValue.CreateAllocatedTensorValue(
            OrtAllocator.DefaultInstance,
            (Microsoft.ML.OnnxRuntime.Tensors.TensorElementType)(int)tensor.Type,
            [.. tensor.Dims]
        );
        tensor.Data.Span.CopyTo(value.GetTensorMutableRawData());
        return value;
    }
}
