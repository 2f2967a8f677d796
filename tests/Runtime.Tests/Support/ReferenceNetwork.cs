using Google.Protobuf;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Support;

/// <summary>The rows of one layer in a step.</summary>
/// <param name="Weight">The weight's name.</param>
/// <param name="Bias">The bias's name; null for none.</param>
/// <param name="OutputFirst">Whether the weight is [out, in].</param>
/// <param name="Inputs">The input rows, each with a final 1 where there is a bias.</param>
/// <param name="Gradients">For each of them dL/dy of its output row, L the mean loss.</param>
internal sealed record LayerRows(
    string Weight,
    string? Bias,
    bool OutputFirst,
    List<double[]> Inputs,
    List<double[]> Gradients
);

/// <summary>
/// A network with a layer of each kind, as an ONNX model, and its forward and backward pass in double precision, which
/// share no code with what they check: x [n, 2, 3, 3], a padded convolution with a bias to 3 channels, tanh, tokens
/// [n, 3, 9] by a matrix and a bias to [n, 3, 4], tanh, [n, 12] by a transposed matrix to 3 logits, cross entropy.
/// </summary>
internal static class ReferenceNetwork
{
    private const int Channels = 2,
        Size = 3,
        Maps = 3,
        Width = 4,
        Classes = 3;

    /// <summary>Gets the parameters' names and dimensions.</summary>
    private static readonly (string Name, long[] Dims)[] Parameters =
    [
        ("conv.w", [Maps, Channels, 2, 2]),
        ("conv.b", [Maps]),
        ("token.w", [Size * Size, Width]),
        ("token.b", [Width]),
        ("head.w", [Classes, Maps * Width]),
    ];

    /// <summary>Writes the model, its batch axis dynamic; gives the file.</summary>
    public static string Save(TempFolder folder)
    {
        var graph = new GraphProto { Name = "reference" };
        var conv = Node("Conv", ["x", "conv.w", "conv.b"], "maps");
        conv.Attribute.Add(Ints("kernel_shape", 2, 2));
        conv.Attribute.Add(Ints("pads", 1, 0, 0, 1));
        var head = Node("Gemm", ["flat", "head.w"], "logits");
        head.Attribute.Add(
            new AttributeProto
            {
                Name = "transB",
                Type = AttributeProto.Types.AttributeType.Int,
                I = 1,
            }
        );
        graph.Node.AddRange([
            conv,
            Node("Tanh", ["maps"], "bent"),
            Node("Reshape", ["bent", "to_tokens"], "tokens"),
            Node("MatMul", ["tokens", "token.w"], "product"),
            Node("Add", ["product", "token.b"], "sum"),
            Node("Tanh", ["sum"], "curved"),
            Node("Reshape", ["curved", "to_rows"], "flat"),
            head,
        ]);
        graph.Input.Add(Info("x", -1, Channels, Size, Size));
        graph.Output.Add(Info("logits", -1, Classes));
        var random = new Random(7);
        foreach (var (name, dims) in Parameters)
        {
            float[] values =
            [
                .. Enumerable.Range(0, (int)Tensor.CountOf(dims)).Select(_ => random.NextSingle() - 0.5f),
            ];
            graph.Initializer.Add(TensorFormat.ToProto(Tensor.From<float>(dims, values), name));
        }

        long[] tokens = [0, Maps, Size * Size];
        long[] rows = [0, Maps * Width];
        graph.Initializer.Add(TensorFormat.ToProto(Tensor.From<long>([3], tokens), "to_tokens"));
        graph.Initializer.Add(TensorFormat.ToProto(Tensor.From<long>([2], rows), "to_rows"));
        var model = new ModelProto { IrVersion = 10, Graph = graph };
        model.OpsetImport.Add(new OperatorSetIdProto { Version = 21 });
        var path = folder.File($"reference-{Guid.NewGuid():N}.onnx");
        File.WriteAllBytes(path, model.ToByteArray());
        return path;
    }

    /// <summary>Makes samples: inputs and labels.</summary>
    public static (float[][] X, long[] Labels) Samples(int count, int seed)
    {
        var random = new Random(seed);
        float[] Input() => [.. Enumerable.Range(0, Channels * Size * Size).Select(_ => random.NextSingle() + 0.1f)];
        return (
            [.. Enumerable.Range(0, count).Select(_ => Input())],
            [.. Enumerable.Range(0, count).Select(_ => (long)random.Next(Classes))]
        );
    }

    /// <summary>Makes the values that a session takes.</summary>
    public static OrtValue[] Feeds(float[][] x, long[] labels) =>
        [
            OrtValues.Of(Tensor.From<float>([x.Length, Channels, Size, Size], [.. x.SelectMany(r => r)])),
            OrtValues.Of(Tensor.From<long>([labels.Length], labels)),
        ];

