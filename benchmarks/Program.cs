// Times one training step of each benchmark model; usage in run.sh.
using System.Globalization;
using MacOnnx.Benchmarks;
using MacOnnx.Benchmarks.TorchBaseline;

const int Threads = 2;
const int WarmUpSteps = 5;
const int Rounds = 10;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
string[] models = args.Length > 0 ? args : [.. BenchmarkModel.All.Select(model => model.Name)];
Console.WriteLine($"{Threads} threads; wall time of one step in ms");
Console.WriteLine($"{"model",-10} {"library",-10} {"median",8} {"min",8} {"steps",6}  loss");
foreach (string model in models)
{
    using ITorchStep torch = TorchSteps.Create(model, Threads);
    float first = torch.Step();
    float last = first;
    for (int i = 1; i < WarmUpSteps; i++)
    {
        last = torch.Step();
    }

    double[] times = Interleaved.Run([() => last = torch.Step()], Rounds, TimeSpan.FromMilliseconds(500))[0];
    Console.WriteLine(
        $"{torch.Name,-10} {"TorchSharp",-10} {times[times.Length / 2],8:f2} {times[0],8:f2} {times.Length,6}  {first:f4} -> {last:f4}");
}
