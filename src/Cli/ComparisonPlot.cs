using MacOnnx.Runtime.Comparisons;
using OxyPlot;
using OxyPlot.Series;

namespace MacOnnx.Cli;

/// <summary>Plots the losses of methods.</summary>
internal static class ComparisonPlot
{
    /// <summary>Colours that differ from each other, on white and on black.</summary>
    private static readonly OxyColor[] Colors =
    [
        OxyColor.FromRgb(0x2f, 0x7f, 0xd0),
        OxyColor.FromRgb(0xe0, 0x7b, 0x1a),
        OxyColor.FromRgb(0x2f, 0x9e, 0x5b),
        OxyColor.FromRgb(0xd0, 0x4a, 0x8a),
        OxyColor.FromRgb(0x8a, 0x6f, 0xd1),
        OxyColor.FromRgb(0x9a, 0x82, 0x10),
        OxyColor.FromRgb(0x12, 0x9f, 0xb0),
        OxyColor.FromRgb(0xd9, 0x53, 0x4f),
    ];

    /// <summary>Plots training losses by step: the mean of the seeds, and lightly the range they span.</summary>
    public static PlotModel BySteps(ComparisonResult result) => Curves(result, "step", _ => 1);

    /// <summary>Plots training losses by the time of so many steps.</summary>
    public static PlotModel BySeconds(ComparisonResult result) =>
        Curves(result, "seconds", m => m.StepMilliseconds / 1000);

    /// <summary>Plots the losses of the searches by learning rate, without the runs that seek damping.</summary>
    public static PlotModel Search(ComparisonResult result)
    {
        var model = PlotStyle.Plot("");
        var losses = new List<double>();
        foreach (var (method, color) in Methods(result))
        {
            var damping = method.Search[0].Damping;
            var points = method
                .Search.Where(r => r.Damping == damping)
                .Select(r => new DataPoint(r.LearningRate, Loss(r) ?? double.NaN))
                .ToArray();
            losses.AddRange(points.Select(p => p.Y).Where(double.IsFinite));
            model.Series.Add(
                new LineSeries
                {
                    Title = method.Name + PlotStyle.Room,
                    Color = color,
                    MarkerType = MarkerType.Circle,
                    MarkerSize = 3,
                    MarkerFill = color,
                    ItemsSource = points,
                }
            );
        }

        model.Axes.Add(PlotStyle.Bottom("learning rate", isLogarithmic: true));
        model.Axes.Add(PlotStyle.Losses($"{result.Selection.ToString().ToLowerInvariant()} loss", losses));
        return model;

        double? Loss(ComparisonRun run) =>
            result.Selection == SelectionKind.Validation ? run.Validation?.Loss : run.TrainingLoss;
    }

    private static PlotModel Curves(ComparisonResult result, string axis, Func<MethodResult, double> perStep)
    {
        var model = PlotStyle.Plot("");
        var losses = new List<double>();
        foreach (var (method, color) in Methods(result))
        {
            if (method.Curve is { } curve)
            {
                var (unit, indices) = (perStep(method), ComparisonReport.Points(curve).ToArray());
                var range = new AreaSeries { Color = OxyColors.Transparent, Fill = OxyColor.FromAColor(50, color) };
                range.Points.AddRange(indices.Select(i => new DataPoint((i + 1) * unit, curve.Most[i])));
                range.Points2.AddRange(indices.Select(i => new DataPoint((i + 1) * unit, curve.Least[i])));
                model.Series.Add(range);
                model.Series.Add(
                    new LineSeries
                    {
                        Title = method.Name + PlotStyle.Room,
                        Color = color,
                        StrokeThickness = 2,
                        ItemsSource = indices.Select(i => new DataPoint((i + 1) * unit, curve.Mean[i])).ToArray(),
                    }
                );
                losses.AddRange(curve.Least);
                losses.AddRange(curve.Most);
            }
        }

        model.Axes.Add(PlotStyle.Bottom(axis));
        model.Axes.Add(PlotStyle.Losses("training loss", losses));
        return model;
    }

    private static IEnumerable<(MethodResult Method, OxyColor Color)> Methods(ComparisonResult result) =>
        result.Methods.Select((m, i) => (m, Colors[i % Colors.Length]));
}
