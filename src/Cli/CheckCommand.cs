using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;
using MacOnnx.GraphRewriter;
using MacOnnx.Runtime;
using MacOnnx.Runtime.Data;

namespace MacOnnx.Cli;

/// <summary><c>maconnx check</c>: whether a model's gradients are right.</summary>
internal static class CheckCommand
{
    public static Command Create()
    {
        var command = new Command("check", "Compares a model's gradients with finite differences of its loss.");
        var model = new Argument<string>("model.onnx") { Description = "The model." };
        var data = Options.Text(
            "--data",
            $"The first batch of it is checked. Default random data. {DataInput.Help}",
            "DATA"
        );
        var seed = Options.Number<ulong>("--seed", "The seed of random data, directions and dropout. Default 0.", "K");
        var (batchSize, context) = (TrainArguments.BatchSize(), DataInput.Context());
        var (threads, json) = (Options.Threads(), Options.Json());
        command.Add(model);
        foreach (var option in new Option[] { data, seed, batchSize, context, threads, json })
        {
            command.Add(option);
        }

        var rewrite = new RewriteArguments(command);
        command.SetAction(
            (parsed, cancellationToken) =>
            {
                var (package, _) = Rewriter.Rewrite(parsed.GetRequiredValue(model), rewrite.ToOptions(parsed));
                var start = parsed.GetValue(seed) ?? 0;
                var input = parsed.GetValue(data) is { } path
                    ? DataInput.Load(package, path, parsed.GetValue(context))
                    : new DataInput(package, RandomBatch.Make(package.Manifest, start));
                var size = parsed.GetValue(data) is null
                    ? 0
                    : parsed.GetValue(batchSize) ?? DataInput.DefaultBatchSize(input.Data);
                input.Data.CheckLabels(input.Package.Manifest);
                using var session = new MacTrainingSession(
                    input.Package,
                    TrainCommand.Configure(parsed.GetValue(threads))
                )
                {
                    Seed = start,
                };
                using var loader = new BatchLoader(input.Data, size, shuffle: false, seed: 0);
                var batch = loader.Epoch(0, 0, cancellationToken).First();
                var result = GradientCheck.Run(session, batch.Values, start, cancellationToken);
                var output = parsed.InvocationConfiguration.Output;
                if (parsed.GetValue(json))
                {
                    output.WriteLine(JsonSerializer.Serialize(CheckJson.Of(result), CliJson.Default.CheckJson));
                }
                else
                {
                    Write(output, result);
                }

                return Task.FromResult(result.IsRight ? 0 : CommandLine.BadInput);
            }
        );
        return command;
    }

    private static void Write(TextWriter output, GradientCheckResult result)
    {
        ReportView.Table(
            output,
            [
                ["PARAMETER", "BY GRADIENT", "BY DIFFERENCE", "ERROR/ALLOWED", "RESULT"],
                .. result.Parameters.Select(p =>
                    (string[])
                        [
                            string.Concat(p.Name.Where(c => !char.IsControl(c))),
                            Number(p.Derivative, "0.0000e+00"),
                            Number(p.Difference, "0.0000e+00"),
                            Number(p.Error, "0.000"),
                            p.IsRight
                                ? p.IsBelowNoise
                                    ? "right, too small to tell"
                                    : "right"
                                : "WRONG",
                        ]
                ),
            ]
        );
        output.WriteLine();
        output.WriteLine(
            result.EvaluationLoss is { } evaluation
                ? $"loss {Number(result.TrainingLoss, "0.000000")} in training, "
                    + $"{Number(evaluation, "0.000000")} in evaluation: "
                    + (result.LossesAgree ? "right" : "WRONG")
                : $"loss {Number(result.TrainingLoss, "0.000000")} in training; "
                    + "evaluation differs by dropout or batch normalization"
        );
        var wrong = result.Parameters.Count(p => !p.IsRight);
        var all = ReportView.Count(result.Parameters.Length, "parameter");
        output.WriteLine(wrong == 0 ? $"all {all} right" : $"{wrong} of {all} wrong");
    }

    private static string Number(double value, string format) => value.ToString(format, CultureInfo.InvariantCulture);
}

/// <summary>A parameter's derivative along the worst direction; null for a number that is not finite.</summary>
internal sealed record ParameterCheckJson(
    string Name,
    double? Gradient,
    double? Difference,
    double? Error,
    bool Right,
    bool TooSmallToTell
);

/// <summary>A check as <c>check --json</c> shows it.</summary>
internal sealed record CheckJson(
    bool Right,
    double? TrainingLoss,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] double? EvaluationLoss,
    bool LossesAgree,
    ParameterCheckJson[] Parameters
)
{
    public static CheckJson Of(GradientCheckResult result) =>
        new(
            result.IsRight,
            Finite(result.TrainingLoss),
            Finite(result.EvaluationLoss ?? double.NaN),
            result.LossesAgree,
            [
                .. result.Parameters.Select(p => new ParameterCheckJson(
                    p.Name,
                    Finite(p.Derivative),
                    Finite(p.Difference),
                    Finite(p.Error),
                    p.IsRight,
                    p.IsBelowNoise
                )),
            ]
        );

    private static double? Finite(double value) => double.IsFinite(value) ? value : null;
}
