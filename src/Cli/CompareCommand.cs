using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Text;
using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.Runtime;
using MacOnnx.Runtime.Comparisons;

namespace MacOnnx.Cli;

/// <summary><c>maconnx compare</c>: methods side by side, with an equal search for each.</summary>
internal sealed class CompareCommand
{
    private const string DefaultOptimizers = "mac-adamw,adamw,sgd";

    private readonly Argument<string> _model = new("model") { Description = "The model (.onnx)." };
    private readonly Option<string> _data = new("--data")
    {
        Description = DataInput.Help,
        HelpName = "DATA",
        Required = true,
    };
    private readonly Option<string?> _validation = Options.Text(
        "--validation",
        "Data to evaluate on after every run.",
        "DATA"
    );
    private readonly Option<long?> _context = DataInput.Context();
    private readonly Option<string?> _optimizers = Options.Text(
        "--optimizers",
        $"The optimizers to compare, as --optimizer names them, with commas between. Default {DefaultOptimizers}.",
        "O,O,..."
    );
    private readonly Option<string[]> _methods = new("--method")
    {
        Description =
            "A further method: a name and options of 'rewrite', such as "
            + "'plain means: --optimizer mac --value-statistic none'; may be repeated.",
        HelpName = "'NAME: OPTIONS'",
        Arity = ArgumentArity.OneOrMore,
    };
    private readonly Option<int?> _trials = Options.Number<int>(
        "--trials",
        "Runs of each method's search. With damping, a third of them is for it. Default 7.",
        "T"
    );
    private readonly Option<int?> _seeds = Options.Number<int>("--seeds", "Final runs of each method. Default 3.", "K");
    private readonly Option<long?> _steps = Options.Number<long>("--steps", "Steps of a run. Default 1000.", "S");
    private readonly Option<TimeSpan?> _budget = Options.Parsed<TimeSpan>(
        "--budget",
        "Instead of --steps: about how long the whole comparison takes, such as 90s, 10m or 2h.",
        "TIME",
        "a time such as 90s, 10m or 2h",
        Time
    );
    private readonly Option<long?> _searchSteps = Options.Number<long>(
        "--search-steps",
        "Steps of a run of the search. Default those of a final run.",
        "S"
    );
    private readonly Option<SelectionKind?> _select = Options.Choice(
        "--select",
        "Which loss decides the search. Default validation, without such data training.",
        ("validation", SelectionKind.Validation),
        ("training", SelectionKind.Training)
    );
    private readonly Option<double?> _rateRange = Options.Number<double>(
        "--rate-range",
        "Learning rates are searched from a method's own divided by F to it times F. Default 10.",
        "F"
    );
    private readonly Option<double?> _dampingRange = Options.Number<double>(
        "--damping-range",
        "The same for damping. Default 10.",
        "F"
    );
    private readonly Option<string?> _reference = Options.Text(
        "--reference",
        "The method whose losses the others are to reach. Default adamw, else the first.",
        "NAME"
    );
    private readonly Option<string?> _output = Options.Output(
        "The folder of the results, and of every finished run: a comparison that was stopped goes on from there. "
            + "Default compare/ and the model's name.",
        "OUT"
    );
    private readonly Option<int?> _threads = Options.Threads();
    private readonly Option<bool> _json = Options.Json();
    private readonly TrainArguments _train;
    private readonly RewriteArguments _rewrite;

    private CompareCommand(Command command)
    {
        command.Add(_model);
        foreach (
            var option in new Option[]
            {
                _data,
                _validation,
                _context,
                _optimizers,
                _methods,
                _trials,
                _seeds,
                _steps,
                _budget,
                _searchSteps,
                _select,
                _rateRange,
                _dampingRange,
                _reference,
                _output,
                _threads,
                _json,
            }
        )
        {
            command.Add(option);
        }

        _train = new TrainArguments(command);
        _rewrite = new RewriteArguments(command);
    }

    public static Command Create()
    {
        var command = new Command(
            "compare",
            "Compares optimizers on a model: an equal search for each, then runs with fresh seeds. Options of "
                + "'rewrite' apply to all; --learning-rate and --damping are the middle of the search."
        );
        var compare = new CompareCommand(command);
        command.SetAction((parsed, cancellationToken) => Task.FromResult(compare.Run(parsed, cancellationToken)));
        return command;
    }

    private int Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        var model = parsed.GetRequiredValue(_model);
        var methods = Methods(parsed);
        if (methods is [])
        {
            throw new MacOnnxException(
                "MAC0303",
                "--optimizers",
                "It names none.",
                $"Name some, for example {DefaultOptimizers}."
            );
        }

