using System.Text.Json;

namespace MacOnnx.Cli.Tests.Support;

/// <summary>Runs command lines in this process.</summary>
internal static class Maconnx
{
    /// <summary>Gets the built program, for tests that need a process of its own.</summary>
    public static string Program { get; } =
        Path.Combine(AppContext.BaseDirectory, OperatingSystem.IsWindows() ? "maconnx.exe" : "maconnx");

    public static async Task<(int Code, string Output, string Error)> Run(
        CancellationToken cancellationToken,
        params string[] args
    )
    {
        using var output = new StringWriter();
        using var error = new StringWriter();
        var code = await CommandLine.RunAsync(args, output, error, cancellationToken);
        return (code, output.ToString(), error.ToString());
    }

    /// <summary>Runs a command line that must succeed and write no error.</summary>
    public static async Task<string> Succeed(params string[] args)
    {
        var (code, output, error) = await Run(TestContext.Current.CancellationToken, args);
        Assert.Equal("", error);
        Assert.Equal(0, code);
        return output;
    }

    public static async Task<JsonElement> SucceedJson(params string[] args)
    {
        using var document = JsonDocument.Parse(await Succeed([.. args, "--json"]));
        return document.RootElement.Clone();
    }

    /// <summary>Runs a command line that must fail with one line of error.</summary>
    public static async Task<string> Fail(int code, params string[] args)
    {
        var (found, _, error) = await Run(TestContext.Current.CancellationToken, args);
        Assert.Equal("", string.Join('\n', error.TrimEnd('\n').Split('\n').Skip(1)));
        Assert.StartsWith("error: ", error, StringComparison.Ordinal);
        Assert.True(found == code, $"exit code {found}, not {code}: {error}");
        return error;
    }
}
