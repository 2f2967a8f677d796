using System.Globalization;
using System.Net;
using System.Text;
using OxyPlot;

namespace MacOnnx.Cli;

/// <summary>A comparison as one page that needs nothing else: no network, no script.</summary>
internal static class ComparisonPage
{
    private const string Style = """
        :root { color-scheme: light dark; --text: #222; --soft: #5c6470; --line: #d8dce2; --page: #fff; }
        @media (prefers-color-scheme: dark) {
          :root { --text: #e4e6ea; --soft: #a3abb8; --line: #3a404a; --page: #15181c; }
        }
        body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 2rem auto;
          max-width: 1080px; padding: 0 1rem; }
        h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } p { color: var(--soft); }
        .wide { overflow-x: auto; }
        table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
        th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
        th { color: var(--soft); font-weight: 500; }
        svg { width: 100%; height: auto; color: var(--text); }
        """;

    /// <summary>The colour of text in plots, which becomes the page's.</summary>
    private static readonly OxyColor Text = OxyColor.FromRgb(1, 2, 3);

    /// <summary>Gives the page.</summary>
    public static string Of(ComparisonReport report)
    {
        var result = report.Result;
        var page = new StringBuilder();
        page.Append(
            CultureInfo.InvariantCulture,
            $"""
            <!doctype html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <title>{Encode(report.Title)}</title>
            <style>
            {Style}
            </style>
            </head>
            <body>
            <h1>{Encode(report.Title)}</h1>
            <p>{Encode(report.Explanation)}</p>

            """
        );
        Table(ComparisonReport.Head, report.Rows());
        Plot("Training loss by step", "step", ComparisonPlot.BySteps(result));
        Plot("Training loss by time", "time", ComparisonPlot.BySeconds(result));
        page.Append(
                "<p>Lines are means of the seeds, bands the range they span. A step's time is the median of rounds "
            )
            .Append("in which the methods took turns, refreshes of preconditioners included.</p>\n");
        Plot("Search of learning rates", "rate", ComparisonPlot.Search(result));
        Table(report.SearchHead, report.SearchRows());
        return page.Append("</body>\n</html>\n").ToString();

        void Plot(string title, string axis, PlotModel model)
        {
            model.TextColor = Text;
            model.PlotAreaBorderColor = OxyColor.FromAColor(90, OxyColors.Gray);

            // Every plot has its own names for clip paths; a view box lets it grow and shrink with the page.
            var svg = model
                .ToSvg(isDocument: false)
                .Replace("rgb(1,2,3)", "currentColor", StringComparison.Ordinal)
                .Replace("\"clipPath", $"\"{axis}-clip", StringComparison.Ordinal)
                .Replace("#clipPath", $"#{axis}-clip", StringComparison.Ordinal)
                .Replace(
                    "<svg ",
                    $"<svg viewBox=\"0 0 {PlotStyle.Width} {PlotStyle.Height}\" ",
                    StringComparison.Ordinal
                );
            page.Append(CultureInfo.InvariantCulture, $"<h2>{title}</h2>\n").Append(svg).Append('\n');
        }

        void Table(string[] head, IEnumerable<string[]> rows)
        {
            page.Append("<div class=\"wide\"><table>\n");
            Row("th", head);
            foreach (var row in rows)
            {
                Row("td", row);
            }

            page.Append("</table></div>\n");
        }

        void Row(string cell, string[] texts) =>
            page.Append("<tr>").AppendJoin("", texts.Select(t => $"<{cell}>{Encode(t)}</{cell}>")).Append("</tr>\n");
    }

    private static string Encode(string text) => WebUtility.HtmlEncode(text);
}
