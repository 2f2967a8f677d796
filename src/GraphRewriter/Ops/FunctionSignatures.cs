using System.Collections.Frozen;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// The operators of domain <see cref="FunctionCall.Domain"/> that have kernels. <see cref="FunctionCall"/> holds what
/// passes emit against the table, and the registry of kernels registers from it.
/// </summary>
internal static class FunctionSignatures
{
    private static readonly string[] Momentum = ["W", "V", "G", "learning_rate", "momentum", "weight_decay"],
        AdamW =

        [
            "W",
            "M",
            "V",
            "G",
            "learning_rate",
            "weight_decay",
            "beta1",
            "beta2",
            "step_size",
            "second_moment_scale",
            "epsilon",
        ];

    public static FrozenDictionary<string, OperatorSignature> All { get; } =
        new OperatorSignature[]
        {
            new("MomentumUpdate", [.. Momentum], ["W", "V"]),
            new("MacMomentumUpdate", [.. Momentum, "p", "scale"], ["W", "V"]),
            new(
                "MacMomentumUpdateWithBias",
                [.. Momentum, "p", "scale", "bias", "bias_V", "bias_G"],
                ["W", "V", "bias", "bias_V"]
            ),
            new("AdamWUpdate", [.. AdamW], ["W", "M", "V"]),
            new("SquaredNorm", ["X"], [""]),
            new("SumLeading", ["X"], [""]),
            new("ReluGrad", ["dY", "Y"], ["dY"]),
            new("GeluGrad", ["dY", "X", "Y"], ["dY"]),
            new("SoftmaxGrad", ["dY", "Y"], ["dY"]),
            new("LayerNormGrad", ["dY", "X", "scale", "mean", "inverse"], ["X", "scale", "scale"]),
            new("Conv", ["X", "W"], [""]),
            new("ConvWithBias", ["X", "W", "bias"], [""]),
            new("ConvDataGrad", ["dY", "W"], [""]),
            new("ConvWeightGrad", ["dY", "X"], [""]),
            new("BatchNorm", ["X", "scale", "bias", "mean", "variance"], ["X", "scale", "scale"]),
            new("BatchNormRelu", ["X", "scale", "bias", "mean", "variance"], ["X", "scale", "scale"]),
            new("BatchNormGrad", ["dY", "X", "scale", "mean", "variance"], ["X", "scale", "scale"]),
            new("BatchNormReluGrad", ["dY", "X", "scale", "mean", "variance", "Y"], ["X", "scale", "scale"]),
            new("MaxPoolGrad", ["dY", "X", "Y"], ["X"]),
        }.ToFrozenDictionary(s => s.Name, StringComparer.Ordinal);
}
