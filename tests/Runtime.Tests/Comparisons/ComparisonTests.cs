using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime.Comparisons;
using MacOnnx.Runtime.Data;
using MacOnnx.Runtime.Tests.Training;

namespace MacOnnx.Runtime.Tests.Comparisons;

/// <summary>An equal search for each method, fresh seeds, and the same table whatever interrupts it.</summary>
[Collection("tests that change the current folder")]
public sealed class ComparisonTests : IDisposable
{
    private static readonly ComparisonMethod[] Methods =
    [
        Method("mac-adamw", OptimizerKind.MacAdamW, 0.003f),
        Method("adamw", OptimizerKind.AdamW, 0.003f),
        Method("sgd", OptimizerKind.Sgd, 0.1f),
    ];

    private static readonly ComparisonOptions Small = new()
    {
        Steps = 12,
        Trials = 4,
        Seeds = 2,
        Training = new()
        {
            BatchSize = 64,
            Seed = 5,
            ValidationFraction = 0.1,
            Schedule = ScheduleKind.Cosine,
        },
    };

    private static readonly string[] AllSeeds = ["5", "5", "5", "5", "6", "7"];

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void EveryMethodHasTheSameSearchAndFreshSeeds()
    {
        var result = Compare(Small);
        Assert.Equal(["mac-adamw", "adamw", "sgd"], result.Methods.Select(m => m.Name));
        Assert.Equal(
            ("adamw", 12, 12, SelectionKind.Validation, 1617, 180),
            (
                result.Reference,
                result.Steps,
                result.SearchSteps,
                result.Selection,
                result.Samples,
                result.ValidationSamples
            )
        );
        Assert.Equal([0.0003f, 0.003f, 0.03f, 0.03f], result.Methods[0].Search.Select(r => r.LearningRate));
        Assert.Equal([1f, 1f, 1f, 0.1f], result.Methods[0].Search.Select(r => r.Damping));
        Assert.Equal([0.0003f, 0.003f, 0.0095f, 0.03f], result.Methods[1].Search.Select(r => r.LearningRate));
        foreach (var (method, package) in result.Methods.Zip(Methods.Select(m => m.Package)))
        {
            Assert.Equal(AllSeeds, method.Search.Concat(method.Final).Select(r => $"{r.Seed}"));
            Assert.Equal(method.Search.Min(r => r.Validation!.Loss), method.Best!.Validation!.Loss);
            Assert.All(
                method.Final,
                r => Assert.Equal((method.Best.LearningRate, method.Best.Damping), (r.LearningRate, r.Damping))
            );
            Assert.Equal(method.Best.LearningRate is 0.0003f or 0.03f or 0.01f or 1, method.IsAtEndOfRates);
            Assert.Equal(
                package.Manifest.Buffers.Where(b => b.Role == BufferRole.State).Sum(b => b.Bytes),
                method.StateBytes
            );
            Assert.True(method.StepMilliseconds > 0);
            Assert.Equal(method.Final.Average(r => r.Validation!.Loss), method.ValidationLoss!.Value.Mean, 1e-12);
            Assert.Equal(method.Curve!.Mean[^1], method.TrainingLoss!.Value.Mean, 1e-12);
            Assert.All(method.Search, r => Assert.Equal(package.Manifest.Reads("damping"), r.Damping is not null));
        }

        var reference = result.Methods[1];
        Assert.InRange(reference.AtFinalLoss!.Value.Step, reference.AtHalfLoss!.Value.Step, 12);
        Assert.InRange(reference.AtHalfLoss!.Value.Step, 1, 6);
        Assert.Equal(
            reference.AtHalfLoss!.Value.Step * reference.StepMilliseconds / 1000,
            reference.AtHalfLoss!.Value.Seconds
        );
    }

    /// <summary>A final run is what a trainer of one's own gives with the same rate and seed.</summary>
    [Fact]
    public void AFinalRunIsATrainersRun()
    {
        var final = Compare(Small).Methods[0].Final[1];
        var (train, validation) = Digits.Data.Split(0.1, 5);
        using var session = Digits.Session(Methods[0].Package);
        session.Hyperparameters = session.Hyperparameters with
        {
            LearningRate = final.LearningRate,
            Damping = final.Damping!.Value,
        };
        using var trainer = new Trainer(
            session,
            train,
            Small.Training with
            {
                Epochs = null,
                MaxSteps = 12,
                Seed = 7,
                ValidationFraction = 0,
            },
            validation
        );
        Assert.Equal(trainer.Run(TestContext.Current.CancellationToken).Validation, final.Validation);
    }

    [Fact]
    public void AnInterruptedComparisonGoesOn()
    {
        var whole = Numbers(Compare(Small));
        var options = Small with { OutputFolder = _folder.File("out") };
        using var stop = new CancellationTokenSource();
        Assert.Throws<OperationCanceledException>(() =>
            Compare(
                options,
                p =>
                {
                    if (p is { Run: 8, Step: 3 })
                    {
                        stop.Cancel();
                    }
                },
                stop.Token
            )
        );
        var files = Directory.GetFiles(_folder.File("out/runs"), "*adamw-*");
        Assert.Equal(7, files.Length);
        File.WriteAllText(files[0], "{\"key\":");
        var trained = new HashSet<int>();
        var result = Compare(options, p => trained.UnionWith(p.Finished is null ? [p.Run] : []));
        Assert.Equal(whole, Numbers(result));
        Assert.Equal(12, trained.Count); // those after the seventh, and the damaged one

        // Another question asked of the same folder trains only what is new, and leaves the rest.
        trained.Clear();
        Compare(options with { Seeds = 3 }, p => trained.UnionWith(p.Finished is null ? [p.Run] : []));
        Assert.Equal([7, 14, 21], trained.Order());
    }

