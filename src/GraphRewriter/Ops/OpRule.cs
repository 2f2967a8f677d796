using System.Runtime.CompilerServices;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// Gives, for each input of a node, the gradient of the loss with respect to it; null where there is none.
/// </summary>
/// <param name="g">What the rule may name.</param>
/// <returns>One gradient for each input that needs one, in order; the array may end early.</returns>
public delegate Term?[] GradientRule(GradientContext g);

/// <summary>What the rewriter knows about one operator: a row of its table.</summary>
/// <remarks><see cref="Rewriter.Add"/> adds rows for operators of other domains.</remarks>
/// <param name="OpType">The operator.</param>
/// <param name="Gradient">The gradient of the inputs. Null, without a reason in <paramref name="Refused"/> or a place
/// in <paramref name="Expanded"/>, for an operator that is not differentiable: nothing flows back through it.</param>
/// <param name="Domain">The operator's domain; empty for ai.onnx.</param>
/// <param name="Broadcasts">Whether inputs are broadcast to the output's shape: the rule then gives gradients of that
/// shape, and the engine sums them back.</param>
/// <param name="NoGradient">The floating-point inputs that nothing flows back to although the operator is
/// differentiable: a ratio, scales.</param>
/// <param name="Refused">Why the operator has a gradient but none here, and what to use in its place.</param>
/// <param name="Expanded">The pass that replaces the operator by others before differentiation.</param>
/// <param name="Flow">How elements of the output come from elements of the data inputs.</param>
/// <param name="ResultType">The type of the first output, of a node of the operator; null for the type of the first
/// input.</param>
/// <param name="IsRandom">Whether two runs on the same inputs may differ.</param>
/// <param name="File">Where the row stands.</param>
/// <param name="Line">Where the row stands.</param>
public sealed record OpRule(
    string OpType,
    GradientRule? Gradient,
    string Domain = "",
    bool Broadcasts = false,
    int[]? NoGradient = null,
    string? Refused = null,
    string? Expanded = null,
    Flow Flow = Flow.Mixed,
    Func<Node, ElementType>? ResultType = null,
    bool IsRandom = false,
    [CallerFilePath] string File = "",
    [CallerLineNumber] int Line = 0
)
{
    /// <summary>Gets the floating-point inputs that nothing flows back to.</summary>
    internal int[] Constant { get; } = NoGradient ?? [];

    /// <summary>Gets whether a gradient that reaches the operator can go no further although it should.</summary>
    internal bool IsObstacle => Gradient is null && (Refused ?? Expanded) is not null;

    /// <summary>Gives the inputs of a node of the operator that gradients flow back to: the data inputs.</summary>
    internal IEnumerable<int> DataInputs(Node node) =>
        Enumerable
            .Range(0, node.Inputs.Count)
            .Where(i => node.Inputs[i] is { } input && input.Type.IsFloatingPoint() && !Constant.Contains(i));

    /// <summary>Gives what users are told about the row.</summary>
    internal OperatorInfo Describe() =>
        new(
            Domain,
            OpType,
            Gradient is not null ? OperatorGradient.Yes
                : Expanded is not null ? OperatorGradient.Expanded
                : Refused is not null ? OperatorGradient.Refused
                : OperatorGradient.NotDifferentiable,
            Refused ?? "",
            Expanded ?? $"Ops/{File.Split('/', '\\')[^1]}",
            OperatorSets.Of(Domain, OpType).First,
            OperatorSets.Of(Domain, OpType).Last
        );
}
