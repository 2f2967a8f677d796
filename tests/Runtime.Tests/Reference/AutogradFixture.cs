using System.Text.Json;
using MacOnnx.GraphRewriter;
using MacOnnx.Runtime.Data;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>
/// A model exported from PyTorch with one batch, and the loss and gradients that autograd computes in float64.
/// </summary>
/// <remarks>
/// A folder holds <c>case.json</c>, <c>inputs.npz</c> and, for each export, <c>FILE.onnx</c> and <c>FILE.npz</c>:
/// <c>loss</c>, and for each parameter P its norm <c>norm/P</c> and <c>grad/P</c>, or <c>projections/P</c>, products
/// with vectors of +1 and -1 whose signs are the top bits of splitmix64.
/// </remarks>
internal sealed class AutogradFixture
{
    private readonly JsonElement _case;
    private readonly IReadOnlyDictionary<string, Tensor> _arrays;
    private readonly IReadOnlyDictionary<string, Tensor> _expected;

    public AutogradFixture(string folder, string file)
    {
        using var document = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "case.json")));
        _case = document.RootElement.Clone();
        Model = Path.Combine(folder, file + ".onnx");
        _expected = NpzFile.Read(Path.Combine(folder, file + ".npz"));
        _arrays = NpzFile.Read(Path.Combine(folder, "inputs.npz"));
        var description = _case.GetProperty("files").GetProperty(file);
        var error = description.GetProperty("pytorch_float32_error");
        IsDynamic = description.GetProperty("dynamic").GetBoolean();

        // In MobileNetV2 an element lies so close to the kink of the ReLU6 behind features.5.conv.1 that rounding
        // decides its side: later gradients agree to 1e-6, earlier ones to 3e-3.
        var (worst, median) = Path.GetFileName(folder) == "mobilenet_v2" ? (5e-3, 2e-3) : (1e-3, 1e-4);
        Allowed = (
            Math.Max(worst, 10 * error.GetProperty("worst").GetDouble()),
            Math.Max(median, 10 * error.GetProperty("median").GetDouble())
        );
    }

    /// <summary>Gets the ONNX file.</summary>
    public string Model { get; }

    /// <summary>Gets whether the batch's size is left open.</summary>
    public bool IsDynamic { get; }

    /// <summary>
    /// Gets the worst and the median error that a right float32 implementation may have: ten times PyTorch's own.
    /// </summary>
    public (double Worst, double Median) Allowed { get; }

    public double Loss => _expected["loss"].ToDouble()[0];

    public RewriteOptions Options => OptionsOf(_case);

    /// <summary>Gives every export below a folder of fixtures: folder and file, in order.</summary>
    public static IEnumerable<(string Folder, string File)> Find(string root) =>
        from folder in Directory.GetDirectories(root).Order(StringComparer.Ordinal)
        from file in Directory.GetFiles(folder, "*.onnx").Order(StringComparer.Ordinal)
        select (folder, Path.GetFileNameWithoutExtension(file));

    public static RewriteOptions OptionsOf(JsonElement description)
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

    /// <summary>Runs one step without an update on the batch, or on the batch twice over.</summary>
    /// <returns>
    /// The loss, and each parameter's error: the l2 norm of the difference over the norm of what is expected, at least
    /// 1e-4 of the model's largest; infinite for a parameter that is not trained.
    /// </returns>
    public (double Loss, IReadOnlyDictionary<string, double> Errors) Step(MacTrainingSession session, bool twice)
    {
        var manifest = session.Package.Manifest;
        var names = manifest.Inputs.Select(i => i.Name).Concat(manifest.Target is { } t ? [t.Name] : (string[])[]);
        OrtValue[] values = [.. names.Select(n => OrtValues.Of(twice ? Twice(_arrays[n]) : _arrays[n]))];
        try
        {
            double loss = session.TrainStep(values);
            var norms = _expected
                .Where(e => e.Key.StartsWith("norm/", StringComparison.Ordinal))
                .ToDictionary(e => e.Key[5..], e => e.Value.ToDouble()[0]);
            var floor = 1e-4 * norms.Values.Max();
            var trained = manifest.Trained.ToHashSet(StringComparer.Ordinal);
            var errors = norms.ToDictionary(
                n => n.Key,
                n =>
                    trained.Contains(n.Key)
                        ? Difference(session.Gradient(n.Key).ToDouble(), n.Key) / Math.Max(n.Value, floor)
                        : double.PositiveInfinity
            );
            session.ResetGradients();
            return (loss, errors);
        }
        finally
        {
            Array.ForEach(values, v => v.Dispose());
        }
    }

    private double Difference(double[] found, string name)
    {
        if (_expected.TryGetValue($"grad/{name}", out var whole))
        {
            return Math.Sqrt(whole.ToDouble().Zip(found, (a, b) => (a - b) * (a - b)).Sum());
        }

        // The root mean square of the differences of +1/-1 projections estimates the norm of the difference.
        var projections = _expected[$"projections/{name}"].ToDouble();
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

    private static Tensor Twice(Tensor tensor) =>
        tensor.Dims.Length == 0
            ? tensor
            : new Tensor(
                tensor.Type,
                tensor.Dims.SetItem(0, 2 * tensor.Dims[0]),
                (byte[])[.. tensor.Data.Span, .. tensor.Data.Span]
            );
}
