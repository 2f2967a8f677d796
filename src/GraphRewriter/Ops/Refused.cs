namespace MacOnnx.GraphRewriter.Ops;

/// <summary>Operators whose gradient is not known here, each with the reason and what to use in its place.</summary>
internal static class Refused
{
    private const string Quantized =
        "it computes with quantized numbers, which no gradient moves: train the model as it was before quantization";

    private const string Sequences =
        "it works on sequences or optional values, not tensors: export the model so that it works on tensors";

    private const string Branches =
        "only control flow that is decided when the model is rewritten has a gradient: export the model "
        + "with fixed sizes";

    private const string OwnLayout =
        "ONNX Runtime's optimizer wrote it for a layout of its own: use the model as it was before";

    private static readonly (string Domain, string Reason, string[] Names)[] Families =
    [
        (
            "",
            Quantized,
            [
                "ConvInteger",
                "DequantizeLinear",
                "DynamicQuantizeLinear",
                "MatMulInteger",
                "QLinearConv",
                "QLinearMatMul",
                "QuantizeLinear",
            ]
        ),
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
        ("", "it needs one pass for each time step, which is not written out here", ["GRU", "LSTM", "RNN"]),
        ("", Branches, ["If", "Loop", "Scan"]),
        ("", "use RoiAlign's surroundings frozen, or GridSample, which has a gradient", ["MaxRoiPool", "RoiAlign"]),
        ("", "its offsets move a kernel's taps: use Conv, or GridSample followed by MatMul", ["DeformConv"]),
        (
            "",
            "it fills caches of keys and values, which training does not use: export the model without caches",
            ["TensorScatter"]
        ),
        (
            "com.microsoft",
            Quantized,
            [
                "DequantizeLinear",
                "DynamicQuantizeLSTM",
                "DynamicQuantizeMatMul",
                "MatMulInteger16",
                "MatMulIntegerToFloat",
                "MatMulNBits",
                "QAttention",
                "QEmbedLayerNormalization",
                "QGemm",
                "QLinearAdd",
                "QLinearAveragePool",
                "QLinearConcat",
                "QLinearConv",
                "QLinearGlobalAveragePool",
                "QLinearLeakyRelu",
                "QLinearMul",
                "QLinearReduceMean",
                "QLinearSigmoid",
                "QLinearSoftmax",
                "QLinearWhere",
                "QuantizeLinear",
            ]
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
