using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Data;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>Losses and gradients of exported PyTorch models against what autograd computes in float64.</summary>
public sealed class PyTorchTests
{
    private static readonly string[] Models =
    [
        "mlp",
        "mlp_activations",
        "mlp_tabular",
        "mlp_lora",
        "cnn_lenet",
        "cnn_variety",
        "autoencoder_conv",
        "conv1d_tcn",
        "resnet_basic",
        "resnext_se",
        "mobilenet_v2",
        "mobilenet_v3",
        "unet",
        "nerf",
        "vae",
        "siamese",
        "vit_plain",
        "vit_sdpa",
        "vit_timm_qknorm",
        "vit_torchvision",
        "swin",
        "bert",
        "gpt2_hf",
        "gpt_sdpa",
        "gpt_tied",
        "llama_hf",
        "t5_hf",
        "encoder_postnorm",
        "encoder_prenorm",
        "mha_cross",
        "mixer",
        "convnext",
        "dlrm",
        "gnn",
        "cnn_norms",
        "fcn_resize",
        "regnet",
        "densenet",
        "shufflenet",
        "efficientnet",
        "nfnet",
        "lstm",
        "gru",
    ];

    public static TheoryData<string, string> Cases
    {
        get
        {
            var root = Path.Combine(Repository.Root, "..", "shared", "pytorch-models");
            return Directory.Exists(root)
                ?
                [
                    .. from model in Models
                    from file in Directory.GetFiles(Path.Combine(root, model), "*.onnx").Order(StringComparer.Ordinal)
                    select (model, Path.GetFileNameWithoutExtension(file)),
                ]
                : [("none", "none")];
        }
    }

    /// <summary>
    /// Gives the worst and the median error that gradients may have. In MobileNetV2 elements lie within rounding of the
    /// kink of a ReLU6 (in double, 1.2e-7 behind features.3.conv.1), and rounding decides their side: functions flip
    /// one there in the TorchScript file, exactly as PyTorch's own float32 does, and kernels one behind
    /// features.5.conv.1 in the other file. Gradients behind such an element agree to 1e-6, those before it to a few
    /// thousandths; where no side flips (kernels on the first file, functions on the second), all agree to 5e-6.
    /// </summary>
    private static (double Worst, double Median) ErrorsOf(string model) =>
        model == "mobilenet_v2" ? (5e-3, 2e-3) : (1e-3, 1e-4);

