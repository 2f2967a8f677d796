using Google.Protobuf;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ops;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// Reads a model file and brings it to the form that the other stages expect: functions inlined, one operator set
/// version.
/// </summary>
internal static class ModelReader
{
    /// <summary>Reads a file as it is.</summary>
    public static ModelProto Read(string path)
    {
        try
        {
            return Parse(path, () => ModelFile.Read(path));
        }
        catch (InvalidDataException e)
        {
            throw Damaged(path, e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new MacOnnxException("MAC0002", path, $"The file cannot be read: {e.Message}", "Check the path.", e);
        }
    }

    /// <summary>Reads a model that a package holds.</summary>
    /// <param name="bytes">The model.</param>
    /// <param name="name">The file, for messages.</param>
    public static ModelProto Read(ReadOnlySpan<byte> bytes, string name)
    {
        var copy = bytes.ToArray();
        RefuseOrtFormat(copy, name);
        return Parse(name, () => ModelProto.Parser.ParseFrom(copy));
    }

    /// <summary>Refuses ONNX Runtime's own format, which graphs cannot be read from without that runtime.</summary>
    /// <param name="bytes">The file, or its first bytes.</param>
    /// <param name="path">The file's name, for messages.</param>
    public static void RefuseOrtFormat(ReadOnlySpan<byte> bytes, string path)
    {
        if (bytes.Length >= 8 && bytes[4..8].SequenceEqual("ORTM"u8))
        {
            throw new MacOnnxException(
                "MAC0016",
                path,
                "The file is in ONNX Runtime's own format (.ort), not in ONNX's.",
                "Use the .onnx model that it was converted from."
            );
        }
    }

    /// <summary>Inlines functions and upgrades operators; changes <paramref name="model"/>.</summary>
    public static void Normalize(ModelProto model, string path)
    {
        var version = OpsetOf(model.OpsetImport);
        var target = Math.Max(version, OpsetUpgrade.Target);
        OpsetUpgrade.Apply(model.Graph, version, path);
        foreach (var function in model.Functions)
        {
            var own = OpsetOf(function.OpsetImport);
            OpsetUpgrade.Apply(function, own == 0 ? version : own, path);
        }

        FunctionInliner.Apply(model, path);
        foreach (var opset in model.OpsetImport.Where(o => o.Domain is "" or "ai.onnx"))
        {
            opset.Version = target;
        }
    }

    /// <summary>Gives the version of ai.onnx, 0 for none.</summary>
    public static long OpsetOf(IEnumerable<OperatorSetIdProto> opsets) =>
        opsets.Where(o => o.Domain is "" or "ai.onnx").Select(o => o.Version).DefaultIfEmpty(0).Max();

    private static ModelProto Parse(string path, Func<ModelProto> parse)
    {
        try
        {
            return Check(parse(), path);
        }
        catch (Exception e) when (e is InvalidProtocolBufferException or ArgumentException)
        {
            throw Damaged(path, e);
        }
    }

    private static MacOnnxException Damaged(string path, Exception e) =>
        new("MAC0001", path, "This is not an ONNX model, or it is cut off.", "Export or copy the model again.", e);

    private static ModelProto Check(ModelProto model, string path)
    {
        if (model.Graph is null || model.OpsetImport.Count == 0)
        {
            throw new MacOnnxException(
                "MAC0001",
                path,
                "This is not an ONNX model: it has no graph.",
                "Export the model again."
            );
        }

        var version = OpsetOf(model.OpsetImport);
        if (version == 0 && !model.Graph.Node.Any(n => n.Domain is "" or "ai.onnx"))
        {
            // Without operators of ai.onnx no operator set need be named.
            version = OpsetUpgrade.Target;
            model.OpsetImport.Add(new OperatorSetIdProto { Version = version });
        }

        if (version < OperatorSets.Oldest)
        {
            throw new MacOnnxException(
                "MAC0003",
                path,
                $"The model uses operator set {version}; {OperatorSets.Oldest} to {OperatorSets.Newest} are supported.",
                $"Export it with opset_version={OperatorSets.Oldest} or later, or convert it with "
                    + "onnx.version_converter."
            );
        }

        if (version > OperatorSets.Newest)
        {
            throw new MacOnnxException(
                "MAC0003",
                path,
                $"The model uses operator set {version}; {OperatorSets.Oldest} to {OperatorSets.Newest} are supported.",
                $"Export it with opset_version={OperatorSets.Newest} or earlier."
            );
        }

        if (model.Graph.SparseInitializer.Count > 0)
        {
            throw new MacOnnxException(
                "MAC0004",
                path,
                $"The sparse initializer '{model.Graph.SparseInitializer[0].Values?.Name}' is not supported.",
                "Store it as a dense tensor."
            );
        }

        return model;
    }
}