        var first = Rewriter.Rewrite(model, methods[0].Options).Package;
        var context = parsed.GetValue(_context);
        var (fitted, data) = DataInput.Load(first, parsed.GetRequiredValue(_data), context);
        var validation = DataInput.Validation(fitted, parsed.GetValue(_validation), data, context);
        var others = methods
            .Skip(1)
            .Select(m => new ComparisonMethod(
                m.Name,
                Rewriter.Rewrite(model, m.Options with { ClassAxis = fitted.Manifest.Options.ClassAxis }).Package
            ));
        var options = ToOptions(parsed, model, DataInput.DefaultOptions(data, validation) with { Context = context });
        using var display = CompareDisplay.Create(
            parsed.InvocationConfiguration.Output,
            isQuiet: parsed.GetValue(_json)
        );
        var comparison = new Comparison(
            [new(methods[0].Name, fitted), .. others],
            data,
            options,
            validation,
            TrainCommand.Configure(parsed.GetValue(_threads)),
            display
        );
        var result = display.Run(() => comparison.Run(cancellationToken));
        var report = new ComparisonReport(result, fitted.Manifest.Model, parsed.GetRequiredValue(_data), options);
        var json = JsonSerializer.Serialize(report.ToJson(), CliJson.Default.ComparisonJson);
        var folder = options.OutputFolder!;
        Write(folder, "results.json", json + "\n");
        Write(folder, "results.md", report.ToMarkdown());
        Write(folder, "steps.svg", ComparisonPlot.BySteps(result).ToSvg());
        Write(folder, "seconds.svg", ComparisonPlot.BySeconds(result).ToSvg());
        Write(folder, "results.html", ComparisonPage.Of(report));
        if (parsed.GetValue(_json))
        {
            parsed.InvocationConfiguration.Output.WriteLine(json);
        }

        display.Summary(report, folder);
        return 0;
    }

    private static void Write(string folder, string file, string text) =>
        AtomicFile.Write(Path.Combine(folder, file), stream => stream.Write(Encoding.UTF8.GetBytes(text)));

    private ComparisonOptions ToOptions(ParseResult parsed, string model, TrainerOptions training)
    {
        var defaults = new ComparisonOptions();
        var (steps, budget) = (parsed.GetValue(_steps), parsed.GetValue(_budget));
        return steps is not null && budget is not null
            ? throw new MacOnnxException("MAC0303", "--budget", "The steps are given already.", "Give one of the two.")
            : defaults with
            {
                Steps = budget is null ? steps ?? defaults.Steps : null,
                Budget = budget,
                SearchSteps = parsed.GetValue(_searchSteps),
                Trials = parsed.GetValue(_trials) ?? defaults.Trials,
                Seeds = parsed.GetValue(_seeds) ?? defaults.Seeds,
                Selection = parsed.GetValue(_select),
                RateRange = parsed.GetValue(_rateRange) ?? defaults.RateRange,
                DampingRange = parsed.GetValue(_dampingRange) ?? defaults.DampingRange,
                Reference = parsed.GetValue(_reference),
                Training = _train.Apply(parsed, training with { Schedule = defaults.Training.Schedule }),
                OutputFolder =
                    parsed.GetValue(_output) ?? Path.Combine("compare", Path.GetFileNameWithoutExtension(model)),
            };
    }

    /// <summary>Gives the methods by name, each with the common options and its own.</summary>
    private List<(string Name, RewriteOptions Options)> Methods(ParseResult parsed)
    {
        var command = new Command("method");
        _rewrite.AddTo(command);
        var methods = parsed.GetValue(_methods) ?? [];
        var names = parsed.GetValue(_optimizers) ?? (methods is [] ? DefaultOptimizers : "");
        return
        [
            .. names
                .Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)
                .Select(name => (name, Parse("--optimizers", ["--optimizer", name]))),
            .. methods.Select(text =>
                text.Split(':', 2, StringSplitOptions.TrimEntries) is [{ Length: > 0 } name, var options]
                    ? (name, Parse($"--method {name}", [.. CommandLineParser.SplitCommandLine(options)]))
                    : throw new MacOnnxException(
                        "MAC0303",
                        "--method",
                        $"'{text}' is not a name and options.",
                        "Give it as 'NAME: OPTIONS', for example 'fast: --optimizer sgd --momentum 0.8'."
                    )
            ),
        ];

        RewriteOptions Parse(string where, string[] options)
        {
            var own = command.Parse(options, new ParserConfiguration { ResponseFileTokenReplacer = null });
            return own.Errors is []
                ? _rewrite.ToOptions(own, parsed)
                : throw new MacOnnxException(
                    "MAC0303",
                    where,
                    string.Join(' ', own.Errors.Select(e => e.Message)),
                    "See maconnx compare --help."
                );
        }
    }

    /// <summary>Reads a time with its unit; null where it is none.</summary>
    internal static TimeSpan? Time(string text) =>
        text is [.. var number, var unit]
        && double.TryParse(number, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out var count)
        && unit switch
        {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => 0,
        }
            is var seconds
                and > 0
        && count * seconds is > 0 and < 1e8
            ? TimeSpan.FromSeconds(count * seconds)
            : null;
}
