using System.CommandLine;
using System.Runtime.InteropServices;
using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Cli;

/// <summary><c>maconnx train</c>: rewrites if need be, trains, evaluates, exports.</summary>
internal sealed class TrainCommand
{
    private const int MostThreads = 1024;

    private readonly Argument<string> _model = new("model")
    {
        Description = "The model (.onnx), training artifacts, or the package that 'rewrite' made of it.",
    };
    private readonly Option<string> _data = new("--data")
    {
        Description = DataInput.Help,
        HelpName = "DATA",
        Required = true,
    };
    private readonly Option<string?> _validation = Options.Text(
        "--validation",
        "Data to evaluate on after every epoch.",
        "DATA"
    );
    private readonly Option<long?> _context = DataInput.Context();
    private readonly Option<string?> _output = Options.Output(
        "The folder of the run. Default runs/ and the model's name.",
        "RUN"
    );
    private readonly Option<bool> _resume = Options.Switch(
        "--resume",
        "Continue from the newest checkpoint of the run."
    );
    private readonly Option<int?> _threads = Options.Threads();
    private readonly Option<bool> _json = Options.Json();
    private readonly TrainArguments _train;
    private readonly RunLengthArguments _length;
    private readonly RewriteArguments _rewrite;

    private TrainCommand(Command command)
    {
        command.Add(_model);
        foreach (var option in new Option[] { _data, _validation, _context, _output, _resume, _threads, _json })
        {
            command.Add(option);
        }

        _length = new RunLengthArguments(command);
        _train = new TrainArguments(command);
        _rewrite = new RewriteArguments(command);
    }

    public static Command Create()
    {
        var command = new Command(
            "train",
            "Trains a model on data. Options of 'rewrite' apply where the model is an .onnx file."
        );
        var train = new TrainCommand(command);
        command.SetAction((parsed, cancellationToken) => Task.FromResult(train.Run(parsed, cancellationToken)));
        return command;
    }

    /// <summary>Gives what sets up ONNX Runtime for a number of threads.</summary>
    public static Action<SessionOptions>? Configure(int? threads) =>
        threads switch
        {
            null => null,
            >= 1 and <= MostThreads => options => options.IntraOpNumThreads = threads.Value,
            _ => throw new MacOnnxException(
                "MAC0303",
                "--threads",
                $"{threads} is out of range.",
                $"Give a number from 1 to {MostThreads}."
            ),
        };

    private int Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        var model = parsed.GetRequiredValue(_model);
        var resume = parsed.GetValue(_resume);
        var run = Folder(parsed.GetValue(_output), model, resume);
        var (package, isRewritten) = Package(parsed, model, resume ? run : null);
        var before = resume ? run.ReadOptions() : null;
        var context = parsed.GetValue(_context) ?? before?.Context;
        var (fitted, data) = DataInput.Load(package, parsed.GetRequiredValue(_data), context);
        var validation = DataInput.Validation(fitted, parsed.GetValue(_validation), data, context);
        var defaults = before ?? DataInput.DefaultOptions(data, validation);
        var options = _length.Apply(parsed, _train.Apply(parsed, defaults)) with
        {
            Context = context,
            OutputFolder = run.Path,
        };

        using var display = TrainingDisplay.Create(
            parsed.InvocationConfiguration.Output,
            parsed.InvocationConfiguration.Error,
            isQuiet: parsed.GetValue(_json)
        );

        // Native memory is taken next: what rewriting and reading left behind goes back first.
        GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive);
        using var session = new MacTrainingSession(fitted, Configure(parsed.GetValue(_threads)));
        using var trainer = new Trainer(session, data, options, validation, display);
        var isResumed = resume && trainer.Resume();
        if (!isRewritten)
        {
            session.Hyperparameters = _rewrite.ToHyperparameters(
                parsed,
                session.Hyperparameters,
                package.Manifest.Options,
                resume && run.HasPackage ? run.Package : model
            );
        }

        trainer.Check();
        if (isRewritten || !ReferenceEquals(fitted, package))
        {
            fitted.Save(run.Package);
        }

        if (resume && !isResumed)
        {
            display.Line($"{run.Path} holds no checkpoint yet: the run starts afresh.");
        }

        display.Line(
            isResumed
                ? $"Resuming {run.Path} after step {trainer.Step}."
                : $"{run.Path}: {data.Samples} "
                    + $"samples{(trainer.Validation is { } v ? $", {v.Samples} for validation" : "")}."
        );
        return Train(parsed, trainer, session, run, display, cancellationToken);
    }

    /// <summary>Trains and writes what comes of it.</summary>
    private int Train(
        ParseResult parsed,
        Trainer trainer,
        MacTrainingSession session,
        RunFolder run,
        TrainingDisplay display,
        CancellationToken cancellationToken
    )
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop);
        using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop);
        var result = display.Run(() => trainer.Run(stop.Token));
        if (!result.WasCancelled)
        {
            session.ExportInferenceModel(run.TrainedModel);
        }

        LossPlot.Write(run, session.Package.Manifest.Model);
        LayerPlot.Write(run);
        if (parsed.GetValue(_json))
        {
            parsed.InvocationConfiguration.Output.WriteLine(
                JsonSerializer.Serialize(ToJson(result, run), CliJson.Default.TrainingJson)
            );
        }

        display.Summary(result, run);
        return result.WasCancelled ? CommandLine.Cancelled : 0;

        // The first signal ends the run after its step; the next one has its usual effect.
        void Stop(PosixSignalContext context)
        {
            context.Cancel = !stop.IsCancellationRequested;
            stop.Cancel();
        }
    }

    private static TrainingJson ToJson(TrainingResult result, RunFolder run) =>
        new(
            run.Path,
            result.Step,
            float.IsFinite(result.Loss) ? result.Loss : null,
            result.Validation is { } v ? EvaluationJson.Of(v) : null,
            result.BestAccuracy,
            result.Checkpoint,
            result.WasCancelled ? null : run.TrainedModel,
            run.Plot,
            result.WasCancelled,
            result.SkippedSteps
        );

    private static RunFolder Folder(string? given, string model, bool resume)
    {
        if (given is not null)
        {
            return new RunFolder(given);
        }

        var name = Path.Combine("runs", Path.GetFileNameWithoutExtension(Path.TrimEndingDirectorySeparator(model)));
        if (resume)
        {
            throw new MacOnnxException("MAC0303", "--resume", "It needs the folder of the run.", "Name it with -o.");
        }

        var folder = name;
        for (var n = 2; Directory.Exists(folder); n++)
        {
            folder = $"{name}-{n}";
        }

        return new RunFolder(folder);
    }

    /// <summary>
    /// Gives the package to train: the run's own when it is resumed, the given one, or the model rewritten now.
    /// </summary>
    private (TrainingPackage Package, bool IsRewritten) Package(ParseResult parsed, string model, RunFolder? resumed)
    {
        var folder =
            resumed is { HasPackage: true } ? resumed.Package
            : Directory.Exists(model) && !TrainingArtifacts.AreIn(model) ? model
            : null;
        return folder is not null
            ? (TrainingPackage.Load(folder), false)
            : (Rewriter.Rewrite(model, _rewrite.ToOptions(parsed)).Package, true);
    }
}
