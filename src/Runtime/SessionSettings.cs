using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.Runtime.Kernels;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Runtime;

/// <summary>How ONNX Runtime loads the graphs of a package.</summary>
/// <param name="configure">Adjusts the options of each session; null for the defaults.</param>
/// <param name="useKernels">Whether kernels written in C# are registered.</param>
internal sealed class SessionSettings(Action<SessionOptions>? configure, bool useKernels)
{
    /// <summary>
    /// Passes of ONNX Runtime that look for what a training graph does not have: quantized numbers, attention as one
    /// operator, GELU whose parts nothing else reads. Each takes time that grows with the graph.
    /// </summary>
    private static readonly string[] Inapplicable =
    [
        "AttentionFusion",
        "BiasDropoutFusion",
        "BiasGeluFusion",
        "DoubleQDQPairsRemover",
        "DynamicQuantizeMatMulFusion",
        "EmbedLayerNormFusion",
        "EnsureUniqueDQForNodeUnit",
        "FastGeluFusion",
        "GeluFusionL1",
        "GeluFusionL2",
        "GroupQueryAttentionFusion",
        "GroupQueryAttentionPreNormFusion",
        "MatMulIntegerToFloatFusion",
        "MatMulNBitsFusion",
        "QDQFinalCleanupTransformer",
        "QDQPropagationTransformer",
        "QDQS8ToU8Transformer",
        "QDQSelectorActionTransformer",
        "QuickGeluFusion",
        "SliceConcatToSpaceToDepthFusion",
        "WeightBiasQuantization",
        "WhereDummyDq",
    ];

    /// <summary>Gives new options for a graph; they may be disposed once the session is there.</summary>
    /// <param name="file">The graph's file in the package.</param>
    public SessionOptions For(string file)
    {
        // Changes of layout pay off for constant weights, of which a training graph has none. Averages, each of a layer
        // by itself, have nothing to fuse, and graphs so wide that looking for it takes seconds.
        var options = new SessionOptions
        {
            EnableMemoryPattern = false,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
            GraphOptimizationLevel = file is PackageFiles.Curvature or PackageFiles.Accumulation
                ? GraphOptimizationLevel.ORT_DISABLE_ALL
                : GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        };
        if (file != PackageFiles.Evaluation)
        {
            options.AddSessionConfigEntry("optimization.disable_specified_optimizers", string.Join(';', Inapplicable));
        }

        // The graphs run in turns: threads that wait for work of a session that has just ended would take the
        // processor from the next one.
        options.AddSessionConfigEntry("session.force_spinning_stop", "1");
        if (useKernels)
        {
            KernelRegistry.AddTo(options);
        }

        configure?.Invoke(options);
        return options;
    }
}
