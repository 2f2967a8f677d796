using System.Globalization;
using MacOnnx.Cli.Tests.Support;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;

namespace MacOnnx.Cli.Tests.Reliability;

/// <summary>
/// Kills the program at random moments and before any of its file operations, and compares what it then makes with
/// what one made that was never killed. A failure names seed, round and call.
/// </summary>
public sealed class CrashTests : IDisposable
{
    private static readonly string Model = Repository.Models("digits-mlp.onnx");

    private static readonly string[] Train =
    [
        "train",
        Model,
        "--data",
        Repository.Models("digits.csv"),
        "--threads",
        "1",
        "--max-steps",
        "120",
        "--save-every",
        "10",
        "-o",
    ];

    /// <summary>What a run leaves; the package's manifest has the hashes of its other files.</summary>
    private static readonly string[] RunFiles =
    [
        "step-000120.safetensors",
        "metrics.jsonl",
        "epochs.jsonl",
        "trained.onnx",
        "model.mac/manifest.json",
    ];

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("train", 1, 3)]
    [InlineData("rewrite", 2, 2)]
    [InlineData("export", 3, 2)]
    public Task NothingIsLost(string command, int seed, int kills) => Kill(command, seed, kills);

    [Theory]
    [Trait("Category", "Nightly")]
    [InlineData("train", 11, 140)]
    [InlineData("rewrite", 12, 40)]
    [InlineData("export", 13, 40)]
    public Task NothingIsLostInManyKills(string command, int seed, int kills)
    {
        Child.SkipUnlessNightly();
        return Kill(command, seed, kills);
    }

    private async Task Kill(string command, int seed, int kills)
    {
        Scenario scenario = command switch
        {
            "train" => new TrainScenario(_folder),
            "rewrite" => new RewriteScenario(_folder),
            _ => new ExportScenario(_folder),
        };
        await scenario.Prepare();
        var whole = await Child.RunFor(scenario.Whole, TimeSpan.MaxValue);
        Assert.Equal((0, ""), (whole.Code, whole.Error));
        var calls = Child.NoStrace is null ? await Child.Count(scenario.Counted, _folder.File("calls.txt")) : null;
        var random = new Random(seed);
        var (done, lives, ends) = (0, 0, 0);
        while (done < kills)
        {
            // Every other life ends before a file operation, the rest at a moment; no round depends on luck to end.
            var args = scenario.Next();
            var (call, when) = ("", 0);
            if (calls is not null && lives++ % 2 == 1)
            {
                call = Child.FileCalls[random.Next(Child.FileCalls.Length)];
                when = random.Next(1, calls[call] + 1);
            }

            var what = $"{command}, seed {seed}, kill {done}, call {when} of {call}";
            var (code, error) =
                when > 0 ? await Last(args, call, when) : await During(args, random.NextDouble() * whole.Busy);
            Assert.True(code is null or 0, $"{what}: exit code {code}, {error}");
            done += code is null ? 1 : 0;
            scenario.CheckKilled(what);
            if (code == 0 || ++ends % 4 == 0)
            {
                var last = await Child.Run(scenario.Next());
                Assert.True(last.Code == 0, $"{what}, uninterrupted: exit code {last.Code}, {last.Error}");
                scenario.CheckEnded(what);
            }
        }

        Assert.Equal(0, (await Child.Run(scenario.Next())).Code);
        scenario.CheckEnded($"{command}, seed {seed}, at the end");
        TestContext.Current.SendDiagnosticMessage(
            $"{command}: {done} kills, {(calls is null ? "no strace" : "strace")}"
        );
    }

    /// <summary>Kills the program before its n-th call of a kind.</summary>
    private static async Task<(int? Code, string Error)> Last(string[] args, string call, int n)
    {
        var when = n.ToString(CultureInfo.InvariantCulture);
        var (code, _, error) = await Child.Run(args, null, Child.Inject(call, "signal=KILL", when));
        return (code, error);
    }

    /// <summary>Kills the program at a moment of its processor time.</summary>
    private static async Task<(int? Code, string Error)> During(string[] args, TimeSpan moment)
    {
        var (code, error, _) = await Child.RunFor(args, moment);
        return (code, error);
    }

    private static void Same(string expected, string found, string[] files, string what)
    {
        foreach (var file in files)
        {
            var isSame = File.ReadAllBytes(Path.Combine(expected, file))
                .AsSpan()
                .SequenceEqual(File.ReadAllBytes(Path.Combine(found, file)));
            Assert.True(isSame, $"{what}: {file} differs.");
        }

        Assert.DoesNotContain(
            Directory.EnumerateFiles(found, "*", SearchOption.AllDirectories),
            f => f.EndsWith(".tmp", StringComparison.Ordinal)
        );
    }

    /// <summary>A command that is killed again and again.</summary>
    private abstract class Scenario(TempFolder folder)
    {
        protected TempFolder Folder { get; } = folder;

        /// <summary>Gets the command line that is never killed.</summary>
        public abstract string[] Whole { get; }

        /// <summary>Gets the command line whose file operations are counted.</summary>
        public abstract string[] Counted { get; }

        public virtual Task Prepare() => Task.CompletedTask;

        /// <summary>Gives the command line to kill next, or to let end.</summary>
        public abstract string[] Next();

        /// <summary>Checks what a kill left.</summary>
        public virtual void CheckKilled(string what) { }

        /// <summary>Checks what the command left that ended, and begins anew.</summary>
        public abstract void CheckEnded(string what);
    }

    /// <summary>A run that is resumed until it ends.</summary>
    private sealed class TrainScenario(TempFolder folder) : Scenario(folder)
    {
        private int _run;
        private int _life;

        public override string[] Whole => [.. Train, Folder.File("whole")];

        public override string[] Counted => [.. Train, Folder.File("counted")];

        public override string[] Next() => [.. Train, Folder.File($"run{_run}"), .. Resume()];

        public override void CheckEnded(string what)
        {
            Same(Folder.File("whole"), Folder.File($"run{_run}"), RunFiles, what);
            Directory.Delete(Folder.File($"run{_run}"), recursive: true);
            (_run, _life) = (_run + 1, 0);
        }

        private string[] Resume() => _life++ == 0 ? [] : ["--resume"];
    }

    /// <summary>
    /// A package that is rewritten over one of another optimizer: it is whole or refused, never mixed.
    /// </summary>
    private sealed class RewriteScenario(TempFolder folder) : Scenario(folder)
    {
        private static readonly string[] Rewrite = ["rewrite", Model, "--optimizer"];

        private int _count;

        public override string[] Whole => [.. Rewrite, "mac", "-o", Folder.File("mac")];

        public override string[] Counted => [.. Rewrite, "mac", "-o", Folder.File("counted")];

        public override Task Prepare() => Maconnx.Succeed([.. Rewrite, "sgd", "-o", Folder.File("sgd")]);

        public override string[] Next() => [.. Rewrite, _count++ % 2 == 0 ? "sgd" : "mac", "-o", Folder.File("p")];

        public override void CheckKilled(string what)
        {
            try
            {
                TrainingPackage.Load(Folder.File("p"));
            }
            catch (MacOnnxException e)
            {
                Assert.True(e.Diagnostic.Id == "MAC0402", $"{what}: {e.Message}"); // There is no manifest.
                return;
            }

            var manifest = File.ReadAllBytes(Folder.File("p/manifest.json"));
            Assert.True(
                new[] { "mac", "sgd" }.Any(p =>
                    File.ReadAllBytes(Folder.File($"{p}/manifest.json")).AsSpan().SequenceEqual(manifest)
                ),
                $"{what}: the package is another one."
            );
        }

        public override void CheckEnded(string what)
        {
            var expected = Folder.File(_count % 2 == 1 ? "sgd" : "mac");
            Same(
                expected,
                Folder.File("p"),
                [.. Directory.EnumerateFiles(expected).Select(f => Path.GetFileName(f))],
                what
            );
        }
    }

    /// <summary>A model that is exported over another one: it is the one or the other.</summary>
    private sealed class ExportScenario(TempFolder folder) : Scenario(folder)
    {
        private readonly List<byte[]> _models = [];
        private int _count;

        public override string[] Whole => Export(2, "whole.onnx");

        public override string[] Counted => Export(2, "counted.onnx");

        public override async Task Prepare()
        {
            await Maconnx.Succeed([.. Train[..^5], "--max-steps", "2", "--save-every", "1", "-o", Folder.File("run")]);
            foreach (var step in new[] { 1, 2 })
            {
                await Maconnx.Succeed(Export(step, "models/x.onnx"));
                _models.Add(await File.ReadAllBytesAsync(Folder.File("models/x.onnx")));
            }
        }

        public override string[] Next() => Export(1 + (_count++ % 2), "models/x.onnx");

        public override void CheckKilled(string what)
        {
            var found = File.ReadAllBytes(Folder.File("models/x.onnx"));
            Assert.True(_models.Any(m => m.AsSpan().SequenceEqual(found)), $"{what}: the model is another one.");
        }

        public override void CheckEnded(string what) =>
            Assert.True(
                _models[(_count + 1) % 2].AsSpan().SequenceEqual(File.ReadAllBytes(Folder.File("models/x.onnx"))),
                $"{what}: the model is another one."
            );

        private string[] Export(int step, string file) =>
            [
                "export",
                Folder.File("run/model.mac"),
                "--checkpoint",
                Folder.File($"run/step-00000{step}.safetensors"),
                "-o",
                Folder.File(file),
            ];
    }
}
