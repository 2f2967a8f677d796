using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>
/// The checkpoints of older releases: a folder of files that hold a count and then <c>TensorProto</c> messages, each
/// after its length.
/// </summary>
internal static class TensorSequences
{
    private const string Suffix = "_tensors.pbseq";
    private const string StatePrefix = "optim_";
    private const string LearningRate = "builtin.initial_learning_rate";
    private const string Step = "builtin.step";

    /// <summary>Reads a folder.</summary>
    public static OrtCheckpointFile Read(string folder)
    {
        var trainable = Path.Combine(folder, "paramtrain" + Suffix);
        if (!File.Exists(trainable))
        {
            throw new MacOnnxException(
                "MAC0402",
                folder,
                "The folder is no checkpoint: it has no file 'paramtrain_tensors.pbseq'.",
                "Check the path."
            );
        }

        var (states, properties) = (States(folder), Optional(Path.Combine(folder, "custom_properties.pbseq")));
        return new OrtCheckpointFile
        {
            Trainable = Tensors(trainable),
            Frozen = Optional(Path.Combine(folder, "paramfrozen" + Suffix)),
            Groups =
            [
                .. states.Select(g => new OrtOptimizerGroup(
                    g.Key,
                    properties.GetValueOrDefault(Step) is { Type: ElementType.Int64, ElementCount: 1 } step
                        ? step.ToInt64()[0]
                        : 0,
                    properties.GetValueOrDefault(LearningRate) is { Type: ElementType.Float, ElementCount: 1 } rate
                        ? rate.Span<float>()[0]
                        : 0,
                    g.Value
                )),
            ],
            Properties = properties
                .Where(p => p.Key is not (Step or LearningRate))
                .Select(p => (p.Key, Value: Property(p.Value)))
                .Where(p => p.Value is not null)
                .ToDictionary(p => p.Key, p => p.Value!, StringComparer.Ordinal),
        };
    }

    private static object? Property(Tensor tensor) =>
        tensor switch
        {
            { Type: ElementType.Int64, ElementCount: 1 } => tensor.ToInt64()[0],
            { Type: ElementType.Float, ElementCount: 1 } => tensor.Span<float>()[0],
            _ => null,
        };

    /// <summary>Reads the files <c>optim_GROUP_MOMENTUM_tensors.pbseq</c>.</summary>
    private static Dictionary<string, Dictionary<string, IReadOnlyDictionary<string, Tensor>>> States(string folder)
    {
        var groups = new Dictionary<string, Dictionary<string, IReadOnlyDictionary<string, Tensor>>>(
            StringComparer.Ordinal
        );
        foreach (var path in Directory.EnumerateFiles(folder, $"{StatePrefix}*{Suffix}").Order(StringComparer.Ordinal))
        {
            var name = Path.GetFileName(path)[StatePrefix.Length..^Suffix.Length];
            var cut = name.LastIndexOf('_');
            var (group, momentum) = cut < 0 ? ("", name) : (name[..cut], name[(cut + 1)..]);
            var states = groups.TryGetValue(group, out var known) ? known : groups[group] = new(StringComparer.Ordinal);
            foreach (var (parameter, tensor) in Tensors(path))
            {
                states[parameter] = new Dictionary<string, Tensor>(
                    states.GetValueOrDefault(parameter) ?? new Dictionary<string, Tensor>(),
                    StringComparer.Ordinal
                )
                {
                    [momentum] = tensor,
                };
            }
        }

        return groups;
    }

    private static OrderedDictionary<string, Tensor> Optional(string path) => File.Exists(path) ? Tensors(path) : [];

    private static OrderedDictionary<string, Tensor> Tensors(string path) =>
        InputFile.Read(
            path,
            "file of tensors",
            stream =>
            {
                var tensors = new OrderedDictionary<string, Tensor>(StringComparer.Ordinal);
                try
                {
                    using var input = new CodedInputStream(stream, leaveOpen: true);
                    for (var count = input.ReadUInt32(); count > 0; count--)
                    {
                        var proto = new TensorProto();
                        input.ReadMessage(proto);
                        if (
                            proto.DataLocation == TensorProto.Types.DataLocation.External
                            || !tensors.TryAdd(proto.Name, TensorFormat.FromProto(proto))
                        )
                        {
                            throw new InvalidDataException(
                                $"the tensor '{InputFile.OneLine(proto.Name)}' is elsewhere, or there twice"
                            );
                        }
                    }
                }
                catch (Exception e) when (e is InvalidProtocolBufferException or MacOnnxException)
                {
                    throw new InvalidDataException(
                        e is MacOnnxException m ? m.Diagnostic.What : "its messages are damaged",
                        e
                    );
                }

                return tensors;
            }
        );
}