    [Theory]
    [MemberData(nameof(Cases))]
    public void GradientsMatchAutograd(string model, string file)
    {
        var folder = Path.Combine(Shared.Folder("pytorch-models"), model);
        using var document = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "case.json")));
        var description = document.RootElement.GetProperty("files").GetProperty(file);
        var expected = NpzFile.Read(Path.Combine(folder, file + ".npz"));
        var arrays = NpzFile.Read(Path.Combine(folder, "inputs.npz"));
        var (package, report) = Rewriter.Rewrite(Path.Combine(folder, file + ".onnx"), Options(document.RootElement));
        Assert.Empty(report.OperatorsWithoutGradient);
        using var session = new MacTrainingSession(package, o => o.IntraOpNumThreads = 1);
        var (loss, gradients) = Step(session, arrays);
        var error = description.GetProperty("pytorch_float32_error");
        var (worst, median) = ErrorsOf(model);
        Assert.Equal(expected["loss"].ToDouble()[0], loss, 1e-5 * Math.Max(1, Math.Abs(loss)));
        Compare(
            gradients,
            expected,
            Math.Max(worst, 10 * error.GetProperty("worst").GetDouble()),
            Math.Max(median, 10 * error.GetProperty("median").GetDouble())
        );

        if (
            description.GetProperty("dynamic").GetBoolean()
            && !package.Manifest.Buffers.Any(b => b.Name.EndsWith("/batch_mean", StringComparison.Ordinal))
        )
        {
            // Without batch statistics, the batch twice over has the same mean loss and gradients.
            var (again, doubled) = Step(session, arrays.ToDictionary(a => a.Key, a => Twice(a.Value)));
            Assert.Equal(loss, again, 1e-5 * Math.Max(1, Math.Abs(loss)));
            Compare(
                doubled,
                expected,
                Math.Max(worst, 10 * error.GetProperty("worst").GetDouble()),
                Math.Max(median, 10 * error.GetProperty("median").GetDouble())
            );
        }
    }

    private static (float Loss, Dictionary<string, Tensor> Gradients) Step(
        MacTrainingSession session,
        IReadOnlyDictionary<string, Tensor> arrays
    )
    {
        var manifest = session.Package.Manifest;
        var names = manifest
            .Inputs.Select(i => i.Name)
            .Concat(manifest.Target is { } t ? [t.Name] : Array.Empty<string>());
        var values = names.Select(n => Shared.ToOrt(arrays[n])).ToArray();
        try
        {
            var loss = session.TrainStep(values);
            var gradients = manifest.Trained.ToDictionary(n => n, session.Gradient);
            session.ResetGradients();
            return (loss, gradients);
        }
        finally
        {
            foreach (var value in values)
            {
                value.Dispose();
            }
        }
    }

    private static void Compare(
        Dictionary<string, Tensor> gradients,
        IReadOnlyDictionary<string, Tensor> expected,
        double worst,
        double median
    )
    {
        var norms = expected
            .Where(e => e.Key.StartsWith("norm/", StringComparison.Ordinal))
            .ToDictionary(e => e.Key[5..], e => e.Value.ToDouble()[0]);
        var floor = 1e-4 * norms.Values.Max();
        var errors = new List<double>();
        foreach (var (name, norm) in norms)
        {
            Assert.True(gradients.TryGetValue(name, out var gradient), $"{name} is not trained.");
            var error = Difference(gradient.ToDouble(), name, expected) / Math.Max(norm, floor);
            Assert.True(
                error <= worst,
                $"{name}: relative error {error:g3}, at most {worst:g3} allowed (norm {norm:g3})."
            );
            errors.Add(error);
        }

        Assert.True(
            errors.Order().ElementAt(errors.Count / 2) <= median,
            $"median error {errors.Order().ElementAt(errors.Count / 2):g3}, at most {median:g3} allowed."
        );
    }

    private static double Difference(double[] found, string name, IReadOnlyDictionary<string, Tensor> expected)
    {
        if (expected.TryGetValue($"grad/{name}", out var whole))
        {
            return Math.Sqrt(whole.ToDouble().Zip(found, (a, b) => (a - b) * (a - b)).Sum());
        }

        // The root mean square of the differences of +1/-1 projections estimates the norm of the difference.
        var projections = expected[$"projections/{name}"].ToDouble();
        return Math.Sqrt(projections.Select((p, k) => Math.Pow(p - Project(found, k), 2)).Average());
    }

    private static double Project(double[] values, int k)
    {
        var sum = 0.0;
        for (var i = 0; i < values.Length; i++)
        {
            var z = (((ulong)k << 32) + (ulong)i) * 0x9E3779B97F4A7C15UL;
            z += 0x9E3779B97F4A7C15UL;
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9UL;
            z = (z ^ (z >> 27)) * 0x94D049BB133111EBUL;
            z ^= z >> 31;
            sum += z >> 63 != 0 ? -values[i] : values[i];
        }

        return sum;
    }

    internal static RewriteOptions Options(JsonElement description)
    {
        var loss = description.GetProperty("loss");
        return new RewriteOptions
        {
            Loss = loss.GetProperty("kind").GetString() switch
            {
                "cross-entropy" => LossKind.CrossEntropy,
                "mse" => LossKind.Mse,
                "bce-with-logits" => LossKind.BceWithLogits,
                _ => LossKind.Output,
            },
            ClassAxis = loss.TryGetProperty("class_axis", out var axis) ? axis.GetInt32() : null,
            IgnoreIndex = loss.TryGetProperty("ignore_index", out var ignored) ? ignored.GetInt64() : -100,
            TargetName = description.GetProperty("target").GetString() ?? "labels",
        };
    }

    private static Tensor Twice(Tensor tensor) =>
        tensor.Dims.Length == 0
            ? tensor
            : new Tensor(
                tensor.Type,
                tensor.Dims.SetItem(0, 2 * tensor.Dims[0]),
                (byte[])[.. tensor.Data.Span, .. tensor.Data.Span]
            );
}
