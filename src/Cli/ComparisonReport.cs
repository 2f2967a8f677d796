using System.Globalization;
using System.Text;
using MacOnnx.Runtime.Comparisons;

namespace MacOnnx.Cli;

/// <summary>A comparison as tables: for people and for machines.</summary>
/// <param name="Result">What it came to.</param>
/// <param name="Model">The model's file name.</param>
/// <param name="Data">The data's path.</param>
/// <param name="Options">How it compared.</param>
internal sealed record ComparisonReport(ComparisonResult Result, string Model, string Data, ComparisonOptions Options)
{
    /// <summary>The most points of a curve; they are smooth already.</summary>
    private const int MostPoints = 200;

    private const string Diverged = "diverged";

    /// <summary>Gets the heads of the columns of <see cref="Rows"/>.</summary>
    public static string[] Head =>
        [
            "method",
            "learning rate",
            "damping",
            "training loss",
            "validation loss",
            "accuracy",
            "ms a step",
            "state",
            "final loss reached",
            "half-run loss reached",
        ];

    /// <summary>Gets the title.</summary>
    public string Title => $"{string.Join(", ", Result.Methods.Select(m => m.Name))} on {Model}";

    /// <summary>Gets what the numbers are, in a few sentences.</summary>
    public string Explanation
    {
        get
        {
            var (training, data) = (Options.Training, Result.ValidationSamples);
            var samples = $"{Number(Result.Samples)} samples of {Data}";
            var seeds = training.Seed + (ulong)Options.Seeds;
            return $"{samples}{(data is { } v ? $", {Number(v)} for validation" : "")}; batches of "
                + $"{(training.BatchSize == 0 ? "all samples" : Number(training.BatchSize))}"
                + (training.AccumulationSteps > 1 ? $", {training.AccumulationSteps} a step" : "")
                + $"; schedule {training.Schedule.ToString().ToLowerInvariant()}"
                + (training.WarmupSteps > 0 ? $" after {Number(training.WarmupSteps)} steps of warm-up" : "")
                + $". Each method's search: {ReportView.Count(Options.Trials, "run")} of "
                + $"{Number(Result.SearchSteps)} steps, with seed "
                + $"{training.Seed}; the least {Result.Selection.ToString().ToLowerInvariant()} loss wins. Final runs: "
                + $"{Number(Result.Steps)} steps, seed{(Options.Seeds == 1 ? "" : "s")} {training.Seed + 1}"
                + (Options.Seeds == 1 ? "" : $" to {seeds}; mean ± standard deviation")
                + $". The training loss is the mean over the last tenth of a run. Reached: the step, and the time of "
                + $"so many steps, at which that loss is down to {Result.Reference}'s at the end and at half of its "
                + "run.";
        }
    }

    /// <summary>Gives the results, a row a method.</summary>
    public IEnumerable<string[]> Rows() =>
        Result.Methods.Select(m =>
        {
            var failed = m.Final.Count(r => r.HasDiverged);
            var none =
                m.Best is null ? Diverged
                : failed > 0 ? $"{Diverged} ({failed} of {m.Final.Length})"
                : "-";
            return (string[])
                [
                    m.Name,
                    m.Best is { } best ? Text(best.LearningRate) + (m.IsAtEndOfRates ? " (end of range)" : "") : none,
                    m.Best?.Damping is { } damping ? Text(damping) : "-",
                    m.TrainingLoss is { } loss ? Text(loss, "0.0000") : none,
                    m.ValidationLoss is { } validation ? Text(validation, "0.0000") : none,
                    m.Accuracy is { } a ? Text(new(100 * a.Mean, 100 * a.Deviation), "0.00") + " %" : none,
                    m.StepMilliseconds.ToString("G3", CultureInfo.InvariantCulture),
                    ReportView.Bytes(m.StateBytes),
                    Text(m.AtFinalLoss),
                    Text(m.AtHalfLoss),
                ];
        });

    /// <summary>Gets the heads of the columns of <see cref="SearchRows"/>.</summary>
    public string[] SearchHead =>
        [
            "method",
            "learning rate",
            "damping",
            "training loss",
            .. Validates ? ["validation loss"] : Array.Empty<string>(),
        ];

    private bool Validates => Result.Selection == SelectionKind.Validation;

    /// <summary>Gives the runs of the searches; the best are marked.</summary>
    public IEnumerable<string[]> SearchRows() =>
        from method in Result.Methods
        from run in method.Search
        select (string[])
            [
                method.Name + (run == method.Best ? " (best)" : ""),
                Text(run.LearningRate),
                run.Damping is { } damping ? Text(damping) : "-",
                run.TrainingLoss is { } loss ? Text(loss) : Diverged,
                .. Validates ? [run.Validation is { } v ? Text(v.Loss) : Diverged] : Array.Empty<string>(),
            ];

