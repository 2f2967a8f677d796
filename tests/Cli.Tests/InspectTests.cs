using MacOnnx.Cli.Tests.Support;

namespace MacOnnx.Cli.Tests;

/// <summary>What <c>inspect</c> shows, for people against a golden file, for machines by its fields.</summary>
public sealed class InspectTests
{
    [Theory]
    [InlineData("digits-cnn")]
    [InlineData("digits-mlp")]
    public async Task ShowsEveryParameter(string model)
    {
        var text = (await Maconnx.Succeed("inspect", Repository.Models($"{model}.onnx"))).Replace(
            Repository.Models($"{model}.onnx"),
            $"{model}.onnx",
            StringComparison.Ordinal
        );
        var golden = Path.Combine(Repository.Root, "tests", "Cli.Tests", "Golden", $"inspect-{model}.txt");
        if (Environment.GetEnvironmentVariable("MACONNX_UPDATE_GOLDEN") == "1")
        {
            await File.WriteAllTextAsync(golden, text, TestContext.Current.CancellationToken);
        }

        Assert.Equal(await File.ReadAllTextAsync(golden, TestContext.Current.CancellationToken), text);
    }

    [Fact]
    public async Task JsonHasTheContractsFields()
    {
        var json = await Maconnx.SucceedJson(
            "inspect",
            Repository.Models("digits-cnn.onnx"),
            "--optimizer",
            "adamw",
            "--frozen",
            "^fc2"
        );
        var parameters = json.GetProperty("parameters")
            .EnumerateArray()
            .ToDictionary(p => p.GetProperty("name").GetString()!);
        var convolution = parameters["conv2.weight"];
        Assert.Equal([32, 16, 3, 3], convolution.GetProperty("shape").EnumerateArray().Select(d => d.GetInt32()));
        Assert.Equal("conv", convolution.GetProperty("kind").GetString());
        Assert.Equal("plain", convolution.GetProperty("treatment").GetString());
        Assert.NotEmpty(convolution.GetProperty("operators").EnumerateArray());
        Assert.Equal("frozen", parameters["fc2.weight"].GetProperty("treatment").GetString());
        Assert.NotEqual("", parameters["fc2.weight"].GetProperty("reason").GetString());
        Assert.Empty(json.GetProperty("operators_without_gradient").EnumerateArray());
        Assert.Empty(json.GetProperty("attention").EnumerateArray());

        // Two moments of four bytes for each trained number: 13,754 less the frozen 650.
        Assert.Equal(8 * (13754 - 650), json.GetProperty("state_bytes").GetInt64());
    }
}
