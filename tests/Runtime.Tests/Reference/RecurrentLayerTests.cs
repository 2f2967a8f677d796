using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.Runtime.Tests.Support;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Reference;

/// <summary>
/// MAC on recurrent weights: the rows of W are the inputs, those of R the hidden states before every step.
/// </summary>
public sealed class RecurrentLayerTests
{
    private const int Steps = 5;
    private const int Batch = 3;
    private const int In = 4;
    private const int Hidden = 2;
    private const double Damping = 0.5;

    private static readonly int[] Lengths = [5, 2, 4];

    /// <summary>
    /// One refresh and step equal the algorithm computed here in double from inputs, the hidden states that ONNX
    /// Runtime's own operator gives, and gradients.
    /// </summary>
    /// <param name="op">The operator.</param>
    /// <param name="hasLengths">Whether sequences end before the last step.</param>
    /// <param name="isSliced">Whether each direction's weights are a parameter whose gates the graph reorders.</param>
    /// <param name="isLinear">GRU's linear_before_reset.</param>
    [Theory]
    [InlineData("LSTM", false, false, false)]
    [InlineData("LSTM", true, true, false)]
    [InlineData("GRU", true, false, true)]
    [InlineData("GRU", false, true, false)]
    [InlineData("RNN", true, false, false)]
    public void StepEqualsTheAlgorithm(string op, bool hasLengths, bool isSliced, bool isLinear)
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "model.onnx");
        var model = Model(op, hasLengths, isSliced, isLinear);
        File.WriteAllBytes(path, model);
        var h = new Hyperparameters
        {
            LearningRate = 1,
            Momentum = 0,
            WeightDecay = 0,
            Damping = (float)Damping,
            StatEvery = 1,
            RefreshEvery = 1,
        };
        var (package, report) = Rewriter.Rewrite(path, new() { Loss = LossKind.Mse, Hyperparameters = h });
        string[] names = isSliced ? ["w0", "w1", "r0", "r1"] : ["w", "r"];
        Assert.All(names, n => Assert.Equal("MAC recurrent", report.Parameters.Single(p => p.Name == n).Treatment));
        using var session = new MacTrainingSession(package, o => o.IntraOpNumThreads = 1);
        var x = Waves.Of(0, Steps, Batch, In);
        var feeds = new[] { x, Waves.Of(2, Steps, 2, Batch, Hidden) }.Select(OrtValues.Of).ToArray();
        session.TrainStep(feeds);
        Array.ForEach(feeds, f => f.Dispose());
        var old = session.GetState();
        var gradients = names.ToDictionary(n => n, n => session.Gradient(n).ToDouble());
        Assert.True(session.OptimizerStep());
        var updated = session.GetState();
        var states = Run(model, x);
        foreach (var name in names)
        {
            var (before, after, g) = (old[name].ToDouble(), updated[name].ToDouble(), gradients[name]);
            var size = name[0] == 'w' ? In : Hidden;
            var units = g.Length / size;
            for (var unit = 0; unit < units; unit++)
            {
                var direction = isSliced ? name[1] - '0' : unit * 2 / units;
                var gates = isSliced ? units : units / 2;
                var seesOther = name[0] == 'r' && op == "GRU" && !isLinear && IsNew(unit % gates, isSliced);
                var m =
                    seesOther ? new double[size]
                    : name[0] == 'w' ? MeanInput(x.ToDouble(), hasLengths)
                    : MeanHidden(states, direction, hasLengths);
                var along = m.Select((v, i) => v * g[(unit * size) + i]).Sum() / (Damping + m.Sum(v => v * v));
                for (var i = 0; i < size; i++)
                {
                    var at = (unit * size) + i;

                    // Float32 rounding of numbers of size 1.
                    Assert.Equal(before[at] - g[at] + (along * m[i]), after[at], 2e-6);
                }
            }
        }
    }

    /// <summary>Whether a row of GRU's weights is of the new gate: the last, or the first where gates are reordered.
    /// </summary>
    private static bool IsNew(int row, bool isSliced) => isSliced ? row < Hidden : row >= 2 * Hidden;

    private static IEnumerable<(int Step, int Sample)> Valid(bool hasLengths) =>
        from t in Enumerable.Range(0, Steps)
        from n in Enumerable.Range(0, Batch)
        where !hasLengths || t < Lengths[n]
        select (t, n);

    private static double[] MeanInput(double[] x, bool hasLengths) =>
        [
            .. Enumerable
                .Range(0, In)
                .Select(i => Valid(hasLengths).Average(p => x[(((p.Step * Batch) + p.Sample) * In) + i])),
        ];

    private static double[] MeanHidden(double[] y, int direction, bool hasLengths)
    {
        double State(int t, int n, int i) =>
            t < 0 || t >= (hasLengths ? Lengths[n] : Steps)
                ? Initial.ToDouble()[(((direction * Batch) + n) * Hidden) + i]
                : y[(((((t * 2) + direction) * Batch) + n) * Hidden) + i];
        var back = direction == 0 ? -1 : 1;
        return
        [
            .. Enumerable
                .Range(0, Hidden)
                .Select(i => Valid(hasLengths).Average(p => State(p.Step + back, p.Sample, i))),
        ];
    }

    private static Tensor Initial => Waves.Of(9, 2, Batch, Hidden);

    private static double[] Run(byte[] model, Tensor x)
    {
        using var session = new InferenceSession(model);
        using var run = new RunOptions();
        using var input = OrtValues.Of(x);
        using var results = session.Run(run, ["x"], [input], session.OutputNames);
        return [.. results[0].GetTensorDataAsSpan<float>().ToArray().Select(v => (double)v)];
    }

    private static byte[] Model(string op, bool hasLengths, bool isSliced, bool isLinear)
    {
        var gates = op switch
        {
            "LSTM" => 4,
            "GRU" => 3,
            _ => 1,
        };
        var graph = new Graph { Name = "recurrent", Opsets = { [""] = 21 } };
        var b = new GraphBuilder(graph);
        var x = b.Input("x", ElementType.Float, Shape.Of(Steps, Batch, In));
        Attr[] attributes = [Int("hidden_size", Hidden), Text("direction", "bidirectional")];
        attributes = op == "GRU" ? [.. attributes, Int("linear_before_reset", isLinear)] : attributes;
        var y = b.Node(
            op,
            "",
            [
                x,
                Weights("w", In),
                Weights("r", Hidden),
                null,
                hasLengths ? b.Constant(Tensor.From<int>([Batch], Lengths)) : null,
                graph.AddConstant("initial", Initial),
            ],
            1,
            attributes
        ).Outputs[0];
        y.Shape = Shape.Of(Steps, 2, Batch, Hidden);
        graph.Outputs.Add(y);
        return ModelWriter.ToBytes(graph);

        Value Weights(string name, int inputs)
        {
            var rows = gates * Hidden;
            if (!isSliced)
            {
                return graph.AddConstant(name, Waves.Of(name[0], 2, rows, inputs));
            }

            // The last gate is stored first.
            var parts = Enumerable
                .Range(0, 2)
                .Select(d =>
                {
                    Term whole = new(b, graph.AddConstant($"{name}{d}", Waves.Of(name[0] + d, rows, inputs)));
                    Term Rows(long from, long to) => whole.Op("Slice", b.Int64s(from), b.Int64s(to));
                    return b.Concat([Rows(Hidden, rows), Rows(0, Hidden)], 0).Unsqueeze(0);
                });
            return b.Concat(parts, 0);
        }
    }
}