    /// <summary>Gives the results in Markdown, with the curves of the files beside it.</summary>
    public string ToMarkdown()
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"# {Title}\n\n{Explanation}\n\n");
        Table(Head, Rows());
        text.Append("\n![training loss by step](steps.svg)\n\n![training loss by time](seconds.svg)\n\n## Search\n\n");
        Table(SearchHead, SearchRows());
        return text.ToString();

        void Table(string[] head, IEnumerable<string[]> rows)
        {
            Row(head);
            Row([.. head.Select(_ => "---")]);
            foreach (var row in rows)
            {
                Row(row);
            }
        }

        void Row(string[] cells) =>
            text.Append("| ")
                .AppendJoin(" | ", cells.Select(c => c.Replace("|", "\\|", StringComparison.Ordinal)))
                .Append(" |\n");
    }

    /// <summary>Gives the results for machines.</summary>
    public ComparisonJson ToJson() =>
        new(
            Model,
            Data,
            Result.Samples,
            Result.ValidationSamples,
            Options.Training.BatchSize,
            Options.Training.Seed,
            Result.Steps,
            Result.SearchSteps,
            Options.Trials,
            Options.Seeds,
            Result.Selection.ToString().ToLowerInvariant(),
            Result.Reference,
            [.. Result.Methods.Select(ToJson)]
        );

    private static MethodJson ToJson(MethodResult method) =>
        new(
            method.Name,
            method.Best?.LearningRate,
            method.Best?.Damping,
            method.IsAtEndOfRates,
            method.TrainingLoss,
            method.ValidationLoss,
            method.Accuracy,
            method.StepMilliseconds,
            method.StateBytes,
            method.AtFinalLoss,
            method.AtHalfLoss,
            [.. method.Search.Select(ToJson)],
            [.. method.Final.Select(ToJson)],
            method.Curve is { } c
                ? [.. Points(c).Select(i => new PointJson(i + 1, c.Mean[i], c.Least[i], c.Most[i]))]
                : []
        );

    private static ComparisonRunJson ToJson(ComparisonRun run) =>
        new(run.LearningRate, run.Damping, run.Seed, run.TrainingLoss, run.Validation?.Loss, run.Validation?.Accuracy);

    /// <summary>Gives the indices of a curve that show it, its last among them.</summary>
    public static IEnumerable<int> Points(LossCurve curve)
    {
        var every = (curve.Mean.Length + MostPoints - 1) / MostPoints;
        return Enumerable
            .Range(1, curve.Mean.Length)
            .Where(s => s % every == 0 || s == curve.Mean.Length)
            .Select(s => s - 1);
    }

    private string Text(Reached? reached) =>
        reached is { } r
            ? string.Create(
                CultureInfo.InvariantCulture,
                $"step {r.Step:N0} ({100.0 * r.Step / Result.Steps:0} %), {r.Seconds:G3} s"
            )
            : "never";

    private static string Text(Spread spread, string format) =>
        spread.Mean.ToString(format, CultureInfo.InvariantCulture)
        + (spread.Deviation is { } d ? $" ± {d.ToString(format, CultureInfo.InvariantCulture)}" : "");

    private static string Text(float value) => value.ToString("G3", CultureInfo.InvariantCulture);

    private static string Text(double value) => value.ToString("0.0000", CultureInfo.InvariantCulture);

    private static string Number(long value) => value.ToString("N0", CultureInfo.InvariantCulture);
}

/// <summary>A comparison as <c>results.json</c> and <c>compare --json</c> show it.</summary>
internal sealed record ComparisonJson(
    string Model,
    string Data,
    long Samples,
    long? ValidationSamples,
    int BatchSize,
    ulong Seed,
    long Steps,
    long SearchSteps,
    int Trials,
    int Seeds,
    string Selection,
    string Reference,
    MethodJson[] Methods
);

internal sealed record MethodJson(
    string Name,
    float? LearningRate,
    float? Damping,
    bool IsAtEndOfRates,
    Spread? TrainingLoss,
    Spread? ValidationLoss,
    Spread? Accuracy,
    double StepMilliseconds,
    long StateBytes,
    Reached? AtFinalLoss,
    Reached? AtHalfLoss,
    ComparisonRunJson[] Search,
    ComparisonRunJson[] Final,
    PointJson[] Curve
);

internal sealed record ComparisonRunJson(
    float LearningRate,
    float? Damping,
    ulong Seed,
    double? TrainingLoss,
    double? ValidationLoss,
    double? Accuracy
);

internal sealed record PointJson(long Step, double Mean, double Least, double Most);
