using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Artifacts;

/// <summary>The optimizer's state of some parameters in a checkpoint of ONNX Runtime's on-device training.</summary>
/// <param name="Name">The group's name; ONNX Runtime calls its only group <c>group0</c>.</param>
/// <param name="Step">The updates applied.</param>
/// <param name="InitialLearningRate">The learning rate that training started with, 0.001 whatever was set
/// later.</param>
/// <param name="Momentums">For each parameter its state by name: <c>momentum0</c>, the first moment, and
/// <c>momentum1</c>, the second.</param>
public sealed record OrtOptimizerGroup(
    string Name,
    long Step,
    float InitialLearningRate,
    IReadOnlyDictionary<string, IReadOnlyDictionary<string, Tensor>> Momentums
);

/// <summary>
/// A checkpoint of ONNX Runtime's on-device training: a FlatBuffers file (format version 1 or 2, perhaps with external
/// data), or a folder of protobuf sequences, which releases up to 1.15 wrote.
/// </summary>
public sealed record OrtCheckpointFile
{
    /// <summary>Gets the trainable parameters by name, in the file's order.</summary>
    public IReadOnlyDictionary<string, Tensor> Trainable { get; init; } = new Dictionary<string, Tensor>();

    /// <summary>Gets the frozen parameters, and running statistics that were listed as such, by name.</summary>
    public IReadOnlyDictionary<string, Tensor> Frozen { get; init; } = new Dictionary<string, Tensor>();

    /// <summary>Gets the optimizer's state; empty before the first step.</summary>
    public IReadOnlyList<OrtOptimizerGroup> Groups { get; init; } = [];

    /// <summary>Gets the property bag: each value is a <see cref="long"/>, a <see cref="float"/> or a
    /// <see cref="string"/>.</summary>
    public IReadOnlyDictionary<string, object> Properties { get; init; } = new Dictionary<string, object>();

    /// <summary>Gets whether the file is nominal: it holds names and types, and no values.</summary>
    public bool IsNominal { get; init; }

    /// <summary>Gets the values of all parameters by name.</summary>
    public IEnumerable<KeyValuePair<string, Tensor>> Parameters => Trainable.Concat(Frozen);

    /// <summary>Reads a checkpoint.</summary>
    /// <param name="path">The file, or the folder of an older release.</param>
    /// <exception cref="MacOnnxException">It cannot be read (MAC0402) or is damaged or of another kind
    /// (MAC0403).</exception>
    public static OrtCheckpointFile Read(string path) =>
        Directory.Exists(path)
            ? TensorSequences.Read(path)
            : InputFile.Read(
                path,
                "checkpoint of ONNX Runtime",
                stream =>
                {
                    var bytes = InputFile.ReadElements(stream, [stream.Length], 1, stream.Length);
                    return CheckpointTables.Read(bytes, path + CheckpointTables.ExternalSuffix);
                }
            );

    /// <summary>Reads a checkpoint that has no external data.</summary>
    /// <param name="bytes">The file's content.</param>
    /// <exception cref="MacOnnxException">It is damaged or of another kind (MAC0403).</exception>
    public static OrtCheckpointFile Read(byte[] bytes)
    {
        ArgumentNullException.ThrowIfNull(bytes);
        try
        {
            return CheckpointTables.Read(bytes, null);
        }
        catch (InvalidDataException e)
        {
            throw new MacOnnxException(
                "MAC0403",
                "checkpoint",
                $"These are not the bytes of a usable checkpoint of ONNX Runtime: {InputFile.Reason(e)}.",
                "Make the checkpoint again.",
                e
            );
        }
    }

    /// <summary>Writes the checkpoint, complete or not at all, in format version 2, which releases from 1.17 on
    /// read. Tensors beyond 1.8 GB go to a file beside it.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="MacOnnxException">The file cannot be written (MAC0401).</exception>
    public void Write(string path) => CheckpointTables.Write(this, path, CheckpointTables.LargestFile);
}
