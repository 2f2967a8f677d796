using System.Security.Cryptography;
using System.Text.Json.Nodes;
using MacOnnx.Cli.Tests.Support;
using MacOnnx.GraphRewriter.Artifacts;
using MacOnnx.Runtime.Data;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Cli.Tests.Reliability;

/// <summary>A kind of file that is damaged, and the command that reads it.</summary>
/// <param name="Name">The name, for messages and for files in <c>Damaged/</c>.</param>
/// <param name="File">The file, in the folder of good files and in that of a case.</param>
/// <param name="Command">The command line; <c>{good}</c> and <c>{case}</c> are these folders.</param>
/// <param name="Mutations">How it is damaged.</param>
/// <param name="With">What else a case needs in its folder: a file or a folder around <paramref name="File"/>.</param>
/// <param name="Manifest">The manifest that the hash of the damaged file is written to, so that what reads the file
/// meets the damage; null for none.</param>
internal sealed record Format(
    string Name,
    string File,
    string Command,
    Mutation[] Mutations,
    string? With = null,
    string? Manifest = null
)
{
    private const string Eval = "eval {good}/run/model.mac --threads 1 --data {case}/";
    private const string EvalCase = "eval {case}/run/model.mac --threads 1 --data {good}/digits.csv";
    private const string Tokens = "eval {good}/gpt.mac --threads 1 --context 8 --data {case}/";
    private const string Resume =
        "train {case}/mlp.onnx --data {good}/digits.csv --threads 1 --max-steps 5 -o {case}/run --resume";
    private const string Artifacts = "rewrite {case}/artifacts --optimizer keep -o {case}/out";
    private const string Package = "run/model.mac";
    private const string Hashes = "run/model.mac/manifest.json";

    private static readonly Mutation[] AsBytes = [Reliability.Mutations.Bytes];
    private static readonly Mutation[] AsJson = [Reliability.Mutations.Json, Reliability.Mutations.Bytes];
    private static readonly Mutation[] AsLines = [Reliability.Mutations.JsonLines, Reliability.Mutations.Bytes];
    private static readonly Mutation[] AsTables =
    [
        Reliability.Mutations.Words,
        Reliability.Mutations.Words,
        Reliability.Mutations.Bytes,
    ];
    private static readonly Mutation[] AsTensors = [Reliability.Mutations.Safetensors, Reliability.Mutations.Bytes];
    private static readonly Mutation[] AsModel =
    [
        Reliability.Mutations.Protobuf,
        Reliability.Mutations.Protobuf,
        Reliability.Mutations.Bytes,
    ];

    /// <summary>Gets the folder of training artifacts that <see cref="Make"/> copies.</summary>
    private static string ArtifactFiles =>
        Path.Combine(Repository.Root, "../shared/ort-artifacts/generated/mlp_ce_adamw");

    /// <summary>
    /// Every kind of file that is read. A new kind is a row, and a file that <see cref="Make"/> makes.
    /// </summary>
    public static Format[] All { get; } =
    [
        new("inspected-model", "mlp.onnx", "inspect {case}/mlp.onnx", AsModel),
        new("rewritten-model", "mlp.onnx", "rewrite {case}/mlp.onnx -o {case}/out", AsModel),
        new("external-model", "external.onnx", "inspect {case}/external.onnx", AsModel, "weights.bin"),
        new("external-data", "weights.bin", "inspect {case}/external.onnx", AsBytes, "external.onnx"),
        new("manifest", Hashes, EvalCase, AsJson, Package),
        new("package-file", $"{Package}/training_model.onnx", EvalCase, AsBytes, Package),
        new("package-weights", $"{Package}/checkpoint.safetensors", EvalCase, AsTensors, Package, Hashes),
        new("training-graph", $"{Package}/training_model.onnx", EvalCase, AsModel, Package, Hashes),
        new("evaluation-graph", $"{Package}/eval_model.onnx", EvalCase, AsModel, Package, Hashes),
        new("optimizer-graph", $"{Package}/optimizer_model.onnx", EvalCase, AsModel, Package, Hashes),
        new(
            "forward-graph",
            $"{Package}/forward_model.onnx",
            "export {case}/run/model.mac --checkpoint {good}/run/step-000002.safetensors -o {case}/out/x.onnx",
            AsModel,
            Package,
            Hashes
        ),
        new(
            "exported-checkpoint",
            "run/step-000002.safetensors",
            "export {good}/run/model.mac --checkpoint {case}/run/step-000002.safetensors -o {case}/out/x.onnx",
            AsTensors
        ),
        new(
            "evaluated-checkpoint",
            "run/step-000002.safetensors",
            $"{Eval[..^"{case}/".Length]}{{good}}/digits.csv --checkpoint {{case}}/run/step-000002.safetensors",
            AsTensors
        ),
        new("resumed-checkpoint", "run/step-000004.safetensors", Resume, AsTensors, "run"),
        new("run-options", "run/run.json", Resume, AsJson, "run"),
        new("run-metrics", "run/metrics.jsonl", Resume, AsLines, "run"),
        new("run-epochs", "run/epochs.jsonl", Resume, AsLines, "run"),
        new("csv", "digits.csv", $"{Eval}digits.csv", AsBytes),
        new("npz", "data.npz", $"{Eval}data.npz", [Reliability.Mutations.Zip, Reliability.Mutations.Bytes]),
        new("npy", "arrays/input.npy", $"{Eval}arrays", AsBytes, "arrays"),
        new("idx", "mnist/t10k-images-idx3-ubyte", $"{Eval}mnist", AsBytes, "mnist"),
        new(
            "idx-gz",
            "mnist/t10k-labels-idx1-ubyte.gz",
            $"{Eval}mnist",
            [Reliability.Mutations.Gzip, Reliability.Mutations.Bytes],
            "mnist"
        ),
        new("token-text", "tokens.txt", $"{Tokens}tokens.txt", AsBytes),
        new("token-npy", "tokens.npy", $"{Tokens}tokens.npy", AsBytes),
        new("token-bin", "tokens.bin", $"{Tokens}tokens.bin", AsBytes),
        new("artifacts-training", "artifacts/training_model.onnx", Artifacts, AsModel, "artifacts"),
        new("artifacts-optimizer", "artifacts/optimizer_model.onnx", Artifacts, AsModel, "artifacts"),
        new("artifacts-evaluation", "artifacts/eval_model.onnx", Artifacts, AsModel, "artifacts"),
        new("artifacts-checkpoint", "artifacts/checkpoint", Artifacts, AsTables, "artifacts"),
        new(
            "artifacts-sequence",
            "artifacts/old/paramtrain_tensors.pbseq",
            "rewrite {case}/artifacts --checkpoint {case}/artifacts/old --optimizer keep -o {case}/out",
            AsBytes,
            "artifacts"
        ),
    ];

    /// <summary>Gets why there is no good file of this kind; null where there is one.</summary>
    public string? Missing =>
        File.StartsWith("artifacts/", StringComparison.Ordinal) && !Directory.Exists(ArtifactFiles)
            ? "shared/ort-artifacts is not there."
            : null;

    /// <summary>Makes a good file of each kind.</summary>
    public static async Task Make(TempFolder folder)
    {
        string File(string name) => folder.File(name);
        System.IO.File.Copy(Repository.Models("digits-mlp.onnx"), File("mlp.onnx"));
        await System.IO.File.WriteAllLinesAsync(
            File("digits.csv"),
            System.IO.File.ReadLines(Repository.Models("digits.csv")).Take(100)
        );
        await Maconnx.Succeed(
            "train",
            File("mlp.onnx"),
            "--data",
            File("digits.csv"),
            "--threads",
            "1",
            "--max-steps",
            "4",
            "--save-every",
            "2",
            "-o",
            File("run")
        );
        await Maconnx.Succeed(
            "rewrite",
            Repository.Models("chargpt.onnx"),
            "--optimizer",
            "sgd",
            "-o",
            File("gpt.mac")
        );
        byte[] ids = [.. Enumerable.Range(0, 60).Select(i => (byte)(i % 50))];
        folder.File("tokens.txt", ids);
        folder.File("tokens.bin", [.. ids.SelectMany(i => new byte[] { i, 0 })]);
        NpyFile.Write(File("tokens.npy"), Tensor.From<long>([ids.Length], [.. ids.Select(i => (long)i)]));
        var pixels = Enumerable.Range(0, 20 * 64).Select(i => (byte)(i % 17)).ToArray();
        var labels = Enumerable.Range(0, 20).Select(i => (byte)(i % 10)).ToArray();
        var input = Tensor.From<float>([20, 64], [.. pixels.Select(p => p / 17f)]);
        var target = Tensor.From<long>([20], [.. labels.Select(l => (long)l)]);
        NpzFile.Write(File("data.npz"), [new("input", input), new("labels", target)]);
        Directory.CreateDirectory(File("arrays"));
        NpyFile.Write(File("arrays/input.npy"), input);
        NpyFile.Write(File("arrays/labels.npy"), target);
        Directory.CreateDirectory(File("mnist"));
        folder.File("mnist/t10k-images-idx3-ubyte", [0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 8, 0, 0, 0, 8, .. pixels]);
        folder.File(
            "mnist/t10k-labels-idx1-ubyte.gz",
            Reliability.Mutations.Compress([0, 0, 8, 1, 0, 0, 0, 20, .. labels])
        );
        var (model, weights) = WithExternalData(await System.IO.File.ReadAllBytesAsync(File("mlp.onnx")));
        if (Directory.Exists(ArtifactFiles))
        {
            Directory.CreateDirectory(File("artifacts/old"));
            foreach (
                var name in new[] { "training_model.onnx", "optimizer_model.onnx", "eval_model.onnx", "checkpoint" }
            )
            {
                System.IO.File.WriteAllBytes(
                    File($"artifacts/{name}"),
                    await System.IO.File.ReadAllBytesAsync(Path.Combine(ArtifactFiles, name))
                );
            }

            folder.File(
                "artifacts/old/paramtrain_tensors.pbseq",
                Sequence(OrtCheckpointFile.Read(File("artifacts/checkpoint")).Trainable)
            );
        }

        folder.File("external.onnx", model);
        folder.File("weights.bin", weights);
    }

    /// <summary>Gives the command line of a case.</summary>
    public string[] Line(string good, string at) =>
        [
            .. Command
                .Split(' ')
                .Select(a =>
                    a.Replace("{good}", good, StringComparison.Ordinal).Replace("{case}", at, StringComparison.Ordinal)
                ),
        ];

    /// <summary>Gives the damaged file of a seed.</summary>
    public byte[] Damaged(string good, int seed)
    {
        var random = new Random(seed);
        return Mutations[random.Next(Mutations.Length)](System.IO.File.ReadAllBytes(Path.Combine(good, File)), random);
    }

    /// <summary>Makes the folder of a case: the damaged file and what it needs.</summary>
    public void Place(string good, string at, byte[] damaged)
    {
        foreach (var name in new[] { With, Command.Contains("{case}/mlp.onnx") ? "mlp.onnx" : null }.OfType<string>())
        {
            string[] files = Directory.Exists(Path.Combine(good, name))
                ? Directory.GetFiles(Path.Combine(good, name), "*", SearchOption.AllDirectories)
                : [Path.Combine(good, name)];
            foreach (var file in files)
            {
                var target = Path.Combine(at, Path.GetRelativePath(good, file));
                Directory.CreateDirectory(Path.GetDirectoryName(target)!);
                System.IO.File.Copy(file, target, overwrite: true);
            }
        }

        var path = Path.Combine(at, File);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        System.IO.File.WriteAllBytes(path, damaged);
        if (Manifest is not null)
        {
            var manifest = Path.Combine(at, Manifest);
            var json = JsonNode.Parse(System.IO.File.ReadAllBytes(manifest))!;
            json["files"]![Path.GetFileName(File)] = Convert.ToHexStringLower(SHA256.HashData(damaged));
            System.IO.File.WriteAllText(manifest, json.ToJsonString());
        }
    }

    /// <summary>Makes a file as checkpoints of older releases have: a count, then messages after their
    /// lengths.</summary>
    private static byte[] Sequence(IReadOnlyDictionary<string, Tensor> tensors)
    {
        const int dims = 1,
            type = 2,
            name = 8,
            rawData = 9;
        return
        [
            (byte)tensors.Count,
            .. tensors.SelectMany(t =>
                // The field's tag is not in the file.
                WireField
                    .ToBytes([
                        new()
                        {
                            Number = 1,
                            Type = 2,
                            Fields =
                            [
                                .. t.Value.Dims.Select(d => Number(dims, (ulong)d)),
                                Number(type, (ulong)t.Value.Type),
                                WireField.Text(name, t.Key),
                                new()
                                {
                                    Number = rawData,
                                    Type = 2,
                                    Content = t.Value.Data.ToArray(),
                                },
                            ],
                        },
                    ])
                    .Skip(1)
            ),
        ];

        static WireField Number(int number, ulong value) =>
            new()
            {
                Number = number,
                Type = 0,
                Value = value,
            };
    }

    /// <summary>Moves the weights of a model to a file beside it.</summary>
    private static (byte[] Model, byte[] Weights) WithExternalData(byte[] bytes)
    {
        const int graph = 7,
            initializer = 5,
            rawData = 9,
            externalData = 13,
            dataLocation = 14;
        var model = WireField.Parse(bytes)!;
        var weights = new List<byte>();
        foreach (var tensor in model.Single(f => f.Number == graph).Fields!.Where(f => f.Number == initializer))
        {
            if (tensor.Fields!.SingleOrDefault(f => f.Number == rawData) is not { } data)
            {
                continue;
            }

            var content = data.ToContent();
            tensor.Fields!.Remove(data);
            tensor.Fields.AddRange(
                Entry("location", "weights.bin"),
                Entry("offset", $"{weights.Count}"),
                Entry("length", $"{content.Length}"),
                new WireField
                {
                    Number = dataLocation,
                    Type = 0,
                    Value = 1,
                }
            );
            weights.AddRange(content);
        }

        return (WireField.ToBytes(model), [.. weights]);

        static WireField Entry(string key, string value) =>
            new()
            {
                Number = externalData,
                Type = 2,
                Fields = [WireField.Text(1, key), WireField.Text(2, value)],
            };
    }
}
