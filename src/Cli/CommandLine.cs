using System.CommandLine;
using System.CommandLine.Invocation;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.Cli;

/// <summary>The program: parses, runs a command, and turns every failure into one line and an exit code.</summary>
internal static class CommandLine
{
    /// <summary>Bad input: an option, a model, a file; or <c>check</c> found a wrong gradient.</summary>
    public const int BadInput = 1;

    /// <summary>A run that failed on its way, or a fault of this program.</summary>
    public const int Failed = 2;

    /// <summary>Ended by Ctrl-C, as shells number it.</summary>
    public const int Cancelled = 130;

    /// <summary>Runs one command line.</summary>
    /// <param name="args">The arguments.</param>
    /// <param name="output">Where results go.</param>
    /// <param name="error">Where failures go, one line each.</param>
    /// <param name="cancellationToken">Ends training after the current step.</param>
    /// <returns>The exit code: 0, or one of the constants here.</returns>
    public static async Task<int> RunAsync(
        IReadOnlyList<string> args,
        TextWriter output,
        TextWriter error,
        CancellationToken cancellationToken = default
    )
    {
        var parsed = Root().Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
        if (parsed.Action is ParseErrorAction)
        {
            var command =
                parsed.CommandResult.Command is RootCommand
                    ? "maconnx"
                    : $"maconnx {parsed.CommandResult.Command.Name}";
            error.WriteLine(
                $"error: {string.Join(' ', parsed.Errors.Select(e => e.Message)).ReplaceLineEndings(" ")} "
                    + $"See {command} --help."
            );
            return BadInput;
        }

        try
        {
            // Ctrl-C is the operating system's matter except while training, which handles it itself.
            var configuration = new InvocationConfiguration
            {
                Output = output,
                Error = error,
                EnableDefaultExceptionHandler = false,
                ProcessTerminationTimeout = null,
            };
            return await parsed.InvokeAsync(configuration, cancellationToken).ConfigureAwait(false);
        }
        catch (MacOnnxException e)
        {
            return Report(error, e, IsFailure(e) ? Failed : BadInput);
        }
        catch (OperationCanceledException)
        {
            return Cancelled;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Files are read and written where the failure gets their names: this is the standard output, or a working
            // folder that is not there any more.
            return Report(
                error,
                new MacOnnxException(
                    "MAC0407",
                    "standard output or working folder",
                    $"{e.Message.TrimEnd('.')}.",
                    "Write the output elsewhere, or start from another folder.",
                    e
                ),
                Failed
            );
        }
#pragma warning disable CA1031 // The last resort: a fault of this program is one line too.
        catch (Exception e)
#pragma warning restore CA1031
        {
            return Report(error, e, Failed);
        }
    }

    /// <summary>
    /// Whether something failed on its way, such as a step or a full disk, although the input was good.
    /// </summary>
    private static bool IsFailure(MacOnnxException e) =>
        e.Diagnostic.Id.StartsWith("MAC05", StringComparison.Ordinal)
        || e is { Diagnostic.Id: "MAC0401", InnerException: IOException };

    /// <summary>Writes a failure as one line; with MACONNX_DEBUG=1 also where in the program it came from.</summary>
    /// <returns><paramref name="exitCode"/>.</returns>
    private static int Report(TextWriter error, Exception e, int exitCode)
    {
        var message = e.Message.ReplaceLineEndings(" ");
        try
        {
            error.WriteLine(
                e is MacOnnxException
                    ? $"error: {FlagNames.Apply(message)}"
                    : $"internal error: {e.GetType().Name}: {message} Please report it with the model and "
                        + $"the command; MACONNX_DEBUG=1 shows where it happened."
            );
            if (Environment.GetEnvironmentVariable("MACONNX_DEBUG") == "1")
            {
                error.WriteLine(e);
            }
        }
        catch (IOException)
        {
            // Nowhere is left to say it; the exit code does.
        }

        return exitCode;
    }

    private static RootCommand Root() =>
        new("Trains ONNX models with the MAC optimizer on the stock ONNX Runtime.")
        {
            InspectCommand.Create(),
            RewriteCommand.Create(),
            TrainCommand.Create(),
            CompareCommand.Create(),
            EvalCommand.Create(),
            ExportCommand.Create(),
            CheckCommand.Create(),
            OpsCommand.Create(),
        };
}
