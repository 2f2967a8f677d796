using System.Text.Json;
using MacOnnx.Runtime;
using OxyPlot;
using OxyPlot.Series;

namespace MacOnnx.Cli;

/// <summary>Plots a run's loss and accuracy by its step.</summary>
internal static class LossPlot
{
    /// <summary>More points than this do not show: each stands for the mean of several steps.</summary>
    private const int MostPoints = 1000;

    private static readonly OxyColor Blue = OxyColor.FromRgb(0x1f, 0x5f, 0xa8);
    private static readonly OxyColor Orange = OxyColor.FromRgb(0xd9, 0x6a, 0x0b);
    private static readonly OxyColor Green = OxyColor.FromRgb(0x2a, 0x8a, 0x4a);

    /// <summary>Reads the run's metrics and writes its plot.</summary>
    /// <param name="run">The run.</param>
    /// <param name="title">The title.</param>
    public static void Write(RunFolder run, string title)
    {
        var losses = Points(run.Metrics, "loss");
        var validation = Points(run.Epochs, "validation_loss");
        var accuracy = Points(run.Epochs, "validation_accuracy");
        var model = PlotStyle.Plot(title);
        model.Axes.Add(PlotStyle.Bottom("step"));
        model.Axes.Add(PlotStyle.Losses("loss", [.. losses.Concat(validation).Select(p => p.Y)]));
        model.Series.Add(
            new LineSeries
            {
                Color = OxyColor.FromAColor(70, Blue),
                StrokeThickness = 1,
                ItemsSource = Thin(losses),
            }
        );
        model.Series.Add(
            new LineSeries
            {
                Title = "training loss, smoothed" + PlotStyle.Room,
                Color = Blue,
                StrokeThickness = 2,
                ItemsSource = Thin(Smooth(losses)),
            }
        );
        if (validation.Count > 0)
        {
            model.Series.Add(Marked("validation loss", Orange, validation));
        }

        if (accuracy.Count > 0)
        {
            model.Axes.Add(PlotStyle.Right("accuracy, %", "accuracy"));
            var series = Marked("validation accuracy", Green, [.. accuracy.Select(p => new DataPoint(p.X, 100 * p.Y))]);
            series.YAxisKey = "accuracy";
            model.Series.Add(series);
        }

        model.Save(run.Plot);
    }

    private static LineSeries Marked(string title, OxyColor color, IReadOnlyList<DataPoint> points) =>
        new()
        {
            Title = title + PlotStyle.Room,
            Color = color,
            StrokeThickness = 1.5,
            MarkerType = MarkerType.Circle,
            MarkerSize = 3,
            MarkerFill = color,
            ItemsSource = points,
        };

    private static List<DataPoint> Points(string path, string value) =>
        [
            .. RunFolder
                .ReadLines(path)
                .Where(l => IsNumber(l, "step") && IsNumber(l, value))
                .Select(l => new DataPoint(l.GetProperty("step").GetDouble(), l.GetProperty(value).GetDouble())),
        ];

    /// <summary>Whether a line has a number of a name.</summary>
    public static bool IsNumber(JsonElement line, string name) =>
        line.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.Number;

    /// <summary>Gives the mean of each of at most <see cref="MostPoints"/> runs of points.</summary>
    private static List<DataPoint> Thin(IReadOnlyList<DataPoint> points) =>
        [
            .. points
                .Chunk(Math.Max(1, (points.Count + MostPoints - 1) / MostPoints))
                .Select(c => new DataPoint(c.Average(p => p.X), c.Average(p => p.Y))),
        ];

    /// <summary>Gives an exponential mean over about a thirtieth of the run, corrected for its start.</summary>
    private static List<DataPoint> Smooth(IReadOnlyList<DataPoint> points)
    {
        var keep = 1 - (1 / Math.Max(1, points.Count / 30.0));
        var (mean, weight) = (0.0, 0.0);
        var smooth = new List<DataPoint>(points.Count);
        foreach (var point in points)
        {
            mean = (keep * mean) + ((1 - keep) * point.Y);
            weight = (keep * weight) + (1 - keep);
            smooth.Add(new(point.X, mean / weight));
        }

        return smooth;
    }
}
