using System.CommandLine;
using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.Runtime.Checkpoints;
using MacOnnx.Runtime.OnDevice;

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
        var averaged = Options.Switch("--ema", "Write the average of the weights that training with --ema keeps.");
        var ort = Options.Switch(
            "--to-ort-checkpoint",
            "Write a checkpoint of ONNX Runtime's on-device training instead of a model."
        );
        var json = Options.Json();
        command.Add(package);
        command.Add(checkpoint);
        command.Add(output);
        command.Add(averaged);
        command.Add(ort);
        command.Add(json);
        command.SetAction(parsed =>
        {
            var from = parsed.GetRequiredValue(checkpoint);
            var to =
                parsed.GetValue(output)
                ?? Path.Combine(
                    Path.GetDirectoryName(from) ?? "",
                    parsed.GetValue(ort) ? "checkpoint" : "trained.onnx"
                );
            var loaded = TrainingPackage.Load(parsed.GetRequiredValue(package));
            if (parsed.GetValue(ort))
            {
                var state = Checkpoint.Read(from);
                var rate = (state.Hyperparameters ?? loaded.Manifest.Options.Hyperparameters).LearningRate;
                OrtCheckpoint.Of(loaded, state.State, state.Updates, rate).Write(to);
            }
            else
            {
                var tensors = Safetensors.Read(from).Tensors;
                loaded.ExportInferenceModel(to, parsed.GetValue(averaged) ? loaded.AveragedWeights(tensors) : tensors);
            }

            parsed.InvocationConfiguration.Output.WriteLine(
                parsed.GetValue(json) ? JsonSerializer.Serialize(new(to), CliJson.Default.ExportJson) : to
            );
        });
        return command;
    }
}
