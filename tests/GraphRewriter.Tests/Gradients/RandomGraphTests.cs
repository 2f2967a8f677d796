using CsCheck;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Lowering;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using MacOnnx.GraphRewriter.Tests.Support;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

/// <summary>Gradients of random graphs are slopes of their losses, in double precision.</summary>
public sealed class RandomGraphTests
{
    /// <summary>Truncation is of order step^4, rounding of order 1e-16 / step.</summary>
    private const double Step = 1e-4;

    /// <summary>Relative to the sum of |gradient * direction|; fifth derivatives of composed functions are large.</summary>
    private const double Tolerance = 1e-6;

    private static readonly Gen<(int Opset, RandomStep[] Steps)> Models = Gen.Select(
        Gen.OneOfConst(13, 14, 17, 18, 20, 21, 23, 26),
        Gen.Select(
            Gen.Int[0, 23],
            Gen.Int[0, 999],
            Gen.Int[0, 999],
            Gen.Int[0, 999],
            (op, a, b, c) => new RandomStep(op, a, b, c)
        ).Array[1, 14],
        (opset, steps) => (opset, steps)
    );

    /// <summary>The same models in every run; those of the nightly runs are new each time.</summary>
    [Fact]
    public void GradientsAreSlopes()
    {
        var isNightly = Environment.GetEnvironmentVariable("MACONNX_NIGHTLY") == "1";
        Models.Sample(
            m => Check(m.Opset, m.Steps),
            iter: isNightly ? 1000 : 50,
            threads: 1,
            seed: isNightly ? null : "0000000000000"
        );
    }

    private static bool Check(int opset, RandomStep[] steps)
    {
        var random = RandomModel.Of(opset, steps);
        var forward = random.Model.ToByteArray();
        var model = random.Model.Clone();
        ModelReader.Normalize(model, "random");
        var graph = GraphImporter.Import(model, "random");
        ShapeInference.Apply(graph, "random");
        var variables = graph.Inputs.ToArray();
        var seed = new GraphBuilder(graph).Scalar(1, ElementType.Double);
        var gradients = Backward.Differentiate(graph, graph.Outputs[0], seed, variables);
        var reached = variables.Where(gradients.ContainsKey).ToArray();
        var b = new GraphBuilder(graph);
        graph.Outputs.AddRange(reached.Select(v => b.Named(gradients[v], $"{v.Name}_slope")));
        Lower.Apply(graph);
        var found = Onnx.Run(ModelWriter.ToBytes(graph), random.Inputs);
        using var session = Onnx.Session(forward);
        var direction = reached.ToDictionary(
            v => v.Name,
            v => random.Inputs[v.Name].ToDouble().Select((_, i) => Math.Cos((3.1 * i) + v.Name.Length)).ToArray(),
            StringComparer.Ordinal
        );
        double[] products =
        [
            .. reached.SelectMany(v => found[$"{v.Name}_slope"].ToDouble().Zip(direction[v.Name], (g, d) => g * d)),
        ];
        var scale = Math.Max(products.Sum(Math.Abs), 1e-3);

        // A kink may lie within a step: it hardly lies within one of a hundredth as well.
        var error = double.PositiveInfinity;
        foreach (var step in new[] { Step, Step / 100 })
        {
            var slope = ((8 * (At(step) - At(-step))) - (At(2 * step) - At(-2 * step))) / (12 * step);
            error = Math.Min(error, Math.Abs(products.Sum() - slope) / scale);
            if (error <= Tolerance)
            {
                return true;
            }
        }

        throw new InvalidOperationException($"opset {opset}, error {error:E1}: {string.Join(", ", steps)}");

        double At(double t) =>
            Onnx.Run(
                    session,
                    random.Inputs.ToDictionary(
                        i => i.Key,
                        i =>
                            direction.TryGetValue(i.Key, out var d)
                                ? Tensor.From<double>(
                                    i.Value.Dims.AsSpan(),
                                    [.. i.Value.ToDouble().Zip(d, (x, e) => x + (t * e))]
                                )
                                : i.Value
                    )
                )["loss"]
                .ToDouble()[0];
    }
}
