namespace MacOnnx.GraphRewriter;

/// <summary>What becomes of a gradient that reaches an operator.</summary>
public enum OperatorGradient
{
    /// <summary>It flows on to the operator's inputs.</summary>
    Yes,

    /// <summary>It ends there: the operator is piecewise constant, or gives shapes, indices, random numbers or
    /// texts.</summary>
    NotDifferentiable,

    /// <summary>The model cannot train: the operator has a gradient that is not implemented.</summary>
    Refused,

    /// <summary>It never reaches the operator: a pass replaces it by others before differentiation.</summary>
    Expanded,
}

/// <summary>One operator that the rewriter knows.</summary>
/// <param name="Domain">The operator's domain; empty for ai.onnx.</param>
/// <param name="Name">The operator, as ONNX spells it.</param>
/// <param name="Gradient">What becomes of its gradient.</param>
/// <param name="Reason">Why it is refused, and what to use in its place; empty for all else.</param>
/// <param name="Source">The source file of its rule or pass, below <c>src/GraphRewriter</c>.</param>
/// <param name="FirstOpset">The first operator set of the domain that has the operator, 7 or later for ai.onnx.</param>
/// <param name="LastOpset">The last one that has it and that is read.</param>
public sealed record OperatorInfo(
    string Domain,
    string Name,
    OperatorGradient Gradient,
    string Reason,
    string Source,
    long FirstOpset,
    long LastOpset
);
