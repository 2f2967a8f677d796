using System.CommandLine;
using System.Text.Json;
using MacOnnx.GraphRewriter;

namespace MacOnnx.Cli;

/// <summary><c>maconnx ops</c>: every operator that the rewriter knows.</summary>
internal static class OpsCommand
{
    private static readonly string[] Header = ["OPERATOR", "DOMAIN", "OPSETS", "GRADIENT", "SOURCE", "REASON"];

    public static Command Create()
    {
        var command = new Command("ops", "Lists every known operator and whether gradients flow through it.");
        var markdown = Options.Switch("--markdown", "Write docs/operators.md.");
        var json = Options.Json();
        command.Add(markdown);
        command.Add(json);
        command.SetAction(parsed =>
        {
            var output = parsed.InvocationConfiguration.Output;
            if (parsed.GetValue(json))
            {
                var operators = Rewriter.Operators.Select(o => new OperatorInfoJson(
                    Domain(o),
                    o.Name,
                    o.FirstOpset,
                    o.LastOpset,
                    Gradient(o),
                    FlagNames.Apply(o.Reason),
                    o.Source
                ));
                output.WriteLine(
                    JsonSerializer.Serialize(new OperatorsJson([.. operators]), CliJson.Default.OperatorsJson)
                );
            }
            else if (parsed.GetValue(markdown))
            {
                output.Write(Markdown());
            }
            else
            {
                ReportView.Table(output, [Header, .. Rewriter.Operators.Select(Row)]);
            }
        });
        return command;
    }

    /// <summary>Gives the page that lists the operators.</summary>
    private static string Markdown()
    {
        var counts = Rewriter
            .Operators.GroupBy(o => o.Gradient)
            .OrderBy(g => g.Key)
            .Select(g => $"{g.Count()} {Gradient(g.First())}");
        string[] lines =
        [
            "# Operators",
            "",
            $"What becomes of a gradient that reaches an operator ({string.Join(", ", counts)}):",
            "",
            "- `yes`: it flows on to the operator's inputs;",
            "- `not differentiable`: it ends there;",
            "- `refused`: weights behind the operator cannot train, for the reason given;",
            "- `expanded`: a pass replaces the operator by others before differentiation.",
            "",
            "Opsets are those of the operator's domain. Sources are below `src/GraphRewriter`. An operator that is not",
            "listed is refused by name.",
            "`maconnx ops --markdown` writes this page.",
            "",
            "| operator | domain | opsets | gradient | source | reason |",
            "|---|---|---|---|---|---|",
            .. Rewriter.Operators.Select(o => $"| {string.Join(" | ", Row(o))} |"),
        ];
        return string.Concat(lines.Select(l => $"{l}\n"));
    }

    private static string[] Row(OperatorInfo o) =>
        [o.Name, Domain(o), Opsets(o), Gradient(o), o.Source, FlagNames.Apply(o.Reason)];

    private static string Opsets(OperatorInfo o) =>
        o.FirstOpset == o.LastOpset ? $"{o.FirstOpset}" : $"{o.FirstOpset}-{o.LastOpset}";

    private static string Domain(OperatorInfo o) => o.Domain.Length > 0 ? o.Domain : "ai.onnx";

    private static string Gradient(OperatorInfo o) =>
        o.Gradient switch
        {
            OperatorGradient.Yes => "yes",
            OperatorGradient.NotDifferentiable => "not differentiable",
            OperatorGradient.Refused => "refused",
            _ => "expanded",
        };
}

internal sealed record OperatorInfoJson(
    string Domain,
    string Operator,
    long FirstOpset,
    long LastOpset,
    string Gradient,
    string Reason,
    string Source
);

/// <summary>The operators as <c>ops --json</c> shows them.</summary>
internal sealed record OperatorsJson(OperatorInfoJson[] Operators);
