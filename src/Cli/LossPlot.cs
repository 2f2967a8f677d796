using System.Text.Json;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.Runtime;
using OxyPlot;
using OxyPlot.Axes;
using OxyPlot.Legends;
using OxyPlot.Series;

namespace MacOnnx.Cli;

/// <summary>Plots a run's loss and accuracy by its step.</summary>
internal static class LossPlot
{
    /// <summary>More points than this do not show: each stands for the mean of several steps.</summary>
    private const int MostPoints = 1000;

    private const double Width = 900;
    private const double Height = 480;

    /// <summary>
    /// Ends legend entries: the exporter takes text for narrower than it is and would cut its end off.
    /// </summary>
    private const string Room = "\u00a0\u00a0\u00a0\u00a0\u00a0\u00a0\u00a0\u00a0";

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
        var model = new PlotModel
        {
            Title = title,
            TitleFontSize = 15,
            TitleFontWeight = FontWeights.Normal,
            PlotAreaBorderColor = OxyColors.LightGray,
            DefaultFont = "Arial",
            Padding = new OxyThickness(8, 16, 8, 8),
        };
        model.Legends.Add(
            new Legend
            {
                LegendPosition = LegendPosition.TopCenter,
                LegendPlacement = LegendPlacement.Outside,
                LegendOrientation = LegendOrientation.Horizontal,
                LegendItemSpacing = 16,
            }
        );
        model.Axes.Add(
            Style(
                new LinearAxis
                {
                    Position = AxisPosition.Bottom,
                    Title = "step",
                    MinimumPadding = 0,
                    MaximumPadding = 0,
                }
            )
        );
        var values = losses.Concat(validation).Select(p => p.Y).ToArray();
        var isWide = values.Length > 0 && values.Min() > 0 && values.Max() > 10 * values.Min();
        model.Axes.Add(
            Style(
                isWide
                    ? new LogarithmicAxis { Position = AxisPosition.Left, Title = "loss" }
                    : new LinearAxis { Position = AxisPosition.Left, Title = "loss" }
            )
        );
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
                Title = "training loss, smoothed" + Room,
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
            model.Axes.Add(
                Style(
                    new LinearAxis
                    {
                        Position = AxisPosition.Right,
                        Key = "accuracy",
                        Title = "accuracy, %",
                        MaximumPadding = 0.02,
                        MajorGridlineStyle = LineStyle.None,
                    }
                )
            );
            var series = Marked("validation accuracy", Green, [.. accuracy.Select(p => new DataPoint(p.X, 100 * p.Y))]);
            series.YAxisKey = "accuracy";
            model.Series.Add(series);
        }

        // By way of memory: when a file refuses its bytes, the exporter fails with a fault of its own in place of the
        // disk's.
        using var svg = new MemoryStream();
        new SvgExporter
        {
            Width = Width,
            Height = Height,
            UseVerticalTextAlignmentWorkaround = true,
        }.Export(model, svg);
        AtomicFile.Write(run.Plot, svg.WriteTo);
    }

    private static Axis Style(Axis axis)
    {
        axis.MajorGridlineStyle = axis.Position == AxisPosition.Right ? LineStyle.None : LineStyle.Solid;
        axis.MajorGridlineColor = OxyColor.FromRgb(0xe8, 0xe8, 0xe8);
        axis.TicklineColor = OxyColors.Gray;
        axis.AxisTitleDistance = 8;
        return axis;
    }

    private static LineSeries Marked(string title, OxyColor color, IReadOnlyList<DataPoint> points) =>
        new()
        {
            Title = title + Room,
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

    private static bool IsNumber(JsonElement line, string name) =>
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
