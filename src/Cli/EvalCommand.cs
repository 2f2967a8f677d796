using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.Runtime;

namespace MacOnnx.Cli;

/// <summary><c>maconnx eval</c>: loss and accuracy of a checkpoint.</summary>
internal static class EvalCommand
{
    public static Command Create()
    {
        var command = new Command(
            "eval",
            "Evaluates a checkpoint over a data set. Of a folder with MNIST's files, it takes the test files."
        );
        var package = new Argument<string>("model.mac") { Description = "The package." };
        var checkpoint = Options.Text(
            "--checkpoint",
            "The checkpoint. Default the package's own: the weights before training.",
            "FILE"
        );
        var data = new Option<string>("--data")
        {
            Description = DataInput.Help,
            HelpName = "DATA",
            Required = true,
        };
        var (batchSize, context) = (TrainArguments.BatchSize(), DataInput.Context());
        var averaged = Options.Switch("--ema", "Evaluate the average of the weights that training with --ema keeps.");
        var (threads, json) = (Options.Threads(), Options.Json());
        foreach (var option in new Option[] { checkpoint, averaged, data, batchSize, context, threads, json })
        {
            command.Add(option);
        }

        command.Add(package);
        command.SetAction(
            (parsed, cancellationToken) =>
            {
                var loaded = TrainingPackage.Load(parsed.GetRequiredValue(package));
                var input = DataInput.Load(
                    loaded,
                    parsed.GetRequiredValue(data),
                    parsed.GetValue(context),
                    preferTest: true
                );
                using var session = new MacTrainingSession(
                    input.Package,
                    TrainCommand.Configure(parsed.GetValue(threads))
                );
                if (parsed.GetValue(checkpoint) is { } file)
                {
                    session.LoadCheckpoint(file);
                }

                if (parsed.GetValue(averaged))
                {
                    session.SetState(input.Package.AveragedWeights(session.GetState()));
                }

                using var evaluator = new Evaluator(
                    session,
                    input.Data,
                    parsed.GetValue(batchSize) ?? DataInput.DefaultBatchSize(input.Data)
                );
                var result = evaluator.Run(cancellationToken);
                parsed.InvocationConfiguration.Output.WriteLine(
                    parsed.GetValue(json)
                        ? JsonSerializer.Serialize(EvaluationJson.Of(result), CliJson.Default.EvaluationJson)
                        : $"{Describe(result)} ({result.Samples.ToString("N0", CultureInfo.InvariantCulture)} samples)"
                );
                return Task.FromResult(0);
            }
        );
        return command;
    }

    /// <summary>Gives a result as people read it: <c>loss 0.1234, accuracy 97.20 %</c>.</summary>
    public static string Describe(Evaluation result) =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"loss {result.Loss:0.0000}{(result.Accuracy is { } a ? $", accuracy {Percent(a)}" : "")}"
        );

    public static string Percent(double part) => string.Create(CultureInfo.InvariantCulture, $"{100 * part:0.00} %");
}
