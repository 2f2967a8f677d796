using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Gives every dynamic dimension of the graph's inputs a name, and a size where one is asked for.</summary>
internal static class InputDimensions
{
    public static void Name(Graph graph, IReadOnlyDictionary<string, long> sizes, string path)
    {
        var named = new HashSet<string>(StringComparer.Ordinal);
        foreach (var input in graph.Inputs)
        {
            var info = graph.Declarations[input.Name];
            if (info.Type?.TensorType is not { } tensor)
            {
                throw new MacOnnxException(
                    "MAC0011",
                    path,
                    $"The input '{input.Name}' is not a tensor.",
                    "Export the model with tensor inputs."
                );
            }

            if (tensor.Shape is null)
            {
                throw new MacOnnxException(
                    "MAC0011",
                    path,
                    $"The input '{input.Name}' does not declare its shape.",
                    "Export the model with declared input shapes."
                );
            }

            info = graph.Declarations[input.Name] = info.Clone();
            for (var i = 0; i < info.Type.TensorType.Shape.Dim.Count; i++)
            {
                var dim = info.Type.TensorType.Shape.Dim[i];
                if (dim.ValueCase == TensorShapeProto.Types.Dimension.ValueOneofCase.DimValue && dim.DimValue > 0)
                {
                    continue;
                }

                var name = dim.HasDimParam && dim.DimParam.Length > 0 ? dim.DimParam : $"{input.Name}_dim{i}";
                named.Add(name);
                if (sizes.TryGetValue(name, out var size))
                {
                    dim.DimValue =
                        size > 0
                            ? size
                            : throw new MacOnnxException(
                                "MAC0012",
                                "--dim",
                                $"The size {size} of '{name}' is not positive.",
                                "Give a size of 1 or more."
                            );
                }
                else
                {
                    dim.DimParam = name;
                }
            }
        }

        if (sizes.Keys.FirstOrDefault(k => !named.Contains(k)) is { } unknown)
        {
            throw new MacOnnxException(
                "MAC0012",
                "--dim",
                $"The model has no dynamic dimension '{unknown}'.",
                named.Count == 0 ? "All its dimensions are fixed." : $"It has: {string.Join(", ", named)}."
            );
        }
    }
}
