using System.Text.Json;
using MacOnnx.Runtime.Checkpoints;

namespace MacOnnx.Runtime;

/// <summary>
/// What a run measures: its last loss, the mean loss of its epoch, its best accuracy; with a folder, a line for each
/// step and epoch.
/// </summary>
internal sealed class RunMetrics : IDisposable
{
    private MetricsLog? _steps;
    private MetricsLog? _epochs;
    private (double Sum, long Steps) _epochLoss;

    /// <summary>Gets the last step's loss; NaN where there is none.</summary>
    public float LastLoss { get; private set; } = float.NaN;

    /// <summary>Gets the best accuracy after any epoch; null without one.</summary>
    public double? BestAccuracy { get; private set; }

    /// <summary>
    /// Opens the files and keeps the lines of the steps and epochs before; takes from them what was measured before.
    /// </summary>
    /// <param name="run">The folder.</param>
    /// <param name="step">The step that the run goes on after.</param>
    /// <param name="position">Where in the data it goes on.</param>
    public void Open(RunFolder run, long step, DataPosition position)
    {
        _steps = new MetricsLog(
            run.Metrics,
            line =>
            {
                var keep = Number(line, "step") <= step;
                if (keep && Number(line, "loss") is { } loss)
                {
                    LastLoss = (float)loss;
                    Count(Number(line, "epoch") == position.Epoch + 1 ? LastLoss : float.NaN);
                }

                return keep;
            }
        );
        _epochs = new MetricsLog(
            run.Epochs,
            line =>
            {
                var keep = Number(line, "epoch") <= position.Epoch;
                KeepBest(keep ? Number(line, "validation_accuracy") : null);
                return keep;
            }
        );
    }

    /// <summary>Takes a step.</summary>
    /// <exception cref="GraphRewriter.Diagnostics.MacOnnxException">The file cannot be written (MAC0401).</exception>
    public void Add(TrainingProgress step)
    {
        LastLoss = step.Loss;
        Count(step.Loss);
        _steps?.Add(json => Write(json, step));
    }

    /// <summary>Ends an epoch.</summary>
    /// <param name="epoch">The epoch, from 1.</param>
    /// <param name="step">The step that it ended with.</param>
    /// <param name="validation">The evaluation after it.</param>
    public EpochResult EndEpoch(long epoch, long step, Evaluation? validation)
    {
        var mean = _epochLoss.Steps > 0 ? _epochLoss.Sum / _epochLoss.Steps : double.NaN;
        _epochLoss = default;
        KeepBest(validation?.Accuracy);
        return new EpochResult(epoch, step, mean, validation);
    }

    /// <summary>Writes the line of an epoch.</summary>
    /// <exception cref="GraphRewriter.Diagnostics.MacOnnxException">The file cannot be written (MAC0401).</exception>
    public void Add(EpochResult epoch) => _epochs?.Add(json => Write(json, epoch));

    /// <summary>Takes an accuracy, if it is the best.</summary>
    public void KeepBest(double? accuracy) =>
        BestAccuracy =
            accuracy is { } value && double.IsFinite(value) && !(BestAccuracy >= value) ? value : BestAccuracy;

    /// <summary>Closes the files.</summary>
    public void Dispose()
    {
        _steps?.Dispose();
        _epochs?.Dispose();
        (_steps, _epochs) = (null, null);
    }

    private void Count(float loss) =>
        _epochLoss = float.IsFinite(loss) ? (_epochLoss.Sum + loss, _epochLoss.Steps + 1) : _epochLoss;

    private static double? Number(JsonElement line, string name) =>
        line.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.Number ? value.GetDouble() : null;

    private static void Write(Utf8JsonWriter json, TrainingProgress step)
    {
        json.WriteNumber("step", step.Step);
        json.WriteNumber("epoch", step.Epoch);
        MetricsLog.Number(json, "loss", step.Loss);
        MetricsLog.Number(json, "learning_rate", step.LearningRate);
        MetricsLog.Number(json, "gradient_norm", step.GradientNorm);
        if (step.Skipped)
        {
            json.WriteBoolean("skipped", true);
        }

        if (step.Layers.Count > 0)
        {
            json.WriteStartObject("layers");
            foreach (var layer in step.Layers)
            {
                json.WriteStartObject(layer.Layer);
                MetricsLog.Number(json, "mean_share", layer.MeanShare);
                MetricsLog.Number(json, "shrinkage", layer.Shrinkage);
                MetricsLog.Number(json, "cosine", layer.Cosine);
                MetricsLog.Number(json, "update", layer.Update);
                json.WriteEndObject();
            }

            json.WriteEndObject();
        }
    }

    private static void Write(Utf8JsonWriter json, EpochResult epoch)
    {
        json.WriteNumber("epoch", epoch.Epoch);
        json.WriteNumber("step", epoch.Step);
        MetricsLog.Number(json, "loss", epoch.Loss);
        if (epoch.Validation is { } validation)
        {
            MetricsLog.Number(json, "validation_loss", validation.Loss);
            if (validation.Accuracy is { } accuracy)
            {
                MetricsLog.Number(json, "validation_accuracy", accuracy);
            }
        }
    }
}