    /// <summary>Computes the mean loss and the rows of each layer.</summary>
    public static (double Loss, LayerRows[] Layers) Run(
        IReadOnlyDictionary<string, double[]> parameters,
        float[][] x,
        long[] labels
    )
    {
        var conv = new LayerRows("conv.w", "conv.b", true, [], []);
        var token = new LayerRows("token.w", "token.b", false, [], []);
        var head = new LayerRows("head.w", null, true, [], []);
        var loss = 0.0;
        foreach (var (sample, label) in x.Zip(labels))
        {
            var patches = Enumerable.Range(0, Size * Size).Select(at => Patch(sample, at / Size, at % Size)).ToArray();
            var bent = patches.Select(p => Tanh(Times(parameters["conv.w"], p, parameters["conv.b"]))).ToArray();
            var rows = Enumerable.Range(0, Maps).Select(map => (double[])[.. bent.Select(b => b[map]), 1]).ToArray();
            var w = parameters["token.w"];
            var curved = rows.Select(r =>
                    Tanh([
                        .. Enumerable
                            .Range(0, Width)
                            .Select(o =>
                                parameters["token.b"][o]
                                + Enumerable.Range(0, Size * Size).Sum(i => r[i] * w[(i * Width) + o])
                            ),
                    ])
                )
                .ToArray();
            double[] flat = [.. curved.SelectMany(c => c)];
            var logits = Times(parameters["head.w"], flat, null);
            var exp = logits.Select(l => Math.Exp(l - logits.Max())).ToArray();
            loss -= Math.Log(exp[label] / exp.Sum()) / x.Length;

            double[] atLogits = [.. exp.Select((e, o) => ((e / exp.Sum()) - (o == label ? 1 : 0)) / x.Length)];
            head.Inputs.Add(flat);
            head.Gradients.Add(atLogits);
            var atBent = Enumerable.Range(0, Size * Size).Select(_ => new double[Maps]).ToArray();
            for (var map = 0; map < Maps; map++)
            {
                double[] atSum =
                [
                    .. Enumerable
                        .Range(0, Width)
                        .Select(o =>
                        {
                            var column = (map * Width) + o;
                            var back = Enumerable
                                .Range(0, Classes)
                                .Sum(c => atLogits[c] * parameters["head.w"][(c * Maps * Width) + column]);
                            return back * (1 - (flat[column] * flat[column]));
                        }),
                ];
                token.Inputs.Add(rows[map]);
                token.Gradients.Add(atSum);
                for (var i = 0; i < Size * Size; i++)
                {
                    atBent[i][map] = Enumerable.Range(0, Width).Sum(o => atSum[o] * w[(i * Width) + o]);
                }
            }

            for (var at = 0; at < Size * Size; at++)
            {
                conv.Inputs.Add([.. patches[at], 1]);
                conv.Gradients.Add([.. atBent[at].Zip(bent[at], (g, b) => g * (1 - (b * b)))]);
            }
        }

        return (loss, [conv, token, head]);
    }

    /// <summary>The patch of 2 x 2 at an output position; the image is padded by one row above and one column right.
    /// </summary>
    private static double[] Patch(float[] image, int y, int x) =>
        [
            .. from c in Enumerable.Range(0, Channels)
            from dy in Enumerable.Range(-1, 2)
            from dx in Enumerable.Range(0, 2)
            select y + dy >= 0 && x + dx < Size ? image[(((c * Size) + y + dy) * Size) + x + dx] : 0.0,
        ];

    private static double[] Times(double[] weight, double[] input, double[]? bias) =>
        [
            .. Enumerable
                .Range(0, weight.Length / input.Length)
                .Select(o => (bias?[o] ?? 0) + input.Select((v, i) => v * weight[(o * input.Length) + i]).Sum()),
        ];

    private static double[] Tanh(double[] values) => [.. values.Select(Math.Tanh)];

    private static NodeProto Node(string op, string[] inputs, string output)
    {
        var node = new NodeProto { OpType = op, Name = $"{op}_{output}" };
        node.Input.AddRange(inputs);
        node.Output.Add(output);
        return node;
    }

    private static AttributeProto Ints(string name, params long[] values)
    {
        var attribute = new AttributeProto { Name = name, Type = AttributeProto.Types.AttributeType.Ints };
        attribute.Ints.AddRange(values);
        return attribute;
    }

    private static ValueInfoProto Info(string name, params long[] dims)
    {
        var shape = new TensorShapeProto();
        shape.Dim.AddRange(
            dims.Select(d =>
                d < 0
                    ? new TensorShapeProto.Types.Dimension { DimParam = "batch" }
                    : new TensorShapeProto.Types.Dimension { DimValue = d }
            )
        );
        var tensor = new TypeProto.Types.Tensor { ElemType = 1, Shape = shape };
        return new ValueInfoProto
        {
            Name = name,
            Type = new TypeProto { TensorType = tensor },
        };
    }
}
