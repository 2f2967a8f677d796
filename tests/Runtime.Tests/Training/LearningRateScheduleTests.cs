namespace MacOnnx.Runtime.Tests.Training;

/// <summary>
/// Schedules against their closed forms, computed here by hand or by the formula in the documentation.
/// </summary>
public sealed class LearningRateScheduleTests
{
    [Fact]
    public void CosineFallsToZero()
    {
        var schedule = new LearningRateSchedule(ScheduleKind.Cosine, 12);
        for (var t = 0; t <= 12; t++)
        {
            Assert.Equal(0.5 * (1 + Math.Cos(Math.PI * t / 12)), schedule.Factor(t), 1e-15);
        }

        Assert.Equal(1, schedule.Factor(0));
        Assert.Equal(0.5, schedule.Factor(6), 1e-15);
        Assert.Equal(0, schedule.Factor(500), 1e-15);
    }

    [Theory]
    [InlineData(ScheduleKind.Constant, 0, 0.25)]
    [InlineData(ScheduleKind.Constant, 3, 1)]
    [InlineData(ScheduleKind.Constant, 1000, 1)]
    [InlineData(ScheduleKind.Cosine, 3, 1)]
    [InlineData(ScheduleKind.Cosine, 4, 1)]
    [InlineData(ScheduleKind.Cosine, 8, 0.5)]
    [InlineData(ScheduleKind.Cosine, 12, 0)]
    [InlineData(ScheduleKind.Linear, 1, 0.5)]
    [InlineData(ScheduleKind.Linear, 4, 1)]
    [InlineData(ScheduleKind.Linear, 6, 0.75)]
    [InlineData(ScheduleKind.Linear, 12, 0)]
    [InlineData(ScheduleKind.Linear, 13, 0)]
    [InlineData(ScheduleKind.Step, 3, 1)]
    [InlineData(ScheduleKind.Step, 15, 1)]
    [InlineData(ScheduleKind.Step, 16, 0.5)]
    [InlineData(ScheduleKind.Step, 28, 0.25)]
    public void WarmUpComesFirst(ScheduleKind kind, long step, double factor) =>
        Assert.Equal(factor, new LearningRateSchedule(kind, 12, WarmupSteps: 4, Gamma: 0.5).Factor(step), 1e-15);

    [Fact]
    public void WarmUpLongerThanTheScheduleEndsAtZero() =>
        Assert.Equal(
            [0.25, 1, 0],
            new long[] { 0, 3, 4 }.Select(new LearningRateSchedule(ScheduleKind.Linear, 2, 4).Factor)
        );
}
