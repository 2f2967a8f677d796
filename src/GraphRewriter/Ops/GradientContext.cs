using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// What a gradient rule may name: inputs X(i), outputs Y(i), gradients DY(i) of the outputs, attributes, shapes.
/// </summary>
public sealed class GradientContext
{
    private readonly IReadOnlyList<Value?> _outputGradients;
    private readonly Func<int, bool> _needed;

    /// <summary>Initializes a new instance of the <see cref="GradientContext"/> class.</summary>
    /// <param name="builder">Where the rule emits.</param>
    /// <param name="node">The forward node.</param>
    /// <param name="outputGradients">The gradient of each output; null where the loss does not depend on it.</param>
    /// <param name="needed">Whether the gradient of an input is wanted.</param>
    internal GradientContext(
        GraphBuilder builder,
        Node node,
        IReadOnlyList<Value?> outputGradients,
        Func<int, bool> needed
    ) => (B, Node, _outputGradients, _needed) = (builder, node, outputGradients, needed);

    /// <summary>Gets the forward node.</summary>
    public Node Node { get; }

    /// <summary>Gets the number of inputs given.</summary>
    public int InputCount => Node.Inputs.Count;

    internal GraphBuilder B { get; }

    /// <summary>Gets whether the loss depends on an output.</summary>
    /// <param name="output">The output, from 0.</param>
    public bool HasDY(int output) => output < _outputGradients.Count && _outputGradients[output] is not null;

    /// <summary>Gives the gradient of an output: zeros where the loss does not depend on it.</summary>
    /// <param name="output">The output, from 0.</param>
    public Term DY(int output = 0) => _outputGradients[output] is { } gradient ? new(B, gradient) : Y(output).Zeros();

    /// <summary>Gives an output of the forward node.</summary>
    /// <param name="output">The output, from 0.</param>
    public Term Y(int output = 0) => new(B, Node.Outputs[output]);

    /// <summary>Gives an input of the forward node, which must not be left out.</summary>
    /// <param name="input">The input, from 0.</param>
    public Term X(int input = 0) => new(B, Node.Inputs[input]!);

    /// <summary>Gets whether an optional input is given.</summary>
    /// <param name="input">The input, from 0.</param>
    public bool Has(int input) => Node.Input(input) is not null;

    /// <summary>Gets whether the gradient of an input is wanted; a rule may leave out what is not.</summary>
    /// <param name="input">The input, from 0.</param>
    public bool Needs(int input) => input < InputCount && _needed(input);

    /// <summary>Gives the shape of an input.</summary>
    /// <param name="input">The input, from 0.</param>
    public Shape ShapeX(int input = 0) => Node.Inputs[input]!.KnownShape;

    /// <summary>Gives the shape of an output.</summary>
    /// <param name="output">The output, from 0.</param>
    public Shape ShapeY(int output = 0) => Node.Outputs[output].KnownShape;

    /// <summary>Gives an integer attribute.</summary>
    /// <param name="attribute">The attribute.</param>
    /// <param name="fallback">ONNX's default.</param>
    public long Int(string attribute, long fallback) => Node.Attributes.Int(attribute, fallback);

    /// <summary>Gives a float attribute.</summary>
    /// <param name="attribute">The attribute.</param>
    /// <param name="fallback">ONNX's default.</param>
    public float Float(string attribute, float fallback) => Node.Attributes.Float(attribute, fallback);

    /// <summary>Gives a string attribute.</summary>
    /// <param name="attribute">The attribute.</param>
    /// <param name="fallback">ONNX's default.</param>
    public string Text(string attribute, string fallback) => Node.Attributes.Text(attribute, fallback);

    /// <summary>Gives a list of integers; null where the attribute is left out.</summary>
    /// <param name="attribute">The attribute.</param>
    public long[]? Ints(string attribute) => Node.Attributes.Ints(attribute);

    /// <summary>
    /// Gives the elements of an integer input that is a constant; null where it is left out or computed at run time.
    /// </summary>
    /// <param name="input">The input, from 0.</param>
    public long[]? ConstantInts(int input) => Node.Input(input)?.Constant?.ToInt64();

    /// <summary>Gets an axis attribute counted from the front, for the shape of an input.</summary>
    /// <param name="attribute">The attribute.</param>
    /// <param name="fallback">ONNX's default.</param>
    /// <param name="input">The input, from 0.</param>
    public int Axis(string attribute, long fallback, int input = 0) => ShapeX(input).Axis(Int(attribute, fallback));

