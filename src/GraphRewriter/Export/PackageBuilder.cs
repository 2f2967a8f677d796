using System.Collections.Immutable;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>Makes the package: graphs, manifest and starting values.</summary>
internal static class PackageBuilder
{
    /// <summary>Makes the package of what the passes left.</summary>
    /// <param name="context">The context.</param>
    /// <param name="original">The model that 'export' writes with trained weights.</param>
    /// <param name="report">What was understood.</param>
    public static (TrainingPackage Package, RewriteReport Report) Build(
        RewriteContext context,
        ModelProto original,
        RewriteReport report
    )
    {
        var (kept, path) = (context.Plan.Kept.ToArray(), context.Path);
        if (kept.Any(p => p.Name == Safetensors.MetadataKey))
        {
            throw new MacOnnxException(
                "MAC0015",
                path,
                $"A checkpoint cannot hold a parameter that is called '{Safetensors.MetadataKey}'.",
                "Rename it in the model."
            );
        }

        var weights = kept.ToDictionary(p => p.Name, p => p.Initial.ToFloat(), StringComparer.Ordinal);
        var models = context
            .BoundGraphs.Where(g => !g.IsEmpty)
            .ToDictionary(g => g.File, g => ModelWriter.ToBytes(g.Graph), StringComparer.Ordinal);
        models[PackageFiles.Forward] = InferenceModel.WithoutWeights(
            original,
            path,
            weights.Keys.ToHashSet(StringComparer.Ordinal)
        );
        foreach (var (name, tensor) in context.InitialState)
        {
            weights.Add(name, tensor);
        }

        return (new TrainingPackage(ManifestOf(context, path, report), weights, models), report);
    }

    private static Manifest ManifestOf(RewriteContext context, string path, RewriteReport report)
    {
        var training = context.Training;
        var parameters = context.ParameterInputs.Values.ToHashSet();
        var inputs = training.Inputs.Where(i => !parameters.Contains(i) && i.Declared is not null);
        return new Manifest
        {
            Model = Path.GetFileName(path),
            Options = context.Options,
            Updates = context.InitialUpdates,
            Inputs =
            [
                .. inputs.Select(i => new TensorInfo(
                    i.Name,
                    i.Type,
                    [.. (i.Declared?.Dims ?? []).Select(d => d.Size ?? -1)]
                )),
            ],
            Target = context.Loss.Target is { } target ? Info(target) : null,
            Classes = context.Loss.ClassAxis?.Classes.Size,
            ClassAxis = context.Loss.ClassAxis?.Axis,
            Logits = context.Loss.ClassAxis is null ? null : Info(context.Loss.Source),
            Outputs = [.. context.OutputNames],
            Trained = [.. context.Plan.Trained.Select(p => p.Name)],
            Buffers = [.. context.Buffers.All],
            Bindings = [.. context.BoundGraphs.Where(g => !g.IsEmpty).SelectMany(g => g.Bindings)],
            HostRefreshes = [.. context.Plan.Blocks.SelectMany(b => b.HostRefreshes)],
            Average = context.Average,
            Diagnostics = context.Diagnostics?.Numbers ?? ImmutableSortedDictionary<string, string>.Empty,
            Parameters = report.Parameters,
        };
    }

    private static TensorInfo Info(Value value) =>
        new(value.Name, value.Type, [.. value.KnownShape.Dims.Select(d => d.IsStatic ? d.Size : -1)]);
}
