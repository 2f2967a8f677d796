using System.Text.Json;
using MacOnnx.Cli.Tests.Support;
using MacOnnx.Runtime.Data;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Cli.Tests;

/// <summary>Everything a user can get wrong gives one line and an exit code, and leaves nothing behind.</summary>
public sealed class ErrorTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("", "command")]
    [InlineData("fly", "fly")]
    [InlineData("train", "--data")]
    [InlineData("train {mlp} --data", "--data")]
    [InlineData("train {mlp} --data {csv} --epoch 3", "--epoch")]
    [InlineData("train {mlp} --data {csv} --epochs x", "--epochs: 'x' is not a whole number")]
    [InlineData("train {mlp} --data {csv} --epochs 1.5", "--epochs: '1.5' is not a whole number")]
    [InlineData("train {mlp} --data {csv} --epochs 0", "--epochs")]
    [InlineData("train {mlp} --data {csv} --batch-size 0", "--batch-size")]
    [InlineData("train {mlp} --data {csv} --learning-rate NaN", "--learning-rate: 'NaN' is not a number")]
    [InlineData("train {mlp} --data {csv} --learning-rate -1", "--learning-rate: -1 is out of range")]
    [InlineData("train {mlp} --data {csv} --momentum 1", "--momentum")]
    [InlineData("train {mlp} --data {csv} --seed -1", "--seed")]
    [InlineData("train {mlp} --data {csv} --threads 0", "--threads")]
    [InlineData("train {mlp} --data {csv} --threads 1025", "--threads: ")]
    [InlineData("compare {mlp} --data {csv} --threads 1025", "--threads: ")]
    [InlineData("check {mlp} --threads 1025", "--threads: ")]
    [InlineData("train {mlp} --data {csv} --loss hinge", "--loss: 'hinge' is not one of cross-entropy, mse")]
    [InlineData("train {mlp} --data {csv} --loss-input other", "There is no output 'other'")]
    [InlineData("train {mlp} --data {csv} --class-axis 7", "class axis 7")]
    [InlineData("train {mlp} --data {csv} --no-decay (", "--no-decay")]
    [InlineData("train {mlp} --data {csv} --trainable nothing", "Nothing is left to train")]
    [InlineData("train {mlp} --data {csv} --class-weights 1,2", "2 class weights")]
    [InlineData("train {mlp} --data {csv} --class-weights 1,x", "'x' is not a number")]
    [InlineData("train {mlp} --data {csv} --dim batch", "NAME=SIZE")]
    [InlineData("rewrite {mlp} -o {out}/m.mac --dim batch=0", "NAME=SIZE")]
    [InlineData("rewrite {mlp} -o {out}/m.mac --dim batch=2147483648", "from 1 to 2147483647")]
    [InlineData("train {mlp} --data {csv} --dim batch=64 --batch-size 32", "Wrong data shape")]
    [InlineData("train {mlp} --data {csv} --target-name input", "input 'input' already")]
    [InlineData("train {mlp} --data {csv} --resume", "-o")]
    [InlineData("train {mlp} --data {csv} --validation {out}/none.csv", "none.csv: The file cannot be read")]
    [InlineData("train {mlp} --data {csv} --validation-split 1", "--validation-split")]
    [InlineData("train {mlp} --data {out}/none.npz", "none.npz")]
    [InlineData("train {mlp} --data {cnn}", "not a supported kind of data")]
    [InlineData("train {mlp} --data {csv} --context 8", "holds no tokens")]
    [InlineData("train {mlp} --data {text} --context 8", "'input' Float[?,64], 'labels' Int64[?], not tokens")]
    [InlineData("train {gpt} --data {text}", "leaves the length of a sample open. Give")]
    [InlineData("train {gpt} --data {text} --context 0", "does not take samples of 0 tokens")]
    [InlineData("train {gpt} --dim sequence=32 --data {text} --context 64", "fixes them to 32")]
    [InlineData("train {gpt} --data {text} --context 200000", "366194 tokens are too few for a sample of 200000")]
    [InlineData("train {gpt} --data {out}/none.bin --context 8", "none.bin: The file cannot be read")]
    [InlineData("train {out}/none.onnx --data {csv}", "none.onnx")]
    [InlineData("train {out}/none.mac --data {csv}", "none.mac")]
    [InlineData("train {csv} --data {csv}", "not an ONNX model")]
    [InlineData("train {out} --data {csv}", "manifest")]
    [InlineData("compare {mlp}", "--data")]
    [InlineData("compare {mlp} --data {csv} --optimizers adamx", "'adamx' is not one of mac, ")]
    [InlineData("compare {mlp} --data {csv} --optimizers sgd,sgd", "Two methods are called 'sgd'")]
    [InlineData("compare {mlp} --data {csv} --optimizers ,", "--optimizers: It names none")]
    [InlineData("compare {mlp} --data {csv} --method fast", "'fast' is not a name and options")]
    [InlineData("compare {mlp} --data {csv} --method x:--fast", "--method x: ")]
    [InlineData("compare {mlp} --data {csv} --trials 0", "--trials: 0 is out of range")]
    [InlineData("compare {mlp} --data {csv} --seeds 0", "--seeds: 0 is out of range")]
    [InlineData("compare {mlp} --data {csv} --steps 0", "--steps: 0 is out of range")]
    [InlineData("compare {mlp} --data {csv} --rate-range 1", "--rate-range: 1 is out of range")]
    [InlineData("compare {mlp} --data {csv} --budget 10", "--budget: '10' is not a time such as 90s")]
    [InlineData("compare {mlp} --data {csv} --budget 10s --steps 9", "--budget: The steps are given already")]
    [InlineData("compare {mlp} --data {csv} --reference x", "--reference: No method is called 'x'")]
    [InlineData("compare {mlp} --data {csv} --select validation --validation-split 0", "--select: There are no")]
    [InlineData("compare {mlp} --data {csv} --batch-size 0", "--batch-size")]
    [InlineData("compare {out}/none.onnx --data {csv}", "none.onnx")]
    [InlineData("inspect {out}/none.onnx", "none.onnx")]
    [InlineData("inspect {out}", "cannot be read")]
    [InlineData("rewrite {mlp} -o {csv}/x", "cannot be written")]
    [InlineData("eval {out} --data {csv}", "manifest")]
    [InlineData("export {out} --checkpoint x", "manifest")]
    public async Task BadInputIsOneLine(string line, string text)
    {
        var args = line.Split(' ', StringSplitOptions.RemoveEmptyEntries)
            .Select(a =>
                a.Replace("{mlp}", Repository.Models("digits-mlp.onnx"), StringComparison.Ordinal)
                    .Replace("{cnn}", Repository.Models("digits-cnn.onnx"), StringComparison.Ordinal)
                    .Replace("{gpt}", Repository.Models("chargpt.onnx"), StringComparison.Ordinal)
                    .Replace("{text}", Repository.Models("kjv.txt"), StringComparison.Ordinal)
                    .Replace("{csv}", Repository.Models("digits.csv"), StringComparison.Ordinal)
                    .Replace("{out}", _folder.Path, StringComparison.Ordinal)
            )
            .ToArray();
        var output =
            args is ["train" or "compare", .., not "--data"] && !args.Contains("--resume")
                ? ["-o", _folder.File("run")]
                : Array.Empty<string>();
        Assert.Contains(
            text,
            await Maconnx.Fail(text == "cannot be written" ? 2 : 1, [.. args, .. output]),
            StringComparison.Ordinal
        );
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder.Path));
    }

    [Fact]
    public async Task DamagedModelsAreRefused()
    {
        var model = await File.ReadAllBytesAsync(
            Repository.Models("digits-cnn.onnx"),
            TestContext.Current.CancellationToken
        );
        for (var length = 0; length < model.Length; length += 4001)
        {
            Assert.Contains(
                "cut.onnx",
                await Maconnx.Fail(1, "inspect", _folder.File("cut.onnx", model[..length])),
                StringComparison.Ordinal
            );
        }

        var random = new Random(1);
        for (var i = 0; i < 20; i++)
        {
            var bytes = new byte[1000];
            random.NextBytes(bytes);
            Assert.Contains(
                "random.onnx",
                await Maconnx.Fail(1, "rewrite", _folder.File("random.onnx", bytes), "-o", _folder.File("random.mac")),
                StringComparison.Ordinal
            );
        }

        Assert.False(Directory.Exists(_folder.File("random.mac")));
    }

    [Fact]
    public async Task BadDataAreRefusedBeforeTraining()
    {
        var pixels = Tensor.From<float>([4, 64], new float[256]);
        await Refused(
            "Row 2 has the label 10",
            new("input", pixels),
            new("labels", Tensor.From<long>([4], [0, 1, 10, 3]))
        );
        await Refused("Missing arrays: 'labels'", new("input", pixels), new("y", Tensor.From<long>([4], [0, 1, 2, 3])));
        await Refused(
            "Wrong data shape",
            new("input", Tensor.From<float>([4, 63], new float[252])),
            new("labels", Tensor.From<long>([4], [0, 1, 2, 3]))
        );
        await Refused(
            "the model expects Int64",
            new("input", pixels),
            new("labels", Tensor.From<float>([4], [0, 1, 2, 3]))
        );
        Assert.False(Directory.Exists(_folder.File("run")));

        async Task Refused(string text, params KeyValuePair<string, Tensor>[] arrays)
        {
            NpzFile.Write(_folder.File("data.npz"), arrays);
            Assert.Contains(
                text,
                await Maconnx.Fail(
                    1,
                    "train",
                    Repository.Models("digits-mlp.onnx"),
                    "--data",
                    _folder.File("data.npz"),
                    "-o",
                    _folder.File("run")
                ),
                StringComparison.Ordinal
            );
        }
    }

    [Fact]
    public async Task NumbersThatAreNotFiniteFailTheRun()
    {
        var error = await Maconnx.Fail(
            2,
            "train",
            Repository.Models("digits-mlp.onnx"),
            "--data",
            Repository.Models("digits.csv"),
            "-o",
            _folder.File("run"),
            "--learning-rate",
            "1e30",
            "--save-every",
            "1"
        );
        Assert.Contains("steps in a row were skipped", error, StringComparison.Ordinal);
        Assert.True(File.Exists(_folder.File("run/step-000001.safetensors")));
    }

    [Fact]
    public async Task DataWithoutNumbersFailAShortRunToo()
    {
        var pixels = new float[256];
        pixels[3] = float.NaN;
        Save("some.npz");
        Array.Fill(pixels, float.NaN);
        Save("all.npz");
        string[] train =
        [
            "train",
            Repository.Models("digits-mlp.onnx"),
            "--epochs",
            "1",
            "--batch-size",
            "1",
            "--data",
        ];
        var error = await Maconnx.Fail(2, [.. train, _folder.File("all.npz"), "-o", _folder.File("run")]);
        Assert.Contains("4 steps in a row were skipped", error, StringComparison.Ordinal);
        Assert.False(File.Exists(_folder.File("run/trained.onnx")));
        Assert.Contains(
            "1 of the steps was skipped",
            await Maconnx.Succeed([.. train, _folder.File("some.npz"), "-o", _folder.File("other")]),
            StringComparison.Ordinal
        );

        // A loss that is no number is null in JSON.
        var result = await Maconnx.SucceedJson(
            "eval",
            _folder.File("run/model.mac"),
            "--data",
            _folder.File("all.npz")
        );
        Assert.Equal(JsonValueKind.Null, result.GetProperty("loss").ValueKind);
        result = await Maconnx.SucceedJson([
            .. train,
            _folder.File("some.npz"),
            "-o",
            _folder.File("third"),
            "--validation",
            _folder.File("all.npz"),
        ]);
        Assert.Equal(JsonValueKind.Null, result.GetProperty("validation").GetProperty("loss").ValueKind);

        void Save(string file) =>
            NpzFile.Write(
                _folder.File(file),
                [new("input", Tensor.From<float>([4, 64], pixels)), new("labels", Tensor.From<long>([4], [0, 1, 2, 3]))]
            );
    }

    [Fact]
    public async Task ASaveThatFailsFailsTheRun()
    {
        Directory.CreateDirectory(_folder.File("run/step-000003.safetensors"));
        string[] train =
        [
            "train",
            Repository.Models("digits-mlp.onnx"),
            "--data",
            Repository.Models("digits.csv"),
            "-o",
            _folder.File("run"),
            "--save-every",
            "1",
            "--max-steps",
            "5",
        ];
        Assert.Contains(
            "step-000003.safetensors: The file cannot be written",
            await Maconnx.Fail(2, train),
            StringComparison.Ordinal
        );
        Directory.Delete(_folder.File("run/step-000003.safetensors"));
        Assert.Contains("holds a run already", await Maconnx.Fail(1, train), StringComparison.Ordinal);
        Assert.Contains("after step 2", await Maconnx.Succeed([.. train, "--resume"]), StringComparison.Ordinal);
    }

    [Fact]
    public async Task CheckpointsOfOtherModelsAreRefused()
    {
        await Maconnx.Succeed("rewrite", Repository.Models("digits-mlp.onnx"), "-o", _folder.File("mlp.mac"));
        await Maconnx.Succeed("rewrite", Repository.Models("digits-cnn.onnx"), "-o", _folder.File("cnn.mac"));
        var other = _folder.File("cnn.mac/checkpoint.safetensors");
        Assert.Contains(
            "checkpoint",
            await Maconnx.Fail(
                1,
                "eval",
                _folder.File("mlp.mac"),
                "--checkpoint",
                other,
                "--data",
                Repository.Models("digits.csv")
            ),
            StringComparison.Ordinal
        );
        Assert.Contains(
            "checkpoint",
            await Maconnx.Fail(
                1,
                "export",
                _folder.File("mlp.mac"),
                "--checkpoint",
                other,
                "-o",
                _folder.File("x.onnx")
            ),
            StringComparison.Ordinal
        );
        await Maconnx.Fail(
            1,
            "eval",
            _folder.File("mlp.mac"),
            "--checkpoint",
            Repository.Models("digits.csv"),
            "--data",
            Repository.Models("digits.csv")
        );
        Assert.False(File.Exists(_folder.File("x.onnx")));
    }
}
