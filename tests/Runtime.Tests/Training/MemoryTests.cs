using Google.Protobuf;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using MacOnnx.Runtime.Tests.Support;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Training;

/// <summary>Weights and state go between files and native buffers without copies in managed memory.</summary>
public sealed class MemoryTests : IDisposable
{
    private const int Width = 1024;

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>Weight and momentum are 4 MB each, and pass seven times.</summary>
    [Fact]
    public void LoadingSavingAndExportingCopyNothing()
    {
        var package = _folder.File("m.mac");
        Rewriter.Rewrite(Model(), TinyModel.Options).Package.Save(package);
        GoThrough(package, steps: 1); // what is made once is not counted
        var before = GC.GetAllocatedBytesForCurrentThread();
        var state = GoThrough(package, steps: 0);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 2 << 20);

        // A copy of the state, written, is the file that was written from the buffers.
        var copy = _folder.File("copy.safetensors");
        Safetensors.Write(copy, state(), Safetensors.Read(_folder.File("state.safetensors")).Metadata);
        Assert.True(File.ReadAllBytes(copy).SequenceEqual(File.ReadAllBytes(_folder.File("state.safetensors"))));
        Assert.True(
            File.ReadAllBytes(_folder.File("out.onnx")).AsSpan().IndexOf(state()["w"].Data.Span) > 0,
            "The exported model holds the weights."
        );
    }

    private Func<IReadOnlyDictionary<string, Tensor>> GoThrough(string folder, int steps)
    {
        var (state, onnx) = (_folder.File("state.safetensors"), _folder.File("out.onnx"));
        using var session = new MacTrainingSession(TrainingPackage.Load(folder), o => o.IntraOpNumThreads = 1);
        for (var i = 0; i < steps; i++)
        {
            var x = Tensor.From<float>([4, Width], [.. Enumerable.Range(0, 4 * Width).Select(n => MathF.Sin(n))]);
            using var batch = new TinyBatch([OrtValues.Of(x), OrtValues.Of(x)], [], []);
            session.TrainStep(batch.Values);
            session.OptimizerStep();
            session.SaveCheckpoint(state);
        }

        session.LoadCheckpoint(state);
        session.SaveCheckpoint(state);
        session.ExportInferenceModel(onnx);
        return () => Safetensors.Read(state).Tensors.ToDictionary(t => t.Key, t => Copy(t.Value));

        static Tensor Copy(Tensor tensor) => new(tensor.Type, tensor.Dims, tensor.Data.ToArray());
    }

    private string Model()
    {
        var weights = new float[Width * Width];
        for (var i = 0; i < weights.Length; i++)
        {
            weights[i] = MathF.Sin(0.7f * i) / Width;
        }

        var node = new NodeProto { OpType = "MatMul", Name = "product" };
        node.Input.AddRange(["x", "w"]);
        node.Output.Add("y");
        var w = TensorFormat.ToProto(Tensor.From<float>([Width, Width], weights), "w");
        var graph = new GraphProto { Name = "g" };
        graph.Node.Add(node);
        graph.Initializer.Add(w);
        var dims = new DeclaredDim[] { new(4, null), new(Width, null) };
        graph.Input.Add(DeclarationFormat.ToProto("x", ElementType.Float, dims));
        graph.Output.Add(DeclarationFormat.ToProto("y", ElementType.Float, dims));
        var model = new ModelProto { IrVersion = 10, Graph = graph };
        model.OpsetImport.Add(new OperatorSetIdProto { Version = 21 });
        var path = _folder.File("m.onnx");
        File.WriteAllBytes(path, model.ToByteArray());
        return path;
    }
}
