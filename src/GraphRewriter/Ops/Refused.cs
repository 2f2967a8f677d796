namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Operators whose gradient is not known here, each with the reason and what to use in its place.</summary>
internal static class Refused
{
    private const string Sequences =
        "it works on sequences whose lengths or positions depend on the data, or on optional values: export the model "
        + "so that it works on tensors";

    private const string Loops =
        "how often it runs, or what shapes its states have, depends on the data: export the model with fixed sizes";

    private const string OwnLayout =
        "ONNX Runtime's optimizer wrote it for a layout of its own: use the model as it was before";

    private static readonly (string Domain, string Reason, string[] Names)[] Families =
    [
        (
            "",
            Sequences,
            [
                "ConcatFromSequence",
                "Optional",
                "OptionalGetElement",
                "SequenceAt",
                "SequenceConstruct",
                "SequenceEmpty",
                "SequenceErase",
                "SequenceInsert",
                "SequenceMap",
                "SplitToSequence",
            ]
        ),
        ("", Loops, ["Loop"]),
        ("", "use RoiAlign's surroundings frozen, or GridSample, which has a gradient", ["MaxRoiPool", "RoiAlign"]),
        ("", "its offsets move a kernel's taps: use Conv, or GridSample followed by MatMul", ["DeformConv"]),
        (
            "",
            "it fills caches of keys and values, which training does not use: export the model without caches",
            ["TensorScatter"]
        ),
        (
            "com.microsoft",
            "it computes with quantized numbers, which no gradient moves: train the model as it was before "
                + "quantization",
            ["MatMulInteger16", "MatMulBnb4", "QEmbedLayerNormalization", "QMoE"]
        ),
        ("com.microsoft", OwnLayout, ["NhwcConv", "NhwcFusedConv", "NhwcMaxPool"]),
        (
            "com.microsoft.nchwc",
            OwnLayout,
            [
                "AveragePool",
                "Conv",
                "GlobalAveragePool",
                "GlobalMaxPool",
                "MaxPool",
                "ReorderInput",
                "ReorderOutput",
                "Upsample",
            ]
        ),
        (
            "ai.onnx.ml",
            "its numbers are attributes, which do not train: export the model with ai.onnx operators, or train what "
                + "is behind it",
            ["Imputer", "LinearClassifier", "LinearRegressor", "Normalizer", "SVMClassifier", "SVMRegressor", "Scaler"]
        ),
        (
            "ai.onnx.ml",
            "use Gather or Concat of ai.onnx, which have gradients",
            ["ArrayFeatureExtractor", "FeatureVectorizer"]
        ),
        (
            "ai.onnx.preview.training",
            "it trains a model inside a model: use the forward model alone",
            ["Adagrad", "Adam", "Gradient", "Momentum"]
        ),
        (
            "com.microsoft",
            "it generates text step by step: export the network that it calls",
            ["BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"]
        ),
    ];

    public static IEnumerable<OpRule> Rules { get; } =
    [
        .. from family in Families
        from name in family.Names
        select new OpRule(name, null, family.Domain, Refused: family.Reason),
    ];
}
