using System.Text.Json;
using MacOnnx.GraphRewriter;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>
/// The attention layers found in exports of PyTorch models, against what the models are known to have.
/// </summary>
public sealed class AttentionReportTests
{
    public static TheoryData<string, string> Cases
    {
        get
        {
            var root = Path.Combine(Repository.Root, "..", "shared", "pytorch-models");
            return Directory.Exists(root)
                ?
                [
                    .. from folder in Directory.GetDirectories(root).Order(StringComparer.Ordinal)
                    from file in Directory.GetFiles(folder, "*.onnx").Order(StringComparer.Ordinal)
                    // Its case lists no attention, though it has some: see EncoderDecoder.
                    where Path.GetFileName(folder) != "t5_hf"
                    select (Path.GetFileName(folder), Path.GetFileNameWithoutExtension(file)),
                ]
                : [("none", "none")];
        }
    }

    public static TheoryData<string, string> Transformers =>
        [
            .. Cases
                .Select(c => c.Data)
                .Where(c =>
                    new[] { "vit", "swin", "bert", "gpt", "llama", "encoder", "mha", "none" }.Any(p =>
                        c.Item1.StartsWith(p, StringComparison.Ordinal)
                    )
                ),
        ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void ReportEqualsTheModel(string model, string file)
    {
        var folder = Path.Combine(Shared.Folder("pytorch-models"), model);
        using var document = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "case.json")));
        var names = document.RootElement.GetProperty("files").GetProperty(file).GetProperty("parameters");
        var report = Rewriter.Inspect(
            Path.Combine(folder, file + ".onnx"),
            AutogradFixture.OptionsOf(document.RootElement)
        );
        Assert.Equal(
            document.RootElement.GetProperty("attention").EnumerateArray().Select(Expected),
            report.Attention.Select(a => Show(a, n => names.GetProperty(n).GetString()!.Split(' ')[0]))
        );
        Assert.DoesNotContain(report.Notes, n => n.Contains("looks like attention", StringComparison.Ordinal));
    }

    /// <summary>
    /// Beside PyTorch's parameters only what exporters folded from learned tables trains: nothing tells it from a
    /// learned table.
    /// </summary>
    [Theory]
    [MemberData(nameof(Transformers))]
    public void ConstantsOfTransformersDoNotTrain(string model, string file)
    {
        var folder = Path.Combine(Shared.Folder("pytorch-models"), model);
        using var document = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "case.json")));
        var description = document.RootElement.GetProperty("files").GetProperty(file);
        var report = Rewriter.Inspect(
            Path.Combine(folder, file + ".onnx"),
            AutogradFixture.OptionsOf(document.RootElement)
        );
        var known = description
            .GetProperty("parameters")
            .EnumerateObject()
            .Select(p => p.Name)
            .ToHashSet(StringComparer.Ordinal);
        var copies = description
            .GetProperty("stored_more_than_once")
            .EnumerateArray()
            .Select(e => e.GetString()!)
            .ToArray();
        string[] folded = (model, file) switch
        {
            ("bert", "dynamo_eval_op20") => ["embedding_2"],
            ("gpt2_hf", "dynamo_eval_op20") => ["embedding_1"],
            ("swin", "dynamo_eval_op20") => ["unsqueeze", "unsqueeze_1", "unsqueeze_6", "unsqueeze_7"],
            _ => [],
        };
        Assert.Empty(known.Except(report.Parameters.Where(p => p.IsTrained).Select(p => p.Name)));
        Assert.Equal(
            folded,
            report
                .Parameters.Where(p => p.IsTrained && !known.Contains(p.Name))
                .Select(p => p.Name)
                .Except(copies)
                .Order(StringComparer.Ordinal)
        );
        Assert.Equal(
            copies.Length > 0,
            report.Notes.Any(n => n.Contains("hold the same numbers", StringComparison.Ordinal))
        );
    }

    [Theory]
    [InlineData("ts_train_op17")]
    [InlineData("dynamo_eval_op20")]
    public void EncoderDecoder(string file)
    {
        var folder = Path.Combine(Shared.Folder("pytorch-models"), "t5_hf");
        using var document = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "case.json")));
        var names = document.RootElement.GetProperty("files").GetProperty(file).GetProperty("parameters");
        var report = Rewriter.Inspect(
            Path.Combine(folder, file + ".onnx"),
            AutogradFixture.OptionsOf(document.RootElement)
        );
        string[] layers =
        [
            "encoder.block.0.layer.0.SelfAttention",
            "encoder.block.1.layer.0.SelfAttention",
            "decoder.block.0.layer.0.SelfAttention",
            "decoder.block.0.layer.1.EncDecAttention",
            "decoder.block.1.layer.0.SelfAttention",
            "decoder.block.1.layer.1.EncDecAttention",
        ];
        Assert.Equal(
            layers.Select(l => string.Join(' ', new[] { "q", "k", "v" }.Select(p => $"{p}=model.{l}.{p}.weight"))),
            report.Attention.Select(a =>
                Show(a with { Heads = 0, Mask = null }, n => names.GetProperty(n).GetString()!.Split(' ')[0])
            )
        );
    }

    private static string Expected(JsonElement attention) =>
        string.Join(
            ' ',
            new[]
            {
                $"{attention.GetProperty("heads").GetInt64()} heads",
                attention.TryGetProperty("mask", out var mask) ? $"mask={mask.GetString()}" : null,
            }
                .OfType<string>()
                .Concat(
                    new[] { "q", "k", "v" }.Select(p =>
                        $"{p}="
                        + string.Join(
                            ' ',
                            attention
                                .GetProperty(p)
                                .EnumerateArray()
                                .Select(e => e.ValueKind == JsonValueKind.Array ? $"[{e[0]},{e[1]}]" : e.GetString())
                        )
                    )
                )
        );

    private static string Show(AttentionReport attention, Func<string, string> name)
    {
        string Part(string part, AttentionProjectionReport p) =>
            $"{part}={string.Join(' ', p.Rows.Select(r => $"[{r.First},{r.End}]").Prepend(name(p.Parameter)))}";
        string?[] parts =
        [
            attention.Heads > 0 ? $"{attention.Heads} heads" : null,
            attention.Mask is null ? null : $"mask={attention.Mask}",
            Part("q", attention.Q),
            Part("k", attention.K),
            Part("v", attention.V),
        ];
        return string.Join(' ', parts.OfType<string>());
    }
}
