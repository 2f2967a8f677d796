namespace MacOnnx.GraphRewriter.Optimizer;

/// <summary>How ONNX Runtime's optimizers correct moving averages for their start at zero.</summary>
internal enum BiasCorrection
{
    /// <summary>By 1 - b^t, t the updates from 1.</summary>
    FromOne,

    /// <summary>By 1 - b^t, t the updates from 0; not at all in the first.</summary>
    FromZero,

    /// <summary>Not at all.</summary>
    None,
}

/// <summary>Formulas of <see cref="BiasCorrection"/>.</summary>
internal static class BiasCorrections
{
    /// <summary>Gives the formula of what an average of a decay is divided by.</summary>
    public static string Of(this BiasCorrection correction, string decay) =>
        correction switch
        {
            BiasCorrection.FromOne => $"(1 - {decay} ^ step)",
            BiasCorrection.FromZero => $"(1 - {decay} ^ (step - 1) + 0 ^ (step - 1))", // 0^0 is 1
            _ => "1",
        };
}
