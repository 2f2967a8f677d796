namespace MacOnnx.GraphRewriter.Tests.Gradients;

/// <summary>
/// The rows of the gradient tests, one file a family. A row of the operator table without a case here is an error.
/// </summary>
internal static partial class GradientCases
{
    public static Dictionary<string, GradientCase> All { get; } =
        new[]
        {
            Elementwise,
            Activations,
            Products,
            Reductions,
            Layout,
            Indexing,
            Resampling,
            Losses,
            Convolution,
            Pooling,
            Normalization,
            Sampling,
            Recurrent,
            ControlFlow,
        }
            .SelectMany(rows => rows)
            .ToDictionary(row => row.ToString(), StringComparer.Ordinal);

    private static CaseInput None => CaseInput.None;

    /// <summary>A variable whose gradient is checked.</summary>
    private static CaseInput X(params long[] dims) => new(dims);

    /// <summary>A variable whose axis 0 is dynamic in the model.</summary>
    private static CaseInput Batch(params long[] dims) => new(dims) { Dynamic = true };

    /// <summary>Integers known when the graph is built: a 1-D initializer.</summary>
    private static CaseInput Const(params long[] values) => Const([values.Length], (Array)values);

    /// <summary>A scalar initializer.</summary>
    private static CaseInput ConstScalar(long value) => Const([], new[] { value });

    /// <summary>
    /// Values known when the graph is built: an initializer of any shape; <c>double[]</c> becomes the type of the case.
    /// </summary>
    private static CaseInput Const(long[] dims, Array values) => Data(dims, values) with { Constant = true };

    /// <summary>Values known only when the graph runs, not differentiated.</summary>
    private static CaseInput Data(long[] dims, Array values) => new(dims) { Values = values, Differentiated = false };

    private static Attr[] Attributes(params Attr[] attributes) => attributes;

    /// <summary>Gives a case at several operator sets.</summary>
    private static IEnumerable<GradientCase> AtOpsets(GradientCase row, params int[] opsets) =>
        opsets.Select(o => row with { Opset = o });
}
