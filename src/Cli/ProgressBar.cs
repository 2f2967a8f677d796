using Spectre.Console;

namespace MacOnnx.Cli;

/// <summary>A progress bar below the lines of a long command, on a terminal.</summary>
internal static class ProgressBar
{
    /// <summary>Gives the terminal that a bar can be shown on; null where the output goes elsewhere.</summary>
    public static IAnsiConsole? Terminal(TextWriter output, bool isQuiet) =>
        ReferenceEquals(output, Console.Out) && !Console.IsOutputRedirected && !isQuiet ? AnsiConsole.Console : null;

    /// <summary>Runs work with a bar shown.</summary>
    /// <param name="terminal">The terminal; null for no bar.</param>
    /// <param name="description">What stands beside the bar at first.</param>
    /// <param name="started">Receives the bar.</param>
    /// <param name="work">The work.</param>
    public static T Run<T>(IAnsiConsole? terminal, string description, Action<ProgressTask> started, Func<T> work) =>
        terminal is null
            ? work()
            : terminal
                .Progress()
                .AutoClear(true)
                .Columns(
                    new ProgressBarColumn(),
                    new PercentageColumn(),
                    new TaskDescriptionColumn { Alignment = Justify.Left },
                    new RemainingTimeColumn()
                )
                .Start(context =>
                {
                    started(context.AddTask(description));
                    return work();
                });
}
