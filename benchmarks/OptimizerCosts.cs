using System.Globalization;
using MacOnnx.GraphRewriter;

namespace MacOnnx.Benchmarks;

/// <summary>What a step of each optimizer costs, against its update rule alone, and what state it keeps.</summary>
internal static class OptimizerCosts
{
    /// <summary>
    /// Steps that a contender takes in each round: with the rounds, whole cycles of the refresh interval.
    /// </summary>
    private const int Steps = 5;

    private const int Rounds = 20;

    private static readonly OptimizerKind[] Optimizers =
    [
        OptimizerKind.Sgd,
        OptimizerKind.Mac,
        OptimizerKind.Smac,
        OptimizerKind.Eva,
        OptimizerKind.Foof,
        OptimizerKind.Kfac,
        OptimizerKind.AdamW,
        OptimizerKind.MacAdamW,
        OptimizerKind.Muon,
    ];

    /// <summary>
    /// Prints, of steps taken in turns, the mean processor time of the process (refreshes included) and the median,
    /// each over that of the update rule alone; rows of a Markdown table.
    /// </summary>
    /// <param name="model">The model.</param>
    /// <param name="folder">The folder of the models.</param>
    public static void Print(BenchmarkModel model, string folder)
    {
        OnnxStep[] steps =
        [
            .. Optimizers.Select(o => new OnnxStep(
                model,
                folder,
                new RewriteOptions
                {
                    Optimizer = o,
                    Hyperparameters = new() { LearningRate = 1e-3f },
                },
                threads: 1
            )),
        ];
        var times = Interleaved.RunSteps([.. steps.Select(s => (Action)(() => s.Step()))], Rounds, Steps);
        for (var i = 0; i < steps.Length; i++)
        {
            var alone = Array.IndexOf(
                Optimizers,
                new RewriteOptions { Optimizer = Optimizers[i] }
                    .Methods
                    .Update == UpdateKind.Momentum
                    ? OptimizerKind.Sgd
                    : OptimizerKind.AdamW
            );
            var (mean, median) = (times[i].Average(), times[i][times[i].Length / 2]);
            Console.WriteLine(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"| {model.Name} | {Optimizers[i]} | {mean:f1} | {mean / times[alone].Average():f3} | "
                        + $"{median:f1} | {median / times[alone][times[alone].Length / 2]:f3} | "
                        + $"{steps[i].StateBytes / 1e6:f2} |"
                )
            );
            steps[i].Dispose();
        }
    }
}
