namespace MacOnnx.Runtime.Checkpoints;

/// <summary>The dynamic scale of the loss, for float16 weights.</summary>
/// <param name="Value">What the loss is multiplied with before differentiation.</param>
/// <param name="Steps">The steps with finite numbers since it changed last.</param>
public readonly record struct LossScale(float Value, long Steps)
{
    private const int StepsToRaise = 2000;
    private const float Highest = 1 << 24;

    /// <summary>Gets the scale that training starts with.</summary>
    public static LossScale First { get; } = new(65536, 0);

    /// <summary>
    /// Gives the scale after a step: half of it where numbers were not finite, twice after 2,000 steps.
    /// </summary>
    /// <param name="isFinite">Whether the step's loss and gradients were finite.</param>
    public LossScale After(bool isFinite) =>
        !isFinite ? new(Math.Max(1, Value / 2), 0)
        : Steps + 1 < StepsToRaise ? this with { Steps = Steps + 1 }
        : new(Math.Min(Highest, Value * 2), 0);
}
