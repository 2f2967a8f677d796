using System.CommandLine;
using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.Cli;

/// <summary><c>maconnx export</c>: the original model with trained weights.</summary>
internal static class ExportCommand
{
    public static Command Create()
    {
        var command = new Command(
            "export",
            "Writes the original model, in inference mode, with the weights of a checkpoint."
        );
        var package = new Argument<string>("model.mac") { Description = "The package." };
        var checkpoint = new Option<string>("--checkpoint")
        {
            Description = "The checkpoint.",
            HelpName = "FILE",
            Required = true,
        };
        var output = Options.Output("The model to write. Default trained.onnx beside the checkpoint.", "trained.onnx");
        var json = Options.Json();
        command.Add(package);
        command.Add(checkpoint);
        command.Add(output);
        command.Add(json);
        command.SetAction(parsed =>
        {
            var from = parsed.GetRequiredValue(checkpoint);
            var to = parsed.GetValue(output) ?? Path.Combine(Path.GetDirectoryName(from) ?? "", "trained.onnx");
            TrainingPackage
                .Load(parsed.GetRequiredValue(package))
                .ExportInferenceModel(to, Safetensors.Read(from).Tensors);
            parsed.InvocationConfiguration.Output.WriteLine(
                parsed.GetValue(json) ? JsonSerializer.Serialize(new(to), CliJson.Default.ExportJson) : to
            );
        });
        return command;
    }
}
