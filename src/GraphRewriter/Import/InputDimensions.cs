using MacOnnx.GraphRewriter.Diagnostics;
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
            var declared = input.Declared!;
            if (declared.NotTensor is not null)
            {
                throw new MacOnnxException(
                    "MAC0011",
                    path,
                    $"The input '{input.Name}' is not a tensor.",
                    "Export the model with tensor inputs."
                );
            }

            if (declared.Dims is null)
            {
                throw new MacOnnxException(
                    "MAC0011",
                    path,
                    $"The input '{input.Name}' does not declare its shape.",
                    "Export the model with declared input shapes."
                );
            }

            if (declared.Dims.FirstOrDefault(d => d.Size > int.MaxValue) is { Size: { } large })
            {
                throw new MacOnnxException(
                    "MAC0011",
                    path,
                    $"The input '{input.Name}' has a dimension of {large}.",
                    $"Export the model with dimensions of at most {int.MaxValue}."
                );
            }

            input.Declared = declared with
            {
                Dims = [.. declared.Dims.Select((d, i) => Named(d, $"{input.Name}_dim{i}"))],
            };
        }

        if (sizes.Keys.FirstOrDefault(k => !named.Contains(k)) is { } unknown)
        {
            throw new MacOnnxException(
                "MAC0012",
                "RewriteOptions.Dimensions",
                $"The model has no dynamic dimension '{unknown}'.",
                named.Count == 0 ? "All its dimensions are fixed." : $"It has: {string.Join(", ", named)}."
            );
        }

        DeclaredDim Named(DeclaredDim dim, string fallback)
        {
            if (dim.Size > 0)
            {
                return dim;
            }

            var name = dim.Name is { Length: > 0 } given ? given : fallback;
            named.Add(name);
            return !sizes.TryGetValue(name, out var size) ? new(null, name)
                : size is > 0 and <= int.MaxValue ? new(size, null)
                : throw new MacOnnxException(
                    "MAC0012",
                    "RewriteOptions.Dimensions",
                    $"The size {size} of '{name}' is not possible.",
                    $"Give a size from 1 to {int.MaxValue}."
                );
        }
    }
}
