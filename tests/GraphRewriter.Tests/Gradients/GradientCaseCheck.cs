using MacOnnx.GraphRewriter.Autodiff;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Lowering;
using MacOnnx.GraphRewriter.Ops;
using MacOnnx.GraphRewriter.Shapes;
using Microsoft.ML.OnnxRuntime;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

/// <summary>
/// Compares the gradients of a case, run by ONNX Runtime, with slopes of the loss in random directions.
/// </summary>
/// <remarks>The loss is the sum, in double, of v * y over every output y that the case reads, v = sin(13 k + 1) for the
/// k-th element;
/// where the size of y is not known beforehand, v = y.</remarks>
internal static class GradientCheck
{
    private const int DirectionsEach = 2;

    public static void Run(GradientCase row, bool asParameters)
    {
        using var session = Open(row, asParameters);
        var values = Values(row);
        var random = new Random(1);
        var at = Evaluate(session, row, values);
        foreach (var (variable, gradient) in Variables(row).Zip(at.Skip(1)))
        {
            var input = values[variable]!;
            Assert.Equal(input.Dims, gradient.Dims);
            var g = gradient.ToDouble();
            for (var n = 0; n < DirectionsEach; n++)
            {
                var direction = g.Select(_ => (2 * random.NextDouble()) - 1).ToArray();
                var expected = Slope(session, row, values, variable, direction);
                var terms = g.Zip(direction, (a, b) => a * b).ToArray();
                var scale = Math.Max(terms.Sum(Math.Abs), 1e-3);
                var tolerance = row.Tolerance ?? (row.Type == ElementType.Float ? 2e-4 : 1e-8);
                var error = Math.Abs(terms.Sum() - expected) / scale;
                Assert.True(
                    error <= tolerance,
                    $"Input {variable}: slope {expected:R}, gradient says {terms.Sum():R}, relative error "
                        + $"{error:E1}. Gradient: {string.Join(' ', g.Take(40).Select(v => $"{v:G4}"))}"
                );
            }
        }
    }

    /// <summary>
    /// Gives the first variable, its gradient and the first output of one run, and the factor of each output element in
    /// the loss.
    /// </summary>
    public static (double[] X, double[] Gradient, double[] Y, double[] V) Once(GradientCase row)
    {
        using var session = Open(row, false, "y0");
        var values = Values(row);
        var results = Evaluate(session, row, values);
        var y = results[^1].ToDouble();
        return (
            values[Variables(row)[0]]!.ToDouble(),
            results[1].ToDouble(),
            y,
            [.. y.Select((_, k) => Math.Sin((13 * k) + 1))]
        );
    }

    /// <summary>
    /// Gives the outputs that the loss reads: as the training graph computes them, or the operator itself.
    /// </summary>
    public static Tensor[] OutputsOf(GradientCase row, bool isTraining)
    {
        string[] names = [.. row.Outputs.Index().Where(o => o.Item == true).Select(o => $"y{o.Index}")];
        using var session = isTraining ? Open(row, false, names) : OpenAsIs(row, names);
        return Evaluate(session, row, Values(row))[^names.Length..];
    }

    private static InferenceSession OpenAsIs(GradientCase row, string[] names)
    {
        var graph = GraphOf(row);
        graph.Outputs.Clear();
        graph.Outputs.AddRange(graph.Nodes.SelectMany(n => n.Outputs).Where(o => names.Contains(o.Name)));
        graph.Prune();
        return Load(graph);
    }

