using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Export;

namespace MacOnnx.Runtime;

/// <summary>Finds the class axis of cross entropy's logits, which only the labels can tell.</summary>
public static class ClassAxis
{
    /// <summary>
    /// Gives a package whose class axis fits the labels: the given one where it does, or where the axis was chosen by
    /// an option.
    /// </summary>
    /// <param name="package">The package.</param>
    /// <param name="labels">The dimensions of the label array; its first axis may hold many batches.</param>
    /// <exception cref="GraphRewriter.Diagnostics.MacOnnxException">The model cannot be rewritten for that
    /// axis.</exception>
    public static TrainingPackage Fit(TrainingPackage package, ReadOnlySpan<long> labels)
    {
        ArgumentNullException.ThrowIfNull(package);
        var manifest = package.Manifest;
        return
            manifest.Options.ClassAxis is null
            && manifest.Logits is { } logits
            && Resolve(logits, labels) is { } axis
            && axis != manifest.ClassAxis
            ? Rewriter.Rewrite(package, manifest.Options with { ClassAxis = axis }).Package
            : package;
    }

    /// <summary>
    /// Gives the axis whose removal from the logits' shape gives the labels' shape, the last one if two fit; null if
    /// none does.
    /// </summary>
    /// <param name="logits">The logits, -1 for dimensions that the model leaves open.</param>
    /// <param name="labels">The dimensions of the label array; its first axis may hold many batches.</param>
    public static int? Resolve(TensorInfo logits, ReadOnlySpan<long> labels)
    {
        ArgumentNullException.ThrowIfNull(logits);
        for (var axis = logits.Dims.Length - 1; axis >= 0; axis--)
        {
            if (logits.Dims[axis] >= 0 && Fits(logits.Dims.RemoveAt(axis).AsSpan(), labels))
            {
                return axis;
            }
        }

        return null;
    }

    private static bool Fits(ReadOnlySpan<long> wanted, ReadOnlySpan<long> found)
    {
        var fits = wanted.Length == found.Length;
        for (var i = 0; fits && i < wanted.Length; i++)
        {
            fits = wanted[i] < 0 || wanted[i] == found[i] || (i == 0 && wanted[0] > 0 && found[0] % wanted[0] == 0);
        }

        return fits;
    }
}
