using System.Collections.Immutable;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.Runtime.Data;

/// <summary>One batch of random data, of the types and shapes that a model declares.</summary>
public static class RandomBatch
{
    /// <summary>The samples of the batch where the model does not fix them.</summary>
    public const int Samples = 4;

    /// <summary>More elements than this are not made for one array.</summary>
    private const long MostElements = 1L << 28;

    /// <summary>
    /// Makes the batch. Floats are normal (targets of binary cross entropy uniform from 0 to 1), labels are classes,
    /// integers 0 or 1, or, where each has a label, as in language models, classes. Dynamic dimensions become
    /// <see cref="Samples"/> on the first axis, and on the others 32 where an input has four axes or more, else 8.
    /// </summary>
    /// <param name="manifest">The package's manifest.</param>
    /// <param name="seed">The seed.</param>
    /// <returns>Data to be passed whole: batch size 0.</returns>
    /// <exception cref="MacOnnxException">An array has too many elements (MAC0603), or a type of which no data can be
    /// made (MAC0604).</exception>
    public static Dataset Make(Manifest manifest, ulong seed = 0)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        var random = new SplitMix64(seed);
        var size = manifest.Inputs.Any(i => i.Dims.Length >= 4) ? 32 : 8;
        var specs = Dataset.SpecsOf(manifest);
        var arrays = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        foreach (var spec in specs)
        {
            var isTarget = spec.Name == manifest.Target?.Name;
            ImmutableArray<long> dims =
            [
                .. spec.Dims.Select(
                    (d, axis) =>
                        d >= 0 ? d
                        : axis == 0 ? Samples
                        : size
                ),
            ];
            var count = dims.Aggregate(1.0, (n, d) => n * d);
            if (count > MostElements)
            {
                throw new MacOnnxException(
                    "MAC0603",
                    spec.Name,
                    $"[{string.Join(',', dims)}] has too many elements for random data.",
                    "Fix its dimensions with RewriteOptions.Dimensions, or give data."
                );
            }

            var hasLabels = isTarget || manifest.Target?.Dims.Length == dims.Length;
            var bound = hasLabels ? manifest.Classes ?? 2 : 2;
            var isPart = isTarget && manifest.Options.Loss == LossKind.BceWithLogits;
            arrays[spec.Name] = Of(spec, dims, (int)count, bound, isPart, ref random);
        }

        return new Dataset("random data", specs, arrays);
    }

    private static Tensor Of(
        InputSpec spec,
        ImmutableArray<long> dims,
        int count,
        long bound,
        bool isPart,
        ref SplitMix64 random
    )
    {
        var isFloating =
            spec.Type is ElementType.Float or ElementType.Double or ElementType.Float16 or ElementType.BFloat16;
        var values = new double[count];
        for (var i = 0; i < count; i++)
        {
            values[i] =
                isPart ? random.Uniform()
                : isFloating ? random.Normal()
                : random.Below(bound);
        }

        return spec.Type switch
        {
            ElementType.Double => Tensor.From<double>(dims.AsSpan(), values),
            _ when isFloating => Tensor.From<float>(dims.AsSpan(), [.. values.Select(v => (float)v)]).To(spec.Type),
            ElementType.Int64 => Tensor.From<long>(dims.AsSpan(), [.. values.Select(v => (long)v)]),
            ElementType.Int32 => Tensor.From<int>(dims.AsSpan(), [.. values.Select(v => (int)v)]),
            ElementType.UInt8 => Tensor.From<byte>(dims.AsSpan(), [.. values.Select(v => (byte)v)]),
            ElementType.Bool => Tensor.From<bool>(dims.AsSpan(), [.. values.Select(v => v > 0)]),
            _ => throw new MacOnnxException(
                "MAC0604",
                spec.Name,
                $"No random data of type {spec.Type} can be made.",
                "Give data."
            ),
        };
    }
}
