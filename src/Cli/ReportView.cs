using System.Globalization;
using System.Text.Json.Serialization;
using MacOnnx.GraphRewriter;
using MacOnnx.Runtime;

namespace MacOnnx.Cli;

/// <summary>Writes a <see cref="RewriteReport"/> for people or machines.</summary>
internal static class ReportView
{
    /// <summary>Writes one line a parameter, then what else is to be known.</summary>
    public static void Write(TextWriter output, RewriteReport report)
    {
        var trained = report.Parameters.Where(p => p.IsTrained).Sum(p => p.ElementCount);
        output.WriteLine(
            $"{report.Model}: opset {report.Opset}, {Count(report.NodeCount, "node")}, "
                + $"{Count(report.Parameters.Length, "constant")}, "
                + $"{trained.ToString("N0", CultureInfo.InvariantCulture)} "
                + $"trained numbers"
        );
        output.WriteLine();
        Table(
            output,
            [
                ["PARAMETER", "SHAPE", "KIND", "TREATMENT", "REASON"],
                .. report.Parameters.Select(p =>
                    (string[])
                        [
                            string.Concat(p.Name.Where(c => !char.IsControl(c))),
                            Shape(p),
                            p.Kind,
                            p.Treatment,
                            FlagNames.Apply(p.Reason),
                        ]
                ),
            ]
        );
        output.WriteLine();
        if (!report.OperatorsWithoutGradient.IsEmpty)
        {
            output.WriteLine("Without a gradient, so that the model cannot train:");
            foreach (var o in report.OperatorsWithoutGradient)
            {
                output.WriteLine(
                    $"- {o.Operator} ({string.Join(", ", o.Nodes)})"
                        + (o.Reason.Length > 0 ? $": {FlagNames.Apply(o.Reason)}" : "")
                        + $"; cuts off {Count(o.Parameters.Length, "parameter")}: {string.Join(", ", o.Parameters)}"
                );
            }
        }
        else
        {
            output.WriteLine($"Optimizer state: {Bytes(report.StateBytes)}.");
        }

        foreach (var attention in report.Attention)
        {
            output.WriteLine(
                $"Attention: "
                    + $"{Count((int)attention.Heads, "head")}{(attention.Mask is { } mask ? $", mask: {mask}" : "")}; "
                    + $"q {Units(attention.Q)}, k {Units(attention.K)}, v {Units(attention.V)}"
            );
        }

        foreach (var note in report.Notes)
        {
            output.WriteLine($"Note: {FlagNames.Apply(note)}");
        }
    }

    /// <summary>Gives what <c>--json</c> shows.</summary>
    public static ReportJson ToJson(RewriteReport report, string? output = null) =>
        new(
            report.Model,
            output,
            report.Opset,
            report.NodeCount,
            [
                .. report.Parameters.Select(p => new ParameterJson(
                    p.Name,
                    [.. p.Shape],
                    p.Kind,
                    p.Treatment,
                    FlagNames.Apply(p.Reason),
                    [.. p.UsedBy]
                )),
            ],
            [
                .. report.OperatorsWithoutGradient.Select(o => new OperatorJson(
                    o.Operator,
                    [.. o.Nodes],
                    FlagNames.Apply(o.Reason),
                    [.. o.Parameters]
                )),
            ],
            [
                .. report.Attention.Select(a => new AttentionJson(
                    a.Heads,
                    a.Mask,
                    ToJson(a.Q),
                    ToJson(a.K),
                    ToJson(a.V)
                )),
            ],
            report.StateBytes,
            [.. report.Notes.Select(FlagNames.Apply)]
        );

    /// <summary>Gives a size as people read it.</summary>
    public static string Bytes(long bytes)
    {
        var (value, unit) = bytes switch
        {
            < 1000 => (bytes, "bytes"),
            < 1_000_000 => (bytes / 1e3, "kB"),
            < 1_000_000_000 => (bytes / 1e6, "MB"),
            _ => (bytes / 1e9, "GB"),
        };
        return string.Create(CultureInfo.InvariantCulture, $"{value:0.#} {unit}");
    }

    private static ProjectionJson ToJson(AttentionProjectionReport projection) =>
        new(
            projection.Parameter,
            projection.Rows.IsEmpty ? null : [.. projection.Rows.Select(r => new[] { r.First, r.End })]
        );

    private static string Units(AttentionProjectionReport projection) => projection.Parameter + projection.Show();

    private static string Shape(ParameterReport parameter) =>
        parameter.Shape.IsEmpty ? "scalar" : string.Join('x', parameter.Shape);

    /// <summary>Gives a number and its noun, in the plural where it is not 1.</summary>
    public static string Count(int number, string noun) => $"{number} {noun}{(number == 1 ? "" : "s")}";

    /// <summary>Writes rows of cells in columns, as wide as their cells need.</summary>
    public static void Table(TextWriter output, IReadOnlyList<string[]> rows)
    {
        var widths = Enumerable.Range(0, rows[0].Length).Select(i => rows.Max(r => r[i].Length)).ToArray();
        foreach (var row in rows)
        {
            output.WriteLine(string.Join("  ", row.Select((cell, i) => cell.PadRight(widths[i]))).TrimEnd());
        }
    }
}

internal sealed record ParameterJson(
    string Name,
    long[] Shape,
    string Kind,
    string Treatment,
    string Reason,
    string[] Operators
);

internal sealed record OperatorJson(string Operator, string[] Nodes, string Reason, string[] Parameters);

/// <summary>A layer that attention reads; without rows, all of its output units.</summary>
internal sealed record ProjectionJson(
    string Parameter,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] int[][]? Rows
);

internal sealed record AttentionJson(long Heads, string? Mask, ProjectionJson Q, ProjectionJson K, ProjectionJson V);

/// <summary>A model as <c>inspect --json</c> shows it.</summary>
internal sealed record ReportJson(
    string Model,
    string? Package,
    long Opset,
    int Nodes,
    ParameterJson[] Parameters,
    OperatorJson[] OperatorsWithoutGradient,
    AttentionJson[] Attention,
    long StateBytes,
    string[] Notes
);

internal sealed record EvaluationJson(double? Loss, double? Accuracy, long Samples)
{
    /// <summary>Gives a result for JSON, which has no numbers that are not finite: null.</summary>
    public static EvaluationJson Of(Evaluation result) =>
        new(
            double.IsFinite(result.Loss) ? result.Loss : null,
            result.Accuracy is { } accuracy && double.IsFinite(accuracy) ? accuracy : null,
            result.Samples
        );
}

internal sealed record ExportJson(string Model);

internal sealed record TrainingJson(
    string Run,
    long Step,
    double? Loss,
    EvaluationJson? Validation,
    double? BestAccuracy,
    string? Checkpoint,
    string? Model,
    string? Plot,
    bool Cancelled,
    long SkippedSteps
);

[JsonSourceGenerationOptions(WriteIndented = true, PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower)]
[JsonSerializable(typeof(ReportJson))]
[JsonSerializable(typeof(EvaluationJson))]
[JsonSerializable(typeof(ExportJson))]
[JsonSerializable(typeof(TrainingJson))]
[JsonSerializable(typeof(CheckJson))]
[JsonSerializable(typeof(ComparisonJson))]
[JsonSerializable(typeof(OperatorsJson))]
internal sealed partial class CliJson : JsonSerializerContext;
