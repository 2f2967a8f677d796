using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests;

/// <summary>What keeps a model from training is said at once, with what it cuts off and what to do.</summary>
public sealed class ObstacleTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>
    /// A use without gradient, an operator that is not in the table and an attention that is not expanded lie one
    /// behind the other.
    /// </summary>
    [Fact]
    public void AllAreInOneMessage()
    {
        var path = Save([
            Dense("x", "enc", "a"),
            Onnx.Node("ScatterElements", ["a", "first", "one"], ["b"], Int("axis", 0), Text("reduction", "mul")),
            Dense("b", "mid", "c"),
            Contrib("Trilu", ["c"], ["d"]),
            Dense("d", "late", "e"),
            Onnx.Node("Reshape", ["e", "tokens"], ["f"]),
            Contrib("MultiHeadAttention", ["f", "", "", "", "", "", "past", "past"], ["g"], Int("num_heads", 1)),
            Onnx.Node("Reshape", ["g", "rows"], ["h"]),
            Dense("h", "head", "logits"),
        ]);
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path)).Diagnostic;
        Assert.Equal(("MAC0101", path), (e.Id, e.Where));
        Assert.Matches(
            @"ScatterElements \(ScatterElements_b: .*; cuts off enc\.w, enc\.b\), "
                + @"com\.microsoft::Trilu \(Trilu_d; cuts off enc\.w, enc\.b, mid\.w, mid\.b\), "
                + @"com\.microsoft::MultiHeadAttention \(MultiHeadAttention_g: past keys .*: export .*; "
                + @"cuts off enc\.w, enc\.b, mid\.w, mid\.b, late\.w and 1 more\)",
            e.What
        );
        Assert.Equal(@"Freeze what is cut off with RewriteOptions.Frozen '^(enc\.|mid\.|late\.)'.", e.Hint);
        var report = Rewriter.Inspect(path);
        Assert.Equal([2, 4, 6], report.OperatorsWithoutGradient.Select(o => o.Parameters.Length));

        // What the message says to do works.
        var frozen = new RewriteOptions { Frozen = @"^(enc\.|mid\.|late\.)" };
        Assert.Equal(["head.w", "head.b"], Rewriter.Rewrite(path, frozen).Package.Manifest.Trained);
    }

    [Fact]
    public void OneUseIsNamedWithWhatItCutsOff()
    {
        var path = Save([
            Dense("x", "a", "h"),
            Onnx.Node("ScatterElements", ["h", "first", "one"], ["k"], Int("axis", 0), Text("reduction", "mul")),
            Dense("k", "a_head", "logits"),
        ]);
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path)).Diagnostic;
        Assert.Equal(("MAC0102", "ScatterElements 'ScatterElements_k'"), (e.Id, e.Where));
        Assert.EndsWith(
            @"Freeze what is cut off with RewriteOptions.Frozen '^(a\.)'.",
            e.Hint,
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void NothingToFreezeIsSaid()
    {
        var path = Save([
            Dense("x", "a", "h"),
            Onnx.Node("ScatterElements", ["h", "first", "one"], ["logits"], Int("axis", 0), Text("reduction", "mul")),
        ]);
        var e = Assert.Throws<MacOnnxException>(() => Rewriter.Rewrite(path)).Diagnostic;
        Assert.EndsWith("No parameter is left that could train without.", e.Hint, StringComparison.Ordinal);
    }

    private static NodeProto Dense(string input, string module, string output) =>
        Onnx.Node("Gemm", [input, $"{module}.w", $"{module}.b"], [output]);

    private static NodeProto Contrib(string op, string[] inputs, string[] outputs, params Attr[] attributes) =>
        Onnx.Node("com.microsoft", op, inputs, outputs, attributes);

    private string Save(NodeProto[] nodes)
    {
        var names = nodes.SelectMany(n => n.Input).Where(i => i.EndsWith(".w", StringComparison.Ordinal));
        var model = Onnx.Model(
            Onnx.Graph(
                nodes,
                [Onnx.Info("x", ElementType.Float, 4, 4), Onnx.Info("past", ElementType.Float, 1, 1, 2, 4)],
                [Onnx.Info("logits", ElementType.Float, 4, 4)],
                [
                    .. names.Select(n => (n, Onnx.Floats(4, 4))),
                    .. names.Select(n => (n.Replace(".w", ".b", StringComparison.Ordinal), Onnx.Floats(4))),
                    ("first", Ir.Tensor.From<long>([1, 4], [0, 0, 0, 0])),
                    ("one", Ir.Tensor.From<float>([1, 4], [2, 2, 2, 2])),
                    ("tokens", Onnx.Ints(1, 4, 4)),
                    ("rows", Onnx.Ints(4, 4)),
                ]
            )
        );
        model.OpsetImport.Add(new OperatorSetIdProto { Domain = "com.microsoft", Version = 1 });
        return _folder.File("m.onnx", model.ToByteArray());
    }
}
