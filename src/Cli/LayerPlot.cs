using System.Text.Json;
using MacOnnx.Runtime;
using OxyPlot;
using OxyPlot.Annotations;
using OxyPlot.Axes;
using OxyPlot.Series;

namespace MacOnnx.Cli;

/// <summary>Plots what the preconditioners did: for each measure a heat map of layers by steps.</summary>
internal static class LayerPlot
{
    /// <summary>More columns than this do not show: later ones are left out evenly.</summary>
    private const int MostColumns = 200;

    private const double RowHeight = 18;

    private static readonly (string Name, string Title)[] Measures =
    [
        ("mean_share", "mean_share: the mean's share of the input's energy"),
        ("shrinkage", "shrinkage: what MAC takes of a gradient along the mean"),
        ("cosine", "cosine of the gradient's rows and the mean"),
        ("update", "update: its length over the weight's"),
    ];

    /// <summary>Reads the run's metrics and writes its heat maps, where it measured layers.</summary>
    /// <param name="run">The run.</param>
    public static void Write(RunFolder run)
    {
        var steps = RunFolder
            .ReadLines(run.Metrics)
            .Where(l => l.TryGetProperty("layers", out var layers) && layers.ValueKind == JsonValueKind.Object)
            .ToArray();
        if (steps.Length == 0)
        {
            return;
        }

        var every = (steps.Length + MostColumns - 1) / MostColumns;
        steps = [.. steps.Where((_, i) => i % every == 0)];
        string[] layers = [.. steps[0].GetProperty("layers").EnumerateObject().Select(l => l.Name).Reverse()];
        var model = PlotStyle.Plot("");
        model.PlotMargins = new OxyThickness(20 + (6.5 * layers.Max(l => l.Length)), 8, 70, 45);
        model.Axes.Add(PlotStyle.Bottom("step"));
        foreach (var (row, measure) in Measures.Reverse().Index())
        {
            AddMap(model, steps, layers, measure, row);
        }

        model.Save(run.LayerPlot, height: 80 + (Measures.Length * RowHeight * (layers.Length + 1)));
    }

    private static void AddMap(
        PlotModel model,
        JsonElement[] steps,
        string[] layers,
        (string Name, string Title) measure,
        int row
    )
    {
        var data = new double[steps.Length, layers.Length];
        for (var x = 0; x < steps.Length; x++)
        {
            var measured = steps[x].GetProperty("layers");
            for (var y = 0; y < layers.Length; y++)
            {
                data[x, y] =
                    measured.TryGetProperty(layers[y], out var layer) && LossPlot.IsNumber(layer, measure.Name)
                        ? layer.GetProperty(measure.Name).GetDouble()
                        : double.NaN;
            }
        }

        var largest = data.Cast<double>().Where(double.IsFinite).DefaultIfEmpty(1).Max();
        var part = 1.0 / Measures.Length;
        var names = new CategoryAxis
        {
            Key = measure.Name,
            Position = AxisPosition.Left,
            FontSize = 10,
            Minimum = -0.5,
            Maximum = layers.Length + 0.5, // a row for the title
            StartPosition = row * part,
            EndPosition = (row + 1) * part,
        };
        names.Labels.AddRange(layers);
        model.Axes.Add(names);
        model.Axes.Add(
            new LinearColorAxis
            {
                Key = $"{measure.Name} color",
                Position = AxisPosition.Right,
                Minimum = 0,
                Maximum = measure.Name == "update" ? Math.Max(largest, 1e-12) : 1,
                Palette = OxyPalettes.Viridis(64),
                StartPosition = names.StartPosition,
                EndPosition = names.EndPosition - 0.04,
            }
        );
        model.Annotations.Add(
            new TextAnnotation
            {
                Text = measure.Title,
                FontSize = 12,
                StrokeThickness = 0,
                TextPosition = new(Step(0), layers.Length),
                TextHorizontalAlignment = HorizontalAlignment.Left,
                TextVerticalAlignment = VerticalAlignment.Middle,
                YAxisKey = measure.Name,
            }
        );
        double Step(int index) => steps[index].GetProperty("step").GetDouble();
        model.Series.Add(
            new HeatMapSeries
            {
                X0 = Step(0),
                X1 = Math.Max(Step(steps.Length - 1), Step(0) + 1),
                Y0 = 0,
                Y1 = Math.Max(layers.Length - 1, 1),
                YAxisKey = names.Key,
                ColorAxisKey = $"{measure.Name} color",
                Data = data,
                Interpolate = false,
                RenderMethod = HeatMapRenderMethod.Rectangles,
            }
        );
    }
}
