using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Curvature;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>Where a state tensor's first value comes from.</summary>
public enum StateOrigin
{
    /// <summary>The model: the first checkpoint holds it.</summary>
    Model,

    /// <summary>Zeros.</summary>
    Zeros,
}

/// <summary>A tensor that the runtime keeps from step to step and that checkpoints hold.</summary>
/// <param name="Name">The graph input that it is bound to; an output of that name with "_new" appended replaces
/// it.</param>
/// <param name="Type">The element type.</param>
/// <param name="Dims">The dimensions.</param>
/// <param name="Origin">Its first value.</param>
public sealed record StateTensor(string Name, ElementType Type, ImmutableArray<long> Dims, StateOrigin Origin)
{
    /// <summary>Gets the bytes it takes.</summary>
    public long Bytes => Tensor.CountOf(Dims.AsSpan()) * Type.Size();
}

/// <summary>The names that join the graphs of a package, after ONNX Runtime's training convention.</summary>
internal static class TrainingNames
{
    /// <summary>The input that says whether this step's statistics are wanted.</summary>
    public const string UpdateStatistics = "update_statistics";

    /// <summary>The training graph's input that dropout masks are made from, int64.</summary>
    public const string DropoutSeed = Import.SeededDropout.SeedName;

    /// <summary>The output that holds the gradients' global norm.</summary>
    public const string GradientNorm = "gradient_norm";

    /// <summary>What an output adds to the name of the state that it replaces.</summary>
    public const string NewSuffix = "_new";

    public static string Gradient(string parameter) => $"{parameter}_grad";

    public static string New(string state) => state + NewSuffix;

    public static string Mean(Layer layer) => $"{layer.Name}.mac_mean";

    public static string TokenWeights(Layer layer) => $"{layer.Name}.mac_token_weights";

    public static string TokenMeans(Layer layer) => $"{layer.Name}.mac_token_means";

    public static string ValueMean(Layer layer) => $"{layer.Name}.mac_value_mean";

    public static string RunningMean(Layer layer) => $"{layer.Weight.Name}.mac_running_mean";

    public static string SecondMoment(Layer layer) => $"{layer.Weight.Name}.mac_second_moment";

    public static string Inverse(Layer layer) => $"{layer.Weight.Name}.mac_inverse";

    public static string InUse(Layer layer) => $"{layer.Weight.Name}.mac_p";

    public static string Scale(Layer layer) => $"{layer.Weight.Name}.mac_scale";
}
