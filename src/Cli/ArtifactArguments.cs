using System.CommandLine;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.Cli;

/// <summary>The options that name the files beside a training graph of ONNX Runtime.</summary>
internal sealed class ArtifactArguments
{
    private readonly Option<string?> _optimizer = Options.Text(
        "--optimizer-model",
        "Training artifacts: the optimizer graph, for --optimizer keep.",
        "optimizer_model.onnx"
    );
    private readonly Option<string?> _evaluation = Options.Text(
        "--eval-model",
        "Training artifacts: the evaluation graph. Default the training graph's forward part.",
        "eval_model.onnx"
    );
    private readonly Option<string?> _checkpoint = Options.Text(
        "--checkpoint",
        "Training artifacts: the parameters, a file or the folder of an older release.",
        "checkpoint"
    );
    private readonly Option<bool> _rebuilds = Options.Switch(
        "--rebuild-backward",
        "Training artifacts: drop the graph's own backward pass and differentiate the forward part."
    );

    /// <summary>
    /// Initializes a new instance of the <see cref="ArtifactArguments"/> class and adds the options to a command.
    /// </summary>
    public ArtifactArguments(Command command)
    {
        foreach (var option in Files)
        {
            command.Add(option);
        }

        command.Add(_rebuilds);
    }

    private Option<string?>[] Files => [_optimizer, _evaluation, _checkpoint];

    /// <summary>Gives the artifacts that are named; null where the path names a forward model.</summary>
    public TrainingArtifacts? Read(ParseResult parsed, string path)
    {
        var given = Array.Find(Files, o => parsed.GetValue(o) is not null);
        if (!TrainingArtifacts.Are(path))
        {
            return given is null
                ? null
                : throw new MacOnnxException(
                    "MAC0806",
                    given.Name,
                    $"'{path}' is no training graph of ONNX Runtime.",
                    "Leave the option out, or give the training graph."
                );
        }

        if (!Directory.Exists(path))
        {
            return TrainingArtifacts.Read(
                path,
                parsed.GetValue(_optimizer),
                parsed.GetValue(_evaluation),
                parsed.GetValue(_checkpoint)
            );
        }

        string? File(Option<string?> option, string name) =>
            parsed.GetValue(option) ?? (Path.Combine(path, name) is var found && Path.Exists(found) ? found : null);
        return TrainingArtifacts.Read(
            Path.Combine(path, TrainingArtifacts.TrainingFile),
            File(_optimizer, TrainingArtifacts.OptimizerFile),
            File(_evaluation, TrainingArtifacts.EvaluationFile),
            File(_checkpoint, TrainingArtifacts.CheckpointFile)
        );
    }

    /// <summary>Gives the options with those of the artifacts.</summary>
    public RewriteOptions Apply(ParseResult parsed, RewriteOptions options) =>
        options with
        {
            RebuildsBackward = parsed.GetValue(_rebuilds),
        };
}
