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
        var model = new Argument<string>("model.onnx") { Description = "The model." };
        var json = Options.Json();
        command.Add(model);
        command.Add(json);
        var rewrite = new RewriteArguments(command);
        command.SetAction(parsed =>
        {
            var report = Rewriter.Inspect(parsed.GetRequiredValue(model), rewrite.ToOptions(parsed));
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
