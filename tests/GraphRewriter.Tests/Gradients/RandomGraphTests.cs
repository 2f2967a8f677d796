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

/// <summary>
/// Gradients of random graphs are slopes of their losses: directed acyclic graphs of layouts, reductions, broadcasts
/// and rows of the gradient tests, at several operator sets.
/// </summary>
public sealed class RandomGraphTests
{
    private static readonly int[] Opsets = [13, 14, 17, 18, 20, 21, 23, 26];

    private static readonly Gen<(int Opset, RandomStep[] Steps)> Models = Gen.Select(
        Gen.Int[0, Opsets.Length - 1].Select(i => Opsets[i]),
        Gen.Select(
            Gen.Int[0, RandomModel.Kinds - 1],
            Gen.Int[0, 999],
            Gen.Int[0, 999],
            Gen.Int[0, 999],
            (op, a, b, c) => new RandomStep(op, a, b, c)
        ).Array[1, 14],
        (opset, steps) => (opset, steps)
    );

    /// <summary>Fifty models, the same in every run.</summary>
    [Fact]
    public void GradientsOfFiftyModelsAreSlopes()
    {
        for (var seed = 0; seed < 50; seed++)
        {
            var random = new Random(seed);
            var steps = Enumerable
                .Range(0, random.Next(1, 15))
                .Select(_ => new RandomStep(
                    random.Next(RandomModel.Kinds),
                    random.Next(1000),
                    random.Next(1000),
                    random.Next(1000)
                ));
            Check(Opsets[seed % Opsets.Length], [.. steps]);
        }
    }

    /// <summary>A thousand models, others in every run; a failure is shrunk.</summary>
    [Fact]
    [Trait("Category", "Nightly")]
    public void GradientsOfNewModelsAreSlopes()
    {
        Assert.SkipUnless(
            Environment.GetEnvironmentVariable("MACONNX_NIGHTLY") == "1",
            "Takes long: set MACONNX_NIGHTLY=1."
        );
        Models.Sample(m => Check(m.Opset, m.Steps), iter: 1000, threads: 1);
    }

    private static bool Check(int opset, RandomStep[] steps)
    {
        var random = RandomModel.Of(opset, steps);
        var forward = random.Model.ToByteArray();
        var model = random.Model.Clone();
        ModelReader.Normalize(model, "random");
        var graph = GraphImporter.Import(model, "random");
        ExplicitPads.Apply(graph);
        RecurrentLayout.Apply(graph);
        BatchStatistics.Prepare(graph);
        ShapeInference.Apply(graph, "random");
        ExplicitPads.Apply(graph);
        var variables = graph.Inputs.ToArray();
        var seed = new GraphBuilder(graph).Scalar(1, ElementType.Double);
        var gradients = Backward.Differentiate(graph, graph.Outputs[0], seed, variables);
        var reached = variables.Where(gradients.ContainsKey).ToArray();
        var b = new GraphBuilder(graph);
        graph.Outputs.AddRange(reached.Select(v => b.Named(gradients[v], $"{v.Name}_slope")));
        Lower.Apply(graph);
        var found = Onnx.Run(ModelWriter.ToBytes(graph), random.Inputs);
        using var session = Onnx.Session(forward);

        // What no gradient reaches moves too: its gradient is zero.
        var direction = random.Inputs.ToDictionary(
            x => x.Key,
            x => x.Value.ToDouble().Select((_, i) => Math.Cos((3.1 * i) + x.Key.Length)).ToArray(),
            StringComparer.Ordinal
        );
        double[] products =
        [
            .. reached.SelectMany(v => found[$"{v.Name}_slope"].ToDouble().Zip(direction[v.Name], (g, d) => g * d)),
        ];
        var scale = Math.Max(products.Sum(Math.Abs), 1e-3);

        // Relative to the sum of |gradient * direction|, truncation is of order step^4 and rounding of order
        // 1e-16 / step, in float 1e-7 / step. A kink or a jump may lie within a step, hardly within a smaller one too.
        double[] sizes = random.HasFloat ? [2e-2, 5e-3, 1e-3, 1e-4] : [1e-4, 1e-6];
        var tolerance = random.HasFloat ? 2e-2 : 1e-6;
        var error = double.PositiveInfinity;
        foreach (var step in sizes)
        {
            var slope = ((8 * (At(step) - At(-step))) - (At(2 * step) - At(-2 * step))) / (12 * step);
            error = Math.Min(error, Math.Abs(products.Sum() - slope) / scale);
            if (error <= tolerance)
            {
                return true;
            }
        }

        var parts = reached.Select(v =>
            (
                v.Name,
                Says: found[$"{v.Name}_slope"].ToDouble().Zip(direction[v.Name], (g, d) => g * d).Sum(),
                Slope: (At(sizes[^1], v.Name) - At(-sizes[^1], v.Name)) / (2 * sizes[^1])
            )
        );
        var text = random.Model.Graph.Node.Select(n =>
            $"{string.Join(", ", n.Output)} = {n.OpType}({string.Join(", ", n.Input)}) "
            + string.Join(' ', n.Attribute.Select(a => $"{a.Name}={a.I} {a.Ints} {a.F} {a.S.ToStringUtf8()}"))
        );
        throw new InvalidOperationException(
            $"opset {opset}, error {error:E1}: {string.Join(", ", steps)}\n"
                + string.Join('\n', parts.Select(p => $"{p.Name}: gradient {p.Says:G6}, slope {p.Slope:G6}"))
                + $"\n{string.Join('\n', random.Inputs.Select(i => $"{i.Key} [{string.Join(',', i.Value.Dims)}]"))}"
                + $"\n{string.Join('\n', text)}"
        );

        double At(double t, string? only = null) =>
            Onnx.Run(
                    session,
                    random.Inputs.ToDictionary(
                        i => i.Key,
                        i =>
                            Tensor.From<double>(
                                i.Value.Dims.AsSpan(),
                                [
                                    .. i
                                        .Value.ToDouble()
                                        .Zip(
                                            direction[i.Key],
                                            (x, e) => only is null || only == i.Key ? x + (t * e) : x
                                        ),
                                ]
                            )
                    )
                )["loss"]
                .ToDouble()[0];
    }
}
