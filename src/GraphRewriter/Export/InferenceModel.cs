using System.Globalization;
using Google.Protobuf;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Export;

/// <summary>
/// The model as it was exported: split into a graph without weights, and put together again with trained ones.
/// </summary>
internal static class InferenceModel
{
    /// <summary>
    /// Weights beyond this size go to a file beside the model: a model file itself must stay below 2 GB.
    /// </summary>
    private const long LargestModel = 1L << 30;

    private const int ExternalAlignment = 64;

    /// <summary>Removes the data of the named tensors.</summary>
    /// <remarks>
    /// A model with functions of its own is taken with them inlined, since weights and modes may be inside.
    /// </remarks>
    public static byte[] WithoutWeights(ModelProto model, string path, IReadOnlySet<string> weights)
    {
        var copy = model.Clone();
        if (copy.Functions.Count > 0)
        {
            ModelReader.Normalize(copy, path);
        }

        ListsToTensors(copy, weights);
        foreach (var (tensor, name) in Tensors(copy))
        {
            if (weights.Contains(name))
            {
                Replace(
                    tensor,
                    new Tensor(
                        (ElementType)tensor.DataType,
                        [.. tensor.Dims],
                        ReadOnlyMemory<byte>.Empty,
                        isElsewhere: true
                    )
                );
            }
        }

        return copy.ToByteArray();
    }

    /// <summary>Gives the model as it was exported, with weights.</summary>
    /// <param name="withoutWeights">What <see cref="WithoutWeights"/> gave.</param>
    /// <param name="weights">The weights by name.</param>
    public static ModelProto WithWeights(ReadOnlySpan<byte> withoutWeights, IReadOnlyDictionary<string, Tensor> weights)
    {
        var model = ModelReader.Read(withoutWeights, PackageFiles.Forward);
        foreach (var (tensor, name) in Tensors(model).Where(t => weights.ContainsKey(t.Name)))
        {
            Replace(tensor, weights[name].To((ElementType)tensor.DataType));
        }

        return model;
    }

    /// <summary>
    /// Writes a model with weights and in inference mode, to one file or, where they are large, to the model and a data
    /// file beside it.
    /// </summary>
    /// <param name="path">The file to write.</param>
    /// <param name="withoutWeights">What <see cref="WithoutWeights"/> gave.</param>
    /// <param name="weights">The weights by name.</param>
    /// <param name="largest">The most bytes of weights that the model file itself holds.</param>
    public static void Write(
        string path,
        ReadOnlySpan<byte> withoutWeights,
        IReadOnlyDictionary<string, Tensor> weights,
        long largest = LargestModel
    )
    {
        var model = ModelReader.Read(withoutWeights, PackageFiles.Forward);
        Modes.ForInference(model);
        var filled = Tensors(model)
            .Where(t => weights.ContainsKey(t.Name))
            .Select(t => (t.Tensor, Weight: weights[t.Name].To((ElementType)t.Tensor.DataType)))
            .ToArray();
        if (filled.Sum(f => (long)f.Weight.Data.Length) > largest)
        {
            WriteExternal(path, filled);
        }
        else
        {
            foreach (var (tensor, weight) in filled)
            {
                Replace(tensor, weight);
            }
        }

        AtomicFile.Write(path, model.WriteTo);
    }

    private static void WriteExternal(string path, (TensorProto Tensor, Tensor Weight)[] filled)
    {
        var file = Path.GetFileName(path) + ".data";
        AtomicFile.Write(
            Path.Combine(Path.GetDirectoryName(Path.GetFullPath(path))!, file),
            stream =>
            {
                var position = 0L;
                foreach (var (tensor, weight) in filled)
                {
                    var padding = (int)((ExternalAlignment - (position % ExternalAlignment)) % ExternalAlignment);
                    stream.Write(new byte[padding]);
                    position += padding;
                    Replace(
                        tensor,
                        new Tensor(weight.Type, weight.Dims, ReadOnlyMemory<byte>.Empty, isElsewhere: true)
                    );
                    tensor.ClearRawData();
                    tensor.DataLocation = TensorProto.Types.DataLocation.External;
                    tensor.ExternalData.Add(new StringStringEntryProto { Key = "location", Value = file });
                    tensor.ExternalData.Add(
                        new StringStringEntryProto
                        {
                            Key = "offset",
                            Value = position.ToString(CultureInfo.InvariantCulture),
                        }
                    );
                    tensor.ExternalData.Add(
                        new StringStringEntryProto
                        {
                            Key = "length",
                            Value = weight.Data.Length.ToString(CultureInfo.InvariantCulture),
                        }
                    );
                    weight.WriteTo(stream);
                    position += weight.Data.Length;
                }
            }
        );
    }

    /// <summary>Gives weights that are Constant nodes with a list of numbers the form that others have.</summary>
    private static void ListsToTensors(ModelProto model, IReadOnlySet<string> weights)
    {
        foreach (
            var node in model.Graph.Node.Where(n =>
                n.OpType == "Constant" && n.Attribute is [{ T: null }] && weights.Contains(n.Output[0])
            )
        )
        {
            node.Attribute[0] = AttributeFormat.ToProto(Attr.Tensor("value", GraphImporter.ConstantOf(node)!));
        }
    }

    /// <summary>
    /// Gives the initializers and Constant nodes of the main graph, under the names that parameters have.
    /// </summary>
    private static IEnumerable<(TensorProto Tensor, string Name)> Tensors(ModelProto model) =>
        model
            .Graph.Initializer.Select(t => (t, t.Name))
            .Concat(
                model
                    .Graph.Node.Where(n => n.OpType == "Constant" && n.Output.Count == 1)
                    .SelectMany(n => n.Attribute.Where(a => a.T is not null).Select(a => (a.T, n.Output[0])))
            );

    private static void Replace(TensorProto proto, Tensor tensor)
    {
        if (!proto.Dims.SequenceEqual(tensor.Dims) || proto.DataType != (int)tensor.Type)
        {
            throw new MacOnnxException(
                "MAC0406",
                proto.Name,
                $"The checkpoint has {tensor} where the model has "
                    + $"{(ElementType)proto.DataType}[{string.Join(',', proto.Dims)}].",
                "Use a checkpoint of this model."
            );
        }

        proto.FloatData.Clear();
        proto.DoubleData.Clear();
        proto.Int32Data.Clear();
        proto.Int64Data.Clear();
        proto.Uint64Data.Clear();
        proto.ExternalData.Clear();
        proto.ClearDataLocation();
        proto.RawData = UnsafeByteOperations.UnsafeWrap(tensor.Data);
    }
}
