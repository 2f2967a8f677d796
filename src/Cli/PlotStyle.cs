using System.Text;
using MacOnnx.GraphRewriter.Export;
using OxyPlot;
using OxyPlot.Axes;
using OxyPlot.Legends;

namespace MacOnnx.Cli;

/// <summary>What the plots have in common.</summary>
internal static class PlotStyle
{
    public const double Width = 900;
    public const double Height = 480;

    /// <summary>
    /// Ends legend entries: the exporter takes text for narrower than it is and would cut its end off.
    /// </summary>
    public const string Room = "\u00a0\u00a0\u00a0\u00a0\u00a0\u00a0\u00a0\u00a0";

    /// <summary>Makes a plot with its legend above it.</summary>
    public static PlotModel Plot(string title)
    {
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
        return model;
    }

    /// <summary>Makes an axis from the least to the most value below the plot.</summary>
    public static Axis Bottom(string title, bool isLogarithmic = false) =>
        Style(isLogarithmic ? new LogarithmicAxis() : new LinearAxis(), AxisPosition.Bottom, title, 0);

    /// <summary>Makes the axis of losses: logarithmic where they differ much.</summary>
    public static Axis Losses(string title, IReadOnlyCollection<double> losses)
    {
        var isWide = losses.Count > 0 && losses.Min() > 0 && losses.Max() > 10 * losses.Min();
        return Style(isWide ? new LogarithmicAxis() : new LinearAxis(), AxisPosition.Left, title, 0.01);
    }

    /// <summary>Makes an axis at the right, without grid lines.</summary>
    public static Axis Right(string title, string key)
    {
        var axis = Style(new LinearAxis(), AxisPosition.Right, title, 0.02);
        (axis.Key, axis.MajorGridlineStyle) = (key, LineStyle.None);
        return axis;
    }

    /// <summary>Gives a plot as SVG.</summary>
    public static string ToSvg(this PlotModel model, bool isDocument = true, double height = Height) =>
        new SvgExporter
        {
            Width = Width,
            Height = height,
            IsDocument = isDocument,
            UseVerticalTextAlignmentWorkaround = true,
        }.ExportToString(model);

    /// <summary>Writes a plot as SVG.</summary>
    public static void Save(this PlotModel model, string path, double height = Height)
    {
        // By way of memory: when a file refuses its bytes, the exporter fails with a fault of its own in place of the
        // disk's.
        var svg = Encoding.UTF8.GetBytes(model.ToSvg(height: height));
        AtomicFile.Write(path, stream => stream.Write(svg));
    }

    private static Axis Style(Axis axis, AxisPosition position, string title, double padding)
    {
        axis.Position = position;
        axis.Title = title;
        axis.MajorGridlineStyle = LineStyle.Solid;
        axis.MajorGridlineColor = OxyColor.FromAColor(40, OxyColors.Gray);
        axis.TicklineColor = OxyColors.Gray;
        axis.AxisTitleDistance = position == AxisPosition.Bottom ? 8 : 20; // tick labels are wider than it thinks
        axis.MaximumPadding = padding;
        axis.MinimumPadding = position == AxisPosition.Bottom ? 0 : axis.MinimumPadding;
        return axis;
    }
}
