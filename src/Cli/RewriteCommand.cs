using System.CommandLine;
using System.Text.Json;
using MacOnnx.GraphRewriter;

namespace MacOnnx.Cli;

/// <summary><c>maconnx rewrite</c>: from a model to the package that trains it.</summary>
internal static class RewriteCommand
{
    private enum Form
    {
        Package,
        TrainingInfo,
    }

    public static Command Create()
    {
        var command = new Command("rewrite", "Makes the graphs that train a model.");
        var model = new Argument<string>("model.onnx")
        {
            Description = "The model, or training artifacts: the training graph or the folder.",
        };
        var output = Options.Output(
            "The package's folder, or the file. Default the model's name with .mac or .training.onnx.",
            "model.mac"
        );
        var emit = Options.Choice(
            "--emit",
            "A package, or the model with the training algorithm in it (training_info). Default package.",
            ("package", Form.Package),
            ("training-info", Form.TrainingInfo)
        );
        var dump = Options.Text("--dump-passes", "Write the graph after each pass, as text, into a folder.", "FOLDER");
        var json = Options.Json();
        command.Add(model);
        command.Add(output);
        command.Add(emit);
        command.Add(dump);
        command.Add(json);
        var (rewrite, files) = (new RewriteArguments(command), new ArtifactArguments(command));
        command.SetAction(parsed =>
        {
            var path = parsed.GetRequiredValue(model);
            var options = files.Apply(parsed, rewrite.ToOptions(parsed));
            var artifacts = files.Read(parsed, path);
            var isPackage = parsed.GetValue(emit) is not Form.TrainingInfo;
            var written =
                parsed.GetValue(output)
                ?? Path.ChangeExtension(Path.TrimEndingDirectorySeparator(path), isPackage ? ".mac" : ".training.onnx");
            var (package, report) = artifacts is null
                ? Rewriter.Rewrite(path, options, parsed.GetValue(dump))
                : Rewriter.Rewrite(artifacts, options, parsed.GetValue(dump));
            if (artifacts is not null && options.RebuildsBackward)
            {
                var note = BackwardComparison.Run(artifacts, options, package, CancellationToken.None);
                report = report with { Notes = report.Notes.Add(note) };
            }

            if (isPackage)
            {
                package.Save(written);
            }
            else
            {
                package.SaveTrainingInfo(written);
            }

            parsed.InvocationConfiguration.Output.WriteLine(
                parsed.GetValue(json)
                    ? JsonSerializer.Serialize(ReportView.ToJson(report, written), CliJson.Default.ReportJson)
                    : $"{written}: {Summary(report)}{(options.RebuildsBackward ? $" {report.Notes[^1]}" : "")}"
            );
        });
        return command;
    }

    /// <summary>Says in a line what trains how.</summary>
    public static string Summary(RewriteReport report)
    {
        var trained = report
            .Parameters.Where(p => p.IsTrained)
            .GroupBy(p => p.Treatment, StringComparer.Ordinal)
            .Select(g => $"{g.Count()} {g.Key}");
        return $"{string.Join(", ", trained)} of {report.Parameters.Length} constants; optimizer state "
            + $"{ReportView.Bytes(report.StateBytes)}.";
    }
}
