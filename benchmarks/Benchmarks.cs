// Times one training step of each benchmark model on ONNX Runtime (MAC and SGD) and on TorchSharp (SGD), in turns;
// usage in README.md.
using System.Globalization;
using MacOnnx.Benchmarks;
using MacOnnx.Benchmarks.TorchBaseline;
using MacOnnx.GraphRewriter;

const int WarmUpSteps = 5;
const int Rounds = 20;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
string[] flags = [.. args.Where(a => a.StartsWith("--", StringComparison.Ordinal))];
string[] names = [.. args.Except(flags)];
string[] models = names.Length > 0 ? names : [.. BenchmarkModel.All.Select(model => model.Name)];
bool withTorch = !flags.Contains("--no-torch");
int threads = flags.Contains("--one-thread") ? 1 : 2;
string folder = Path.Combine(AppContext.BaseDirectory, "../../../bench-models");
if (flags.Contains("--optimizers"))
{
    Console.WriteLine("Processor time of a step in ms, one thread, in turns; over the update alone; state");
    Console.WriteLine("| model | optimizer | mean | ratio | median | ratio | state, MB |");
    Console.WriteLine("|---|---|---|---|---|---|---|");
    Array.ForEach(models, name => OptimizerCosts.Print(BenchmarkModel.Get(name), folder));
    return;
}

var rate = new Hyperparameters { LearningRate = 0.01f, Momentum = 0.9f };
Console.WriteLine($"{threads} threads; {(threads == 1 ? "processor" : "wall")} time of one step in ms, in turns");
Console.WriteLine();
Console.WriteLine("| model | step | median | min | of SGD (median / min) | of TorchSharp (median / min) | loss |");
Console.WriteLine("|---|---|---|---|---|---|---|");
foreach (string name in models)
{
    BenchmarkModel model = BenchmarkModel.Get(name);
    using var sgd = new OnnxStep(
        model,
        folder,
        new RewriteOptions { Optimizer = OptimizerKind.Sgd, Hyperparameters = rate },
        threads
    );
    using var mac = new OnnxStep(model, folder, new RewriteOptions { Hyperparameters = rate }, threads);
    using var everyStep = new OnnxStep(
        model,
        folder,
        new RewriteOptions { Hyperparameters = rate with { StatEvery = 1, RefreshEvery = 1 } },
        threads
    );
    using ITorchStep? torch = withTorch ? TorchSteps.Create(name, threads) : null;
    var contenders = new List<(string Name, Func<float> Step)>
    {
        ("SGD", sgd.Step),
        ("MAC", mac.Step),
        ("MAC, every step", everyStep.Step),
    };
    if (torch is not null)
    {
        contenders.Add(("TorchSharp SGD", torch.Step));
    }

    float[] first = [.. contenders.Select(c => c.Step())];
    float[] last = [.. first];
    foreach (var contender in contenders)
    {
        for (int warm = 1; warm < WarmUpSteps; warm++)
        {
            contender.Step();
        }
    }

    double[][] times = Interleaved.Run(
        [.. contenders.Select((c, i) => (Action)(() => last[i] = c.Step()))],
        Rounds,
        TimeSpan.FromMilliseconds(200),
        cpuTime: threads == 1
    );
    double[] medians = [.. times.Select(t => t[t.Length / 2])];
    for (int i = 0; i < contenders.Count; i++)
    {
        string Against(Index other) => $"{medians[i] / medians[other]:f2} / {times[i][0] / times[other][0]:f2}";
        Console.WriteLine(
            $"| {(i == 0 ? $"{name}, batch {model.Batch}" : "")} | {contenders[i].Name} "
                + $"| {medians[i]:f2} | {times[i][0]:f2} | {Against(0)} | {(torch is null ? "" : Against(^1))} "
                + $"| {first[i]:f4} -> {last[i]:f4} |"
        );
    }
}
