namespace MacOnnx.Runtime;

/// <summary>How the learning rate changes from step to step.</summary>
public enum ScheduleKind
{
    /// <summary>It does not.</summary>
    Constant,

    /// <summary>It falls to zero along half a period of a cosine.</summary>
    Cosine,

    /// <summary>It falls to zero along a line.</summary>
    Linear,

    /// <summary>It is multiplied by a factor every so many steps.</summary>
    Step,
}

/// <summary>The learning rate of every step, as a factor on the one that was set.</summary>
/// <remarks>
/// With t the step from 0, W the warm-up steps, S the steps and T = min(t - W, S - W):
/// <list type="bullet">
/// <item>warm-up, t below W: (t + 1) / W, so that the first step has 1/W and the last of them the full rate;</item>
/// <item>constant: 1;</item>
/// <item>cosine: (1 + cos(pi T / (S - W))) / 2, which without warm-up is (1 + cos(pi t / S)) / 2; zero from step S
/// on;</item>
/// <item>linear: 1 - T / (S - W); zero from step S on;</item>
/// <item>step: gamma^floor((t - W) / S), where S is the number of steps between two falls.</item>
/// </list>
/// </remarks>
/// <param name="Kind">The kind.</param>
/// <param name="Steps">S, 1 or more; of no effect for a constant rate.</param>
/// <param name="WarmupSteps">W, 0 or more; for cosine and linear they are part of <paramref name="Steps"/>.</param>
/// <param name="Gamma">The factor of the kind <see cref="ScheduleKind.Step"/>.</param>
public sealed record LearningRateSchedule(ScheduleKind Kind, long Steps, long WarmupSteps = 0, double Gamma = 0.1)
{
    /// <summary>Gives the factor of a step.</summary>
    /// <param name="step">The step, from 0.</param>
    public double Factor(long step)
    {
        if (step < WarmupSteps)
        {
            return (step + 1.0) / WarmupSteps;
        }

        var t = step - WarmupSteps;
        var part = Steps > WarmupSteps ? Math.Min(1, (double)t / (Steps - WarmupSteps)) : 1;
        return Kind switch
        {
            ScheduleKind.Cosine => 0.5 * (1 + Math.Cos(Math.PI * part)),
            ScheduleKind.Linear => 1 - part,
            ScheduleKind.Step => Math.Pow(Gamma, t / Steps),
            _ => 1,
        };
    }
}
