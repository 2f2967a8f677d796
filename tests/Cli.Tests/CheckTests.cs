using System.Text.Json;
using MacOnnx.Cli.Tests.Support;

namespace MacOnnx.Cli.Tests;

/// <summary><c>check</c> and <c>ops</c>.</summary>
public sealed class CheckTests
{
    [Fact]
    public async Task ChecksEveryParameterTheWorstFirst()
    {
        string[] check = ["check", Repository.Models("digits-mlp.onnx"), "--threads", "1"];
        var lines = (await Maconnx.Succeed(check)).TrimEnd().Split('\n');
        Assert.Equal("all 6 parameters right", lines[^1]);
        Assert.EndsWith("in evaluation: right", lines[^2], StringComparison.Ordinal);
        var json = await Maconnx.SucceedJson([.. check, "--data", Repository.Models("digits.csv")]);
        Assert.True(json.GetProperty("right").GetBoolean());
        var errors = json.GetProperty("parameters").EnumerateArray().Select(p => p.GetProperty("error").GetDouble());
        Assert.Equal(6, errors.Count());
        Assert.Equal(errors.OrderDescending(), errors);
        Assert.Equal(
            json.GetProperty("evaluation_loss").GetDouble(),
            json.GetProperty("training_loss").GetDouble(),
            1e-5
        );
    }

    /// <summary>The options of rewriting are those of check too.</summary>
    [Fact]
    public async Task RewritesByItsOptions() =>
        Assert.Contains(
            "--label-smoothing",
            await Maconnx.Fail(1, "check", Repository.Models("digits-mlp.onnx"), "--label-smoothing", "2"),
            StringComparison.Ordinal
        );

    /// <summary>Run with MACONNX_GOLDEN=1 to write the page anew.</summary>
    [Fact]
    public async Task ThePageOfOperatorsIsTrue()
    {
        var page = Path.Combine(Repository.Root, "docs", "operators.md");
        var text = await Maconnx.Succeed("ops", "--markdown");
        if (Environment.GetEnvironmentVariable("MACONNX_GOLDEN") == "1")
        {
            await File.WriteAllTextAsync(page, text, TestContext.Current.CancellationToken);
        }

        var written = await File.ReadAllTextAsync(page, TestContext.Current.CancellationToken);
        Assert.Equal(written.ReplaceLineEndings("\n"), text);
    }

    [Fact]
    public async Task OperatorsSayTheirGradientReasonAndSource()
    {
        var json = await Maconnx.SucceedJson("ops");
        var operators = json.GetProperty("operators")
            .EnumerateArray()
            .ToDictionary(o => (o.GetProperty("domain").GetString()!, o.GetProperty("operator").GetString()!));
        Assert.Equal("yes", operators[("ai.onnx", "Conv")].GetProperty("gradient").GetString());
        Assert.Equal("not differentiable", operators[("ai.onnx", "ArgMax")].GetProperty("gradient").GetString());
        Assert.Equal("expanded", operators[("com.microsoft", "FusedConv")].GetProperty("gradient").GetString());
        Assert.All(
            operators.Values,
            o =>
            {
                var gradient = o.GetProperty("gradient").GetString();
                Assert.True(gradient == "refused" ? Reason(o).Length > 0 : gradient == "expanded" || Reason(o) == "");
                Assert.InRange(o.GetProperty("first_opset").GetInt64(), 1, o.GetProperty("last_opset").GetInt64());
                var file = o.GetProperty("source").GetString()!;
                var source = Path.Combine(Repository.Root, "src", "GraphRewriter", file);
                Assert.True(File.Exists(source), source);
            }
        );
        Assert.Contains("ConvInteger", await Maconnx.Succeed("ops"), StringComparison.Ordinal);

        static string Reason(JsonElement o) => o.GetProperty("reason").GetString()!;
    }
}
