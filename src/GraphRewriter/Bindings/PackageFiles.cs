namespace MacOnnx.GraphRewriter.Bindings;

/// <summary>The files of a package.</summary>
public static class PackageFiles
{
    /// <summary>Parameters and a batch in; loss, gradients and statistics out.</summary>
    public const string Training = "training_model.onnx";

    /// <summary>Gradients, parameters and state in; new parameters and state out.</summary>
    public const string Optimizer = "optimizer_model.onnx";

    /// <summary>Statistics in; moving averages and cached preconditioners out. Optional.</summary>
    public const string Curvature = "curvature_model.onnx";

    /// <summary>The gradients and statistics of a batch in; their means over several batches out.</summary>
    public const string Accumulation = "accumulation_model.onnx";

    /// <summary>The forward pass and the loss in inference mode.</summary>
    public const string Evaluation = "eval_model.onnx";

    /// <summary>The second moment of the first layer's input. Optional.</summary>
    public const string FirstLayer = "first_layer_model.onnx";

    /// <summary>What the preconditioners do to the gradients. Optional.</summary>
    public const string Diagnostics = "diagnostics_model.onnx";

    /// <summary>The model as it was exported, without its weights.</summary>
    public const string Forward = "forward_model.onnx";

    /// <summary>The starting values of parameters and running statistics.</summary>
    public const string Checkpoint = "checkpoint.safetensors";

    /// <summary>What joins the files.</summary>
    public const string Manifest = "manifest.json";

    /// <summary>What names of a batch's buffers start with, before the name of the mean's buffer.</summary>
    public const string BatchPrefix = "batch/";
}