    /// <summary>
    /// Differentiates a case and loads it: outputs are the loss, the gradients, and other values by name.
    /// </summary>
    /// <param name="row">The case.</param>
    /// <param name="asParameters">Whether the variables are initializers of the model that train, which become inputs
    /// as parameters do; else they are the model's inputs.</param>
    /// <param name="also">Names of further outputs.</param>
    public static InferenceSession Open(GradientCase row, bool asParameters, params string[] also)
    {
        var graph = GraphOf(row, asParameters);
        ExplicitPads.Apply(graph);
        RecurrentLayout.Apply(graph);
        BatchStatistics.Prepare(graph);
        ShapeInference.Apply(graph, "case", value => IsVariable(row, value));
        ExplicitPads.Apply(graph);
        foreach (var trained in asParameters ? graph.Constants().Where(c => IsVariable(row, c)).ToArray() : [])
        {
            trained.Constant = null;
            graph.Inputs.Add(trained);
        }

        var inputs = graph.Inputs.ToDictionary(v => v.Name, StringComparer.Ordinal);
        var variables = Variables(row).Select(i => inputs[Name(i)]).ToArray();
        var gradients = Backward.Differentiate(
            graph,
            graph.Outputs[0],
            new GraphBuilder(graph).Scalar(1, ElementType.Double),
            variables
        );
        foreach (var variable in variables)
        {
            Assert.True(gradients.TryGetValue(variable, out var gradient), $"Input {variable} has no gradient.");
            graph.Outputs.Add(gradient!);
        }

        graph.Outputs.AddRange(graph.Nodes.SelectMany(n => n.Outputs).Where(o => also.Contains(o.Name)));
        Lower.Apply(graph);
        return Load(graph);
    }

    private static InferenceSession Load(Graph graph)
    {
        using var options = new SessionOptions
        {
            GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
            IntraOpNumThreads = 1,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
        };
        return new InferenceSession(ModelWriter.ToBytes(graph), options);
    }

    /// <summary>Gives the inputs whose gradients a case checks.</summary>
    public static int[] Variables(GradientCase row) =>
        [
            .. Enumerable
                .Range(0, row.Inputs.Length)
                .Where(i => row.Inputs[i] is { Absent: false, Differentiated: true }),
        ];

    /// <summary>Imports the model of a case: the operator and the loss.</summary>
    public static Graph GraphOf(GradientCase row, bool asParameters = false)
    {
        var model = Model(row, asParameters);
        ModelReader.Normalize(model, "case");
        return GraphImporter.Import(model, "case");
    }

    private static bool IsVariable(GradientCase row, Value value) => Variables(row).Any(i => Name(i) == value.Name);

    private static string Name(int input) => $"x{input}";

    /// <summary>Gives the values of a case's inputs; null for those left out.</summary>
    public static Tensor?[] Values(GradientCase row)
    {
        var random = new Random(7);
        return [.. row.Inputs.Select((input, i) => input.Absent ? null : input.ToTensor(row.Type, i, random))];
    }

