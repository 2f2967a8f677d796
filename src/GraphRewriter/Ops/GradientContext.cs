using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// What a gradient rule may name: inputs X(i), outputs Y(i), gradients DY(i) of the outputs, attributes, shapes.
/// </summary>
/// <param name="builder">Where the rule emits.</param>
/// <param name="node">The forward node.</param>
/// <param name="outputGradients">The gradient of each output; null where the loss does not depend on it.</param>
/// <param name="needed">Whether the gradient of an input is wanted.</param>
internal sealed class GradientContext(
    GraphBuilder builder,
    Node node,
    IReadOnlyList<Value?> outputGradients,
    Func<int, bool> needed
)
{
    public GraphBuilder B { get; } = builder;

    public Node Node { get; } = node;

    /// <summary>Gets the number of inputs given.</summary>
    public int InputCount => Node.Inputs.Count;

    /// <summary>Gets whether the loss depends on an output.</summary>
    public bool HasDY(int output) => output < outputGradients.Count && outputGradients[output] is not null;

    /// <summary>Gives the gradient of an output: zeros where the loss does not depend on it.</summary>
    public Term DY(int output = 0) => outputGradients[output] is { } gradient ? new(B, gradient) : Y(output).Zeros();

    public Term Y(int output = 0) => new(B, Node.Outputs[output]);

    public Term X(int input = 0) => new(B, Node.Inputs[input]!);

    public bool Has(int input) => Node.Input(input) is not null;

    /// <summary>Gets whether the gradient of an input is wanted; a rule may leave out what is not.</summary>
    public bool Needs(int input) => input < InputCount && needed(input);

    public Shape ShapeX(int input = 0) => Node.Inputs[input]!.KnownShape;

    public Shape ShapeY(int output = 0) => Node.Outputs[output].KnownShape;

    public long Int(string attribute, long fallback) => Node.Attributes.Int(attribute, fallback);

    public float Float(string attribute, float fallback) => Node.Attributes.Float(attribute, fallback);

    public string Text(string attribute, string fallback) => Node.Attributes.Text(attribute, fallback);

    public long[]? Ints(string attribute) => Node.Attributes.Ints(attribute);

    /// <summary>
    /// Gives the elements of an integer input that is a constant; null where it is left out or computed at run time.
    /// </summary>
    public long[]? ConstantInts(int input) => Node.Input(input)?.Constant?.ToInt64();

    /// <summary>Gives an axis attribute counted from the front, for the shape of an input.</summary>
    public int Axis(string attribute, long fallback, int input = 0) => ShapeX(input).Axis(Int(attribute, fallback));

    /// <summary>
    /// Sums a gradient of shape <paramref name="from"/> over the axes along which an input was repeated.
    /// </summary>
    public Term SumTo(int input, Term gradient, Shape from) => Broadcasting.Undo(gradient, from, Node.Inputs[input]!);

    /// <summary>Makes the error for a use of the operator that no rule covers.</summary>
    public UnsupportedUseException Unsupported(string what, string hint) => new("MAC0102", $"{Node}", what, hint);

    /// <summary>Emits any operator with one output.</summary>
    public Term Op(string opType, ReadOnlySpan<Value?> inputs, params ReadOnlySpan<Attr> attributes) =>
        new(B, B.Op(opType, inputs, attributes));

    /// <summary>
    /// Emits an operator whose meaning only <c>Lowering/</c> spells out (domain <see cref="OpTable.GradientDomain"/>).
    /// </summary>
    public Node Internal(
        string opType,
        ReadOnlySpan<Value?> inputs,
        int outputs,
        params ReadOnlySpan<Attr> attributes
    ) => B.Node(opType, OpTable.GradientDomain, inputs, outputs, attributes);

    /// <summary>Wraps a value for use in formulas.</summary>
    public Term Of(Value value) => new(B, value);

    public Term Ints64(params ReadOnlySpan<long> values) => new(B, B.Int64s(values));

    /// <summary>Joins 1-D int64 tensors, such as parts of a shape: a constant where all of them are.</summary>
    public Term Join(params IEnumerable<Term> parts)
    {
        var values = parts.Select(p => p.V).ToArray();
        return values.All(v => v.Constant is not null)
            ? Ints64([.. values.SelectMany(v => v.Constant!.ToInt64())])
            : Op("Concat", values, Attr.Int("axis", 0));
    }

    /// <summary>
    /// Gives an output of the forward node, adding it (and the ones before it) where the model leaves it out.
    /// </summary>
    public Term ForwardOutput(int output, ElementType type)
    {
        while (Node.Outputs.Count <= output || Node.Outputs[output].Name.Length == 0)
        {
            var index = Math.Min(output, Node.Outputs.Count);
            var value = B.Graph.AddValue(B.Graph.FreshName($"{Node.Outputs[0].Name}.{index}"));
            value.Type = type;
            Node.SetOutput(index, value);
        }

        return new(B, Node.Outputs[output]);
    }
}
