using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using MacOnnx.Cli.Tests.Support;

namespace MacOnnx.Cli.Tests;

/// <summary>What <c>compare</c> writes, and that a comparison that was killed goes on.</summary>
public sealed partial class CompareTests : IDisposable
{
    private static readonly string[] Compare =
    [
        "compare",
        Repository.Models("digits-mlp.onnx"),
        "--data",
        Repository.Models("digits.csv"),
        "--threads",
        "1",
        "--trials",
        "3",
        "--seeds",
        "2",
    ];

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task TablesAndPageSayTheSame()
    {
        string[] args =
        [
            .. Compare,
            "--steps",
            "8",
            "--optimizers",
            "mac-adamw,adamw",
            "--method",
            "hot <sgd>: --optimizer sgd --learning-rate 1e30",
            "--batch-size",
            "32",
            "-o",
            _folder.File("out"),
        ];
        var output = await Maconnx.Succeed(args);
        Assert.Contains("8/15   adamw   seed 0   rate 0.01   loss", output, StringComparison.Ordinal);
        var json = await Maconnx.SucceedJson(args);
        Assert.Equal(
            json.ToString(),
            JsonDocument.Parse(File.ReadAllText(_folder.File("out/results.json"))).RootElement.ToString()
        );
        Assert.Equal(
            "model data samples validation_samples batch_size seed steps search_steps trials seeds selection reference "
                + "methods",
            Names(json)
        );
        Assert.Equal("adamw", json.GetProperty("reference").GetString());
        Assert.Equal((32, 8, 8), (Int(json, "batch_size"), Int(json, "steps"), Int(json, "search_steps")));
        var methods = json.GetProperty("methods").EnumerateArray().ToArray();
        foreach (var method in methods)
        {
            Assert.Equal(
                "name learning_rate damping is_at_end_of_rates training_loss validation_loss accuracy "
                    + "step_milliseconds state_bytes at_final_loss at_half_loss search final curve",
                Names(method)
            );
            Assert.Equal(3, method.GetProperty("search").GetArrayLength());
            Assert.All(
                method.GetProperty("search").EnumerateArray(),
                r => Assert.Equal("learning_rate damping seed training_loss validation_loss accuracy", Names(r))
            );
        }

        Assert.Equal("mean deviation", Names(methods[0].GetProperty("training_loss")));
        Assert.Equal("step seconds", Names(methods[1].GetProperty("at_final_loss")));
        Assert.Equal(8, methods[0].GetProperty("curve").GetArrayLength());
        Assert.Equal("step mean least most", Names(methods[0].GetProperty("curve")[7]));
        Assert.Equal(JsonValueKind.Null, methods[2].GetProperty("learning_rate").ValueKind);
        Assert.Equal(0, methods[2].GetProperty("final").GetArrayLength());

        var table = await Text("results.md");
        Assert.Contains("| hot <sgd> | diverged | - | diverged |", table, StringComparison.Ordinal);
        Assert.Contains("(steps.svg)", table, StringComparison.Ordinal);
        Assert.StartsWith("<?xml", await Text("steps.svg"), StringComparison.Ordinal);
        Assert.StartsWith("<?xml", await Text("seconds.svg"), StringComparison.Ordinal);
        var loss = methods[0].GetProperty("training_loss").GetProperty("mean").GetDouble().ToString("0.0000", null);
        var page = await Text("results.html");
        Assert.Contains(loss, page, StringComparison.Ordinal);
        Assert.Contains(loss, table, StringComparison.Ordinal);
        Assert.Contains("hot &lt;sgd&gt;", page, StringComparison.Ordinal);
        Assert.DoesNotContain("hot <sgd>", page, StringComparison.Ordinal);
        Assert.Equal(3, Svg().Count(page));
        Assert.Contains("prefers-color-scheme: dark", page, StringComparison.Ordinal);
        Assert.Contains("currentColor", page, StringComparison.Ordinal);
        Assert.DoesNotMatch(Outside(), Namespace().Replace(page, ""));
    }

    [Fact]
    public async Task AKilledComparisonGoesOn()
    {
        string[] args = [.. Compare, "--steps", "150", "--optimizers", "mac,sgd", "-o"];
        await Maconnx.Succeed([.. args, _folder.File("whole")]);
        using var first = Process.Start(
            new ProcessStartInfo(Maconnx.Program, [.. args, _folder.File("killed")]) { RedirectStandardOutput = true }
        )!;
        for (var line = 0; line < 4; line++)
        {
            await first.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken);
        }

        first.Kill();
        await first.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.False(File.Exists(_folder.File("killed/results.json")));
        Assert.True(Directory.GetFiles(_folder.File("killed/runs"), "mac-*").Length >= 4);
        await Maconnx.Succeed([.. args, _folder.File("killed")]);
        Assert.Equal(Numbers("whole"), Numbers("killed"));

        string Numbers(string folder)
        {
            var json = JsonNode.Parse(File.ReadAllText(_folder.File($"{folder}/results.json")))!;
            foreach (var method in json["methods"]!.AsArray())
            {
                method!["step_milliseconds"] = null;
                _ = method["at_final_loss"]?.AsObject().Remove("seconds");
                _ = method["at_half_loss"]?.AsObject().Remove("seconds");
            }

            return json.ToJsonString();
        }
    }

    [Theory]
    [InlineData("90s", 90)]
    [InlineData("0.5m", 30)]
    [InlineData("2h", 7200)]
    [InlineData("2", null)]
    [InlineData("m", null)]
    [InlineData("-1s", null)]
    [InlineData("0s", null)]
    [InlineData("1e9h", null)]
    public void ABudgetIsATime(string text, int? seconds) =>
        Assert.Equal(seconds, CompareCommand.Time(text)?.TotalSeconds);

    /// <summary>More steps than any machine makes in the time.</summary>
    [Fact]
    public async Task ABudgetThatIsTooShortSaysHowLongItWouldTake() =>
        Assert.Contains(
            "--budget: 6 seconds are too short for 10000003 runs of 10 steps or more. Give ",
            await Maconnx.Fail(
                1,
                [
                    .. Compare[..^4],
                    "--optimizers",
                    "sgd",
                    "--budget",
                    "0.1m",
                    "--trials",
                    "10000000",
                    "--seeds",
                    "3",
                    "-o",
                    _folder.File("out"),
                ]
            ),
            StringComparison.Ordinal
        );

    private static int Int(JsonElement json, string name) => json.GetProperty(name).GetInt32();

    private static string Names(JsonElement json) => string.Join(' ', json.EnumerateObject().Select(p => p.Name));

    private Task<string> Text(string file) =>
        File.ReadAllTextAsync(_folder.File($"out/{file}"), TestContext.Current.CancellationToken);

    [GeneratedRegex("<svg ")]
    private static partial Regex Svg();

    [GeneratedRegex("xmlns(:xlink)?=\"[^\"]*\"")]
    private static partial Regex Namespace();

    /// <summary>What a page could fetch or run.</summary>
    [GeneratedRegex("https?:|//|<script|<link|<img|<iframe|@import|src=|href=")]
    private static partial Regex Outside();
}