    private static ModelProto Model(GradientCase row, bool asParameters)
    {
        var values = Values(row);
        var graph = new GraphProto { Name = row.Op };
        var node = new NodeProto
        {
            OpType = row.Op,
            Domain = row.Domain,
            Name = "node",
        };
        node.Attribute.AddRange(row.Attributes.Select(ModelWriter.ToProto));
        for (var i = 0; i < values.Length; i++)
        {
            if (i < (row.NodeInputs ?? values.Length))
            {
                node.Input.Add(values[i] is null ? "" : Name(i));
            }

            if (values[i] is not { } tensor)
            {
                continue;
            }

            if (row.Inputs[i].Constant || (asParameters && row.Inputs[i].Differentiated))
            {
                graph.Initializer.Add(TensorFormat.ToProto(tensor, Name(i)));
                continue;
            }

            var shape = new TensorShapeProto();
            shape.Dim.AddRange(
                tensor.Dims.Select(
                    (d, axis) =>
                        !asParameters && axis == 0 && row.Inputs[i].Dynamic
                            ? new TensorShapeProto.Types.Dimension { DimParam = "batch" }
                        : !asParameters && axis > 1 && row.Inputs[i].DynamicSizes
                            ? new TensorShapeProto.Types.Dimension { DimParam = $"size{axis}" }
                        : new TensorShapeProto.Types.Dimension { DimValue = d }
                )
            );
            graph.Input.Add(
                new ValueInfoProto
                {
                    Name = Name(i),
                    Type = new TypeProto
                    {
                        TensorType = new TypeProto.Types.Tensor { ElemType = (int)tensor.Type, Shape = shape },
                    },
                }
            );
        }

        graph.Node.Add(node);
        var parts = new List<string>();
        for (var i = 0; i < row.Outputs.Length; i++)
        {
            node.Output.Add(row.Outputs[i] is null ? "" : $"y{i}");
            if (row.Outputs[i] == true)
            {
                parts.Add(WeightedSum($"y{i}"));
            }
        }

        Emit("Sum", "loss", [.. parts]);
        graph.Output.Add(new ValueInfoProto { Name = "loss" });
        var model = new ModelProto { IrVersion = 10, Graph = graph };
        model.OpsetImport.Add(new OperatorSetIdProto { Version = row.Opset });
        if (row.Domain.Length > 0)
        {
            model.OpsetImport.Add(new OperatorSetIdProto { Domain = row.Domain, Version = 1 });
        }

        return model;

        string WeightedSum(string y)
        {
            if (row.SizeFromData)
            {
                return Emit(
                    "ReduceSumSquare",
                    $"{y}.sum",
                    [Emit("Cast", $"{y}.wide", [y], Int("to", (long)ElementType.Double))],
                    Int("keepdims", 0)
                );
            }

            var number = Emit(
                "Range",
                $"{y}.k",
                [
                    Scalar("zero", Ir.Tensor.From<long>([], [0])),
                    Emit("Size", $"{y}.n", [y]),
                    Scalar("one", Ir.Tensor.From<long>([], [1])),
                ]
            );
            var angle = Emit(
                "Mul",
                $"{y}.13k",
                [
                    Emit("Cast", $"{y}.double", [number], Int("to", (long)ElementType.Double)),
                    Scalar("thirteen", Ir.Tensor.From<double>([], [13])),
                ]
            );
            var sine = Emit(
                "Sin",
                $"{y}.sin",
                [Emit("Add", $"{y}.angle", [angle, Scalar("phase", Ir.Tensor.From<double>([], [1]))])]
            );
            var weights = Emit("Reshape", $"{y}.v", [sine, Emit("Shape", $"{y}.shape", [y])]);
            var product = Emit(
                "Mul",
                $"{y}.weighted",
                [Emit("Cast", $"{y}.wide", [y], Int("to", (long)ElementType.Double)), weights]
            );
            return Emit("ReduceSum", $"{y}.sum", [product], Int("keepdims", 0));
        }

        string Scalar(string name, Tensor value)
        {
            if (graph.Initializer.All(i => i.Name != name))
            {
                graph.Initializer.Add(TensorFormat.ToProto(value, name));
            }

            return name;
        }

        string Emit(string op, string output, string[] inputs, params Attr[] attributes)
        {
            var made = new NodeProto { OpType = op, Name = output };
            made.Input.AddRange(inputs);
            made.Output.Add(output);
            made.Attribute.AddRange(attributes.Select(AttributeFormat.ToProto));
            graph.Node.Add(made);
            return output;
        }
    }

    /// <summary>
    /// Gives the slope of the loss along a direction: the five-point central difference, exact up to the fourth
    /// derivative.
    /// </summary>
    private static double Slope(
        InferenceSession session,
        GradientCase row,
        Tensor?[] values,
        int input,
        double[] direction
    )
    {
        // Rounding costs about eps / step, truncation step^4 / 30 times the fifth derivative: 1e-12 in double, 2e-5 in
        // float.
        var step = row.Step ?? (row.Type == ElementType.Float ? 5e-3 : 1e-3);
        double At(double t)
        {
            var moved = values.ToArray();
            moved[input] = CaseInput.Numbers(
                values[input]!.Dims.AsSpan(),
                [.. values[input]!.ToDouble().Zip(direction, (x, d) => x + (t * d))],
                row.Type
            );
            return Evaluate(session, row, moved)[0].Span<double>()[0];
        }

        return ((8 * (At(step) - At(-step))) - (At(2 * step) - At(-2 * step))) / (12 * step);
    }

    /// <summary>Runs the graph: the loss, the gradients, then what else was asked for.</summary>
    public static Tensor[] Evaluate(InferenceSession session, GradientCase row, Tensor?[] values)
    {
        var given = Enumerable
            .Range(0, values.Length)
            .Where(i => values[i] is not null && session.InputMetadata.ContainsKey(Name(i)))
            .ToArray();
        var feeds = given.Select(i => OrtValues.Of(values[i]!)).ToArray();
        using var run = new RunOptions();
        try
        {
            using var results = session.Run(run, [.. given.Select(Name)], feeds, session.OutputNames);
            return [.. results.Select(OrtValues.ToTensor)];
        }
        finally
        {
            Array.ForEach(feeds, f => f.Dispose());
        }
    }
}
