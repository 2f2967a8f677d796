using System.Reflection;
using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.Runtime;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.Coverage;

/// <summary>How a published model trains on random data.</summary>
/// <param name="Model">The model.</param>
/// <param name="Opset">The operator set that it is written in.</param>
/// <param name="Nodes">Its nodes.</param>
/// <param name="Parameters">The parameters that train.</param>
/// <param name="Wrong">Those whose gradients <see cref="GradientCheck"/> finds wrong.</param>
/// <param name="FirstLoss">The loss of the first batch.</param>
/// <param name="LastLoss">The loss of that batch after an epoch.</param>
/// <param name="ExportError">The largest difference between the outputs of the exported and of the original model
/// before training, relative to the largest output.</param>
/// <param name="Reason">Why it is not right; empty where it is.</param>
internal sealed record PublishedResult(
    string Model,
    long Opset,
    int Nodes,
    int Parameters,
    int Wrong,
    double? FirstLoss,
    double? LastLoss,
    double? ExportError,
    string Reason
)
{
    private const int Batches = 8;

    /// <summary>
    /// Float32 rounding of another order of operations, which ONNX Runtime's optimizer may choose for constants.
    /// </summary>
    private const double LargestExportError = 1e-5;

    /// <summary>
    /// Checks the gradients, trains an epoch of eight random batches, and compares the exported model.
    /// </summary>
    /// <param name="path">The model.</param>
    /// <param name="options">How it is rewritten, as JSON.</param>
    public static PublishedResult Of(string path, string options)
    {
        var name = Path.GetFileName(path);
        try
        {
            var (package, report) = Rewriter.Rewrite(path, Parse(options));
            using var session = new MacTrainingSession(package, o => o.IntraOpNumThreads = 1);
            var export = Difference(path, package);
            var check = With(package, 0, batch => GradientCheck.Run(session, batch));
            var first = With(package, 0, batch => session.TrainStep(batch));
            session.ResetGradients();
            for (ulong batch = 0; batch < Batches; batch++)
            {
                With(package, batch, values => session.TrainStep(values));
                session.OptimizerStep();
            }

            var last = With(package, 0, batch => session.TrainStep(batch));
            string[] wrong = [.. check.Parameters.Where(p => !p.IsRight).Select(p => p.Name)];
            var reason =
                wrong.Length > 0 ? $"wrong gradients: {string.Join(", ", wrong.Take(3))}"
                : !float.IsFinite(last) ? $"the loss is {last} after an epoch"
                : !(export <= LargestExportError) ? $"the exported model differs by {export:g2}"
                : "";
            return new(
                name,
                report.Opset,
                report.NodeCount,
                check.Parameters.Length,
                wrong.Length,
                first,
                float.IsFinite(last) ? last : null,
                export,
                reason
            );
        }
        catch (Exception e) when (e is MacOnnxException or OnnxRuntimeException)
        {
            return new(name, 0, 0, 0, 0, null, null, null, e.Message);
        }
    }

    /// <summary>Writes the ONNX files that a library holds as resources.</summary>
    public static void Extract(string library, string folder)
    {
        var assembly = Assembly.LoadFile(Path.GetFullPath(library));
        foreach (
            var name in assembly
                .GetManifestResourceNames()
                .Where(n => n.EndsWith(".onnx", StringComparison.OrdinalIgnoreCase))
        )
        {
            using var resource = assembly.GetManifestResourceStream(name)!;
            using var file = File.Create(Path.Combine(folder, Path.GetFileName(name)));
            resource.CopyTo(file);
        }
    }

    private static RewriteOptions Parse(string json)
    {
        using var document = JsonDocument.Parse(json);
        var given = document.RootElement.EnumerateObject().ToDictionary(p => p.Name, p => p.Value);
        return new RewriteOptions
        {
            Loss = LossKind.Mse,
            LossInput = given.TryGetValue("loss_input", out var output) ? output.GetString() : null,
            Frozen = given.TryGetValue("frozen", out var frozen) ? frozen.GetString() : null,
            Dequantize = given.ContainsKey("dequantize"),
            Dimensions = given.TryGetValue("dims", out var dims)
                ? dims.EnumerateObject().ToDictionary(d => d.Name, d => d.Value.GetInt64())
                : new Dictionary<string, long>(),
            Hyperparameters = new Hyperparameters { LearningRate = 1e-4f, MaxGradientNorm = 1 },
        };
    }

    private static double Difference(string path, TrainingPackage package)
    {
        var exported = Path.Combine(Path.GetTempPath(), $"coverage-{Environment.ProcessId}.onnx");
        package.ExportInferenceModel(exported, package.Weights);
        try
        {
            var (expected, found) = (Outputs(path, package), Outputs(exported, package));
            var scale = expected.SelectMany(o => o).Select(MathF.Abs).DefaultIfEmpty(1).Max();
            return expected.Zip(found, (a, b) => a.Zip(b, (x, y) => Math.Abs(x - y)).DefaultIfEmpty().Max()).Max()
                / Math.Max(scale, 1e-6f);
        }
        finally
        {
            File.Delete(exported);
        }
    }

    private static float[][] Outputs(string path, TrainingPackage package)
    {
        using var options = new SessionOptions { IntraOpNumThreads = 1 };
        using var session = new InferenceSession(path, options);
        using var run = new RunOptions();
        string[] inputs = [.. package.Manifest.Inputs.Select(i => i.Name)];
        return With(
            package,
            0,
            batch =>
            {
                using var results = session.Run(run, inputs, [.. batch.Take(inputs.Length)], session.OutputNames);
                return results
                    .Where(r =>
                        r.GetTensorTypeAndShape().ElementDataType
                        == Microsoft.ML.OnnxRuntime.Tensors.TensorElementType.Float
                    )
                    .Select(r => r.GetTensorDataAsSpan<float>().ToArray())
                    .ToArray();
            }
        );
    }

    private static T With<T>(TrainingPackage package, ulong seed, Func<IReadOnlyList<OrtValue>, T> use)
    {
        using var loader = new BatchLoader(RandomBatch.Make(package.Manifest, seed), 0, shuffle: false, seed: 0);
        return use(loader.Epoch(0, 0, CancellationToken.None).First().Values);
    }
}