    [Fact]
    public void RunsWithoutFiniteNumbersAreTheWorst()
    {
        ComparisonMethod[] methods =
        [
            Method("wild", OptimizerKind.Sgd, 1e25f),
            Method("adamw", OptimizerKind.AdamW, 1),
        ];
        var result = Compare(Small with { RateRange = 1e3, Trials = 3 }, methods: methods);
        var (wild, tame) = (result.Methods[0], result.Methods[1]);
        Assert.All(wild.Search, r => Assert.True(r.HasDiverged));
        Assert.Null(wild.Best);
        Assert.Empty(wild.Final);
        Assert.Null(wild.Curve);
        Assert.Null(wild.TrainingLoss);
        Assert.Null(wild.AtFinalLoss);
        Assert.Equal(0.001f, tame.Best!.LearningRate);
        Assert.True(tame.IsAtEndOfRates);
    }

    [Fact]
    public void ABudgetGivesTheStepsOnce()
    {
        var options = Small with
        {
            Steps = null,
            Budget = TimeSpan.FromSeconds(21),
            Trials = 1,
            Seeds = 1,
            OutputFolder = _folder.File("out"),
        };
        var result = Compare(options, clock: new Metronome(200));

        // 95 % of 21 s are planned. Until then the clock is looked at 43 times: 8.4 s. Six sessions take 0.067 s each
        // to start, and six evaluations 0.2 s each: 1.6 s. Ten steps of a method are one look, so that two runs of each
        // of the three methods take 0.12 s for every step, and 9.95 s are left.
        Assert.Equal(82, result.Steps);
        Assert.Equal(Numbers(result), Numbers(Compare(options, clock: new Metronome(500))));
        var e = Assert.Throws<MacOnnxException>(() =>
            Compare(options with { Budget = TimeSpan.FromSeconds(4) }, clock: new Metronome(200))
        );
        Assert.Equal("ComparisonOptions.Budget", e.Diagnostic.Where);
    }

    [Fact]
    public void TheExampleRunsAndStandsInTheDocumentation()
    {
        var before = Environment.CurrentDirectory;
        try
        {
            Environment.CurrentDirectory = Repository.Root;
            Example();
        }
        finally
        {
            Environment.CurrentDirectory = before;
        }

        var page = File.ReadAllText(Path.Combine(Repository.Root, "docs", "commands.md")).ReplaceLineEndings("\n");
        var lines = File.ReadLines(
                Path.Combine(Repository.Root, "tests", "Runtime.Tests", "Comparisons", "ComparisonTests.cs")
            )
            .SkipWhile(l => !l.StartsWith("    private static void Example(", StringComparison.Ordinal))
            .Skip(2)
            .TakeWhile(l => !l.StartsWith("    }", StringComparison.Ordinal))
            .Select(l => l.Trim());
        Assert.All(lines, l => Assert.Contains(l, page, StringComparison.Ordinal));
    }

    private static void Example()
    {
        ComparisonMethod Of(string name, OptimizerKind optimizer)
        {
            var options = new RewriteOptions
            {
                Optimizer = optimizer,
                Hyperparameters = new() { LearningRate = 0.001f },
            };
            return new(name, Rewriter.Rewrite("models/digits-mlp.onnx", options).Package);
        }

        ComparisonMethod[] methods = [Of("mac-adamw", OptimizerKind.MacAdamW), Of("adamw", OptimizerKind.AdamW)];
        var data = Dataset.Load("models/digits.csv", Dataset.SpecsOf(methods[0].Package.Manifest));
        var result = new Comparison(
            methods,
            data,
            new()
            {
                Steps = 100,
                Trials = 3,
                Seeds = 2,
            }
        ).Run();
        foreach (var method in result.Methods)
        {
            Console.WriteLine($"{method.Name}: rate {method.Best?.LearningRate}, loss {method.TrainingLoss?.Mean}");
        }
    }

    private static ComparisonMethod Method(string name, OptimizerKind optimizer, float rate) =>
        new(
            name,
            Rewriter
                .Rewrite(
                    Path.Combine(Repository.Root, "models", "digits-mlp.onnx"),
                    new()
                    {
                        Optimizer = optimizer,
                        Hyperparameters = new() { LearningRate = rate },
                    }
                )
                .Package
        );

    private static ComparisonResult Compare(
        ComparisonOptions options,
        Action<ComparisonProgress>? watch = null,
        CancellationToken? cancellationToken = null,
        ComparisonMethod[]? methods = null,
        TimeProvider? clock = null
    ) =>
        new Comparison(
            methods ?? Methods,
            Digits.Data,
            options,
            null,
            o => o.IntraOpNumThreads = 1,
            new Watch<ComparisonProgress>(watch ?? (_ => { }))
        )
        {
            Clock = clock ?? TimeProvider.System,
        }.Run(cancellationToken ?? TestContext.Current.CancellationToken);

    /// <summary>Gives every number but times.</summary>
    private static string Numbers(ComparisonResult result) =>
        string.Join(
            '\n',
            result.Methods.SelectMany(m =>
                m.Search.Concat(m.Final)
                    .Select(r => $"{r}")
                    .Append($"{m.Name} {m.TrainingLoss} {m.AtFinalLoss?.Step} {string.Join(' ', m.Curve!.Mean)}")
            )
        );

    /// <summary>A clock that goes on by as much at every look, so that no machine's speed decides.</summary>
    private sealed class Metronome(long milliseconds) : TimeProvider
    {
        private long _looks;

        public override long TimestampFrequency => 1000;

        public override long GetTimestamp() => ++_looks * milliseconds;
    }

    private sealed class Watch<T>(Action<T> action) : IProgress<T>
    {
        public void Report(T value) => action(value);
    }
}
