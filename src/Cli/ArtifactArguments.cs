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

    private Option[] Files => [_optimizer, _evaluation, _checkpoint];

    /// <summary>Gives the artifacts, where options name files of theirs or how they are rewritten; null
    /// elsewhere.</summary>
    public TrainingArtifacts? Read(ParseResult parsed, string path)
    {
        var given = Array.Find([.. Files, _rebuilds], o => parsed.GetResult(o) is { Implicit: false });
        if (given is null)
        {
            return null;
        }

        string? File(Option<string?> option, string name) =>
            parsed.GetValue(option)
            ?? (
                TrainingArtifacts.AreIn(path) && Path.Combine(path, name) is var file && Path.Exists(file) ? file : null
            );
        var artifacts = TrainingArtifacts.Read(
            TrainingArtifacts.AreIn(path) ? Path.Combine(path, TrainingArtifacts.TrainingFile) : path,
            File(_optimizer, TrainingArtifacts.OptimizerFile),
            File(_evaluation, TrainingArtifacts.EvaluationFile),
            File(_checkpoint, TrainingArtifacts.CheckpointFile)
        );
        return artifacts.HoldTraining
            ? artifacts
            : throw new MacOnnxException(
                "MAC0806",
                given.Name,
                $"'{path}' is no training graph.",
                "Leave the option out, or give the training graph."
            );
    }

    /// <summary>Gives the options with those of the artifacts.</summary>
    public RewriteOptions Apply(ParseResult parsed, RewriteOptions options) =>
        options with
        {
            RebuildsBackward = parsed.GetValue(_rebuilds),
        };
}
