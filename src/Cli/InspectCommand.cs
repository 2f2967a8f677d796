using System.CommandLine;
using System.Text.Json;
using MacOnnx.GraphRewriter;

namespace MacOnnx.Cli;

/// <summary><c>maconnx inspect</c>: what would be done with a model.</summary>
internal static class InspectCommand
{
    public static Command Create()
    {
        var command = new Command("inspect", "Shows every parameter of a model and how it would train.");
        var model = new Argument<string>("model.onnx")
        {
            Description = "The model, or training artifacts: the training graph or the folder.",
        };
        var json = Options.Json();
        command.Add(model);
        command.Add(json);
        var (rewrite, files) = (new RewriteArguments(command), new ArtifactArguments(command));
        command.SetAction(parsed =>
        {
            var (path, options) = (parsed.GetRequiredValue(model), files.Apply(parsed, rewrite.ToOptions(parsed)));
            var report = files.Read(parsed, path) is { } artifacts
                ? Rewriter.Inspect(artifacts, options)
                : Rewriter.Inspect(path, options);
            var output = parsed.InvocationConfiguration.Output;
            if (parsed.GetValue(json))
            {
                output.WriteLine(JsonSerializer.Serialize(ReportView.ToJson(report), CliJson.Default.ReportJson));
            }
            else
            {
                ReportView.Write(output, report);
            }
        });
        return command;
    }
}
