namespace MacOnnx.GraphRewriter.Tests.Gradients;

/// <summary>
/// One row of the gradient tests: a call of an operator whose gradients are compared with slopes of the loss.
/// </summary>
/// <param name="Op">The operator.</param>
/// <param name="Inputs">Its inputs.</param>
internal sealed record GradientCase(string Op, params CaseInput[] Inputs)
{
    public string Domain { get; init; } = "";

    public int Opset { get; init; } = 21;

    public Attr[] Attributes { get; init; } = [];

    /// <summary>Gets, for each output, whether the loss reads it; null leaves the output out.</summary>
    public bool?[] Outputs { get; init; } = [true];

    /// <summary>
    /// Gets the type of the floating-point inputs: double, or float where the CPU kernel has no double.
    /// </summary>
    public ElementType Type { get; init; } = ElementType.Double;

    /// <summary>Gets how many of the inputs are the node's; its subgraphs read the others. Null for all.</summary>
    public int? NodeInputs { get; init; }

    /// <summary>Gets whether the output's size is known only when the graph runs.</summary>
    public bool SizeFromData { get; init; }

    /// <summary>
    /// Gets the greatest error allowed, relative to the sum of |gradient * direction|; null: what rounding explains.
    /// </summary>
    public double? Tolerance { get; init; }

    /// <summary>Gets the step of the differences; 1 is exact where the loss is linear in each input.</summary>
    public double? Step { get; init; }

    public override string ToString() =>
        $"{(Domain.Length > 0 ? Domain + "::" : "")}{Op}-{Opset}({string.Join(", ", Inputs.Select(i => i.ToString()))})"
        + string.Concat(Attributes.Select(a => $" {a.Name}={Show(a)}"))
        + (
            Outputs is [true]
                ? ""
                : $" outputs={string.Join(',', Outputs.Select(o => o is { } read ? read ? "y" : "-" : "none"))}"
        )
        + (Type == ElementType.Double ? "" : $" {Type}");

    private static string Show(Attr a) =>
        a.Value is Graph graph ? string.Join('+', graph.Nodes.Select(n => n.OpType)) : $"{a}"[(a.Name.Length + 1)..];
}

/// <summary>An input of a case: a floating-point variable spread over a range, or given values.</summary>
/// <param name="Dims">Its dimensions.</param>
internal sealed record CaseInput(params long[] Dims)
{
    /// <summary>An optional input that is left out.</summary>
    public static readonly CaseInput None = new() { Absent = true };

    public double Low { get; init; } = -1;

    public double High { get; init; } = 1;

    /// <summary>Gets whether the gradient of this input is checked.</summary>
    public bool Differentiated { get; init; } = true;

    /// <summary>Gets whether axis 0 is a dynamic dimension of the model.</summary>
    public bool Dynamic { get; init; }

    /// <summary>Gets whether the axes from 2 on are dynamic dimensions of the model.</summary>
    public bool DynamicSizes { get; init; }

    public bool Absent { get; init; }

    /// <summary>Gets whether the input is an initializer, not an input of the model.</summary>
    public bool Constant { get; init; }

    /// <summary>Gets the elements, where they are given: <c>double[]</c> becomes the type of the case.</summary>
    public Array? Values { get; init; }

    /// <summary>Gets this input without a check of its gradient.</summary>
    public CaseInput Fixed => this with { Differentiated = false };

    /// <summary>Gets this input as an initializer.</summary>
    public CaseInput Initializer => this with { Differentiated = false, Constant = true };

    /// <summary>Gives this input with values spread over a range.</summary>
    public CaseInput In(double low, double high) => this with { Low = low, High = high };

    public override string ToString() =>
        Absent
            ? "none"
            : (Constant ? "const " : "")
                + (
                    Values is { } v ? v.GetType().GetElementType()!.Name
                    : Differentiated ? ""
                    : "fixed "
                )
                + $"[{(Dynamic ? "batch=" : "")}{string.Join(',', Dims)}{(DynamicSizes ? " dynamic" : "")}]"
                + (
                    Values is { Length: <= 12 } values
                        ? "={"
                            + string.Join(' ', values.Cast<object>().Select(e => FormattableString.Invariant($"{e}")))
                            + "}"
                        : ""
                )
                + ((Low, High) is (-1, 1) ? "" : FormattableString.Invariant($" in {Low}..{High}"));

    /// <summary>
    /// Gives the elements: distinct, in random order, never within a fifth of a grid step of another input's or of the
    /// middle.
    /// </summary>
    public Tensor ToTensor(ElementType type, int index, Random random)
    {
        switch (Values)
        {
            case long[] values:
                return Tensor.From<long>(Dims, values);
            case int[] values:
                return Tensor.From<int>(Dims, values);
            case bool[] values:
                return Tensor.From<bool>(Dims, values);
            case float[] values:
                return Tensor.From<float>(Dims, values);
            case double[] values:
                return Numbers(Dims, values, type);
        }

        var count = (int)Tensor.CountOf(Dims);
        var elements = Enumerable
            .Range(0, count)
            .Select(i => Low + ((High - Low) * (i + 0.3 + (0.15 * index)) / count))
            .ToArray();
        random.Shuffle(elements);
        return Numbers(Dims, elements, type);
    }

    /// <summary>Makes a floating-point tensor.</summary>
    public static Tensor Numbers(ReadOnlySpan<long> dims, double[] values, ElementType type) =>
        type == ElementType.Float
            ? Tensor.From<float>(dims, [.. values.Select(v => (float)v)])
            : Tensor.From<double>(dims, values);
}