    /// <summary>Makes the error for a use of the operator that no rule covers (MAC0102).</summary>
    /// <param name="what">The use, to follow "where".</param>
    /// <param name="hint">What to do, a sentence.</param>
    public Exception Unsupported(string what, string hint) =>
        new UnsupportedUseException("MAC0102", $"{Node}", what, hint);

    /// <summary>Emits an operator of ai.onnx with one output.</summary>
    /// <param name="opType">The operator.</param>
    /// <param name="inputs">Its inputs; null for one that is left out.</param>
    /// <param name="attributes">Its attributes.</param>
    public Term Op(string opType, ReadOnlySpan<Value?> inputs, params ReadOnlySpan<Attr> attributes) =>
        new(B, B.Op(opType, inputs, attributes));

    /// <summary>Emits an operator of another domain with one output.</summary>
    /// <param name="domain">The domain.</param>
    /// <param name="opType">The operator.</param>
    /// <param name="inputs">Its inputs; null for one that is left out.</param>
    /// <param name="attributes">Its attributes.</param>
    public Term OpIn(string domain, string opType, ReadOnlySpan<Value?> inputs, params ReadOnlySpan<Attr> attributes) =>
        new(B, B.OpIn(domain, opType, inputs, attributes));

    /// <summary>Gives a 1-D int64 constant, such as axes or a shape.</summary>
    /// <param name="values">The elements.</param>
    public Term Ints64(params ReadOnlySpan<long> values) => new(B, B.Int64s(values));

    /// <summary>
    /// Sums a gradient of shape <paramref name="from"/> over the axes along which an input was repeated.
    /// </summary>
    internal Term SumTo(int input, Term gradient, Shape from) => Broadcasting.Undo(gradient, from, Node.Inputs[input]!);

    /// <summary>
    /// Emits an operator whose meaning only <c>Lowering/</c> spells out (domain <see cref="OpTable.GradientDomain"/>).
    /// </summary>
    internal Node Internal(
        string opType,
        ReadOnlySpan<Value?> inputs,
        int outputs,
        params ReadOnlySpan<Attr> attributes
    ) => B.Node(opType, OpTable.GradientDomain, inputs, outputs, attributes);

    /// <summary>Wraps a value for use in formulas.</summary>
    internal Term Of(Value value) => new(B, value);

    /// <summary>Joins 1-D int64 tensors, such as parts of a shape: a constant where all of them are.</summary>
    internal Term Join(params IEnumerable<Term> parts)
    {
        var values = parts.Select(p => p.V).ToArray();
        return values.All(v => v.Constant is not null)
            ? Ints64([.. values.SelectMany(v => v.Constant!.ToInt64())])
            : Op("Concat", values, Attr.Int("axis", 0));
    }

    /// <summary>
    /// Puts an operator of <see cref="OpTable.GradientDomain"/> in the place of the forward node: one of the same
    /// inputs, outputs and attributes that gives more outputs.
    /// </summary>
    internal Node Replace(string opType, int more)
    {
        var forward = new Node(
            opType,
            OpTable.GradientDomain,
            Node.Name,
            Node.Inputs,
            Node.Attributes.All,
            [
                .. Node.Outputs,
                .. Enumerable
                    .Range(Node.Outputs.Count, more)
                    .Select(i => B.Graph.AddValue(B.Graph.FreshName($"{Node.Name}.{i}"))),
            ]
        )
        {
            Origin = B.Origin,
        };
        foreach (var output in forward.Outputs.Skip(Node.Outputs.Count))
        {
            output.Type = X().Type;
        }

        B.Graph.Replace(Node, forward);
        return forward;
    }

    /// <summary>
    /// Gives an output of the forward node, adding it (and the ones before it) where the model leaves it out.
    /// </summary>
    internal Term ForwardOutput(int output, ElementType type)
    {
        while (Node.Outputs.Count <= output || Node.Outputs[output].Name.Length == 0)
        {
            var index = Math.Min(output, Node.Outputs.Count);
            var value = B.Graph.AddValue(
                B.Graph.FreshName($"{Node.Outputs.First(o => o.Name.Length > 0).Name}.{index}")
            );
            value.Type = type;
            Node.SetOutput(index, value);
        }

        return new(B, Node.Outputs[output]);
    }
}
