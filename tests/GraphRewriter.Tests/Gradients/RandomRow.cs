using System.Collections.Concurrent;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Tests.Support;
using Microsoft.ML.OnnxRuntime;

namespace MacOnnx.GraphRewriter.Tests.Gradients;

/// <summary>A row of the gradient tests as a node of random models.</summary>
/// <param name="Case">The row.</param>
/// <param name="Outputs">The dimensions of each output that is read, and the largest of its elements.</param>
internal sealed record RandomRow(GradientCase Case, (long[] Dims, double Largest)[] Outputs)
{
    private const long MostElements = 2000;

    private static readonly GradientCase[] Candidates =
    [
        .. GradientCases.All.Values.Where(row =>
            row is { NodeInputs: null, SizeFromData: false }
            && GradientCheck.Variables(row).Length > 0
            && !HasOwnSize(row)
            && row.Inputs.All(i => Ir.Tensor.CountOf(i.Dims) <= MostElements)
        ),
    ];

    private static readonly ConcurrentDictionary<(int Index, int Opset), RandomRow?> Known = [];

    /// <summary>Gives the row of a number; null where ONNX Runtime does not have it at an operator set.</summary>
    public static RandomRow? Of(int number, int opset) =>
        Known.GetOrAdd((number % Candidates.Length, opset), key => Try(Candidates[key.Index], key.Opset));

    /// <summary>Whether ONNX Runtime gives the output another size than ONNX says, which import corrects.</summary>
    private static bool HasOwnSize(GradientCase row) =>
        new[] { "auto_pad", "dilations" }.All(name => row.Attributes.Any(a => a.Name == name));

    private static RandomRow? Try(GradientCase row, int opset)
    {
        var values = GradientCheck.Values(row);
        var given = values.Index().Where(v => v.Item is not null).ToDictionary(v => $"x{v.Index}", v => v.Item!);
        string[] read = [.. row.Outputs.Index().Where(o => o.Item == true).Select(o => $"y{o.Index}")];
        var node = Onnx.Node(
            row.Domain,
            row.Op,
            [.. values.Select((v, i) => v is null ? "" : $"x{i}")],
            [.. row.Outputs.Select((o, i) => o is null ? "" : $"y{i}")],
            row.Attributes
        );
        var graph = Onnx.Graph(
            [node],
            [],
            [.. read.Select(name => Onnx.Info(name, row.Type))],
            [.. given.Select(g => (g.Key, g.Value))]
        );
        foreach (var output in graph.Output)
        {
            output.Type.TensorType.Shape = null;
        }

        try
        {
            var found = Onnx.Run(Onnx.Model(graph, opset).ToByteArray(), new Dictionary<string, Ir.Tensor>());
            return new(
                row,
                [
                    .. read.Select(name =>
                        ((long[])[.. found[name].Dims], found[name].ToDouble().Select(Math.Abs).DefaultIfEmpty().Max())
                    ),
                ]
            );
        }
        catch (OnnxRuntimeException)
        {
            return null;
        }
    }
}
