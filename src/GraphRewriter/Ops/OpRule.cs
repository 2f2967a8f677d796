using System.Runtime.CompilerServices;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// Gives, for each input of a node, the gradient of the loss with respect to it; null where there is none.
/// </summary>
internal delegate Term?[] GradientRule(GradientContext g);

/// <summary>What the rewriter knows about one operator: one row of <see cref="OpTable"/>.</summary>
/// <param name="OpType">The operator.</param>
/// <param name="Gradient">The gradient of the inputs, or null for an operator that is not differentiable: nothing flows
/// back through it.</param>
/// <param name="Domain">The operator's domain; empty for ai.onnx.</param>
/// <param name="File">Where the row stands, for messages of tests.</param>
/// <param name="Line">Where the row stands, for messages of tests.</param>
/// <param name="Broadcasts">Whether inputs are broadcast to the output's shape: the rule then gives gradients of that
/// shape, and the engine sums them back.</param>
/// <param name="NoGradient">The floating-point inputs that nothing flows back to although the operator is
/// differentiable: a ratio, scales.</param>
internal sealed record OpRule(
    string OpType,
    GradientRule? Gradient,
    string Domain = "",
    bool Broadcasts = false,
    int[]? NoGradient = null,
    [CallerFilePath] string File = "",
    [CallerLineNumber] int Line = 0
)
{
    /// <summary>Gets the floating-point inputs that nothing flows back to.</summary>
    public int[] Constant { get; } = NoGradient ?? [];
}
