using System.Collections.Immutable;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// What the one who emits calls of an operator, the registry and the kernel agree on: inputs and outputs, all of them
/// float tensors, none left out.
/// </summary>
/// <param name="Name">The operator.</param>
/// <param name="Inputs">The names of the inputs, in order.</param>
/// <param name="Outputs">For each output the name of the input whose shape it has; empty for a shape that the kernel
/// decides.</param>
/// <param name="Domain">The operator's domain.</param>
public sealed record OperatorSignature(
    string Name,
    ImmutableArray<string> Inputs,
    ImmutableArray<string> Outputs,
    string Domain = FunctionCall.Domain
)
{
    /// <summary>Gives the input whose shape an output has; null for a shape that the kernel decides.</summary>
    /// <param name="output">The output, from 0.</param>
    internal int? ShapeOf(int output) =>
        Outputs[output].Length == 0 ? null
        : Inputs.IndexOf(Outputs[output]) is var input and >= 0 ? input
        : throw new InvalidOperationException($"{Name} has no input '{Outputs[output]}'.");
}
