using Google.Protobuf;
using MacOnnx.GraphRewriter.Bindings;
using MacOnnx.GraphRewriter.Export;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Tests.Support;

namespace MacOnnx.GraphRewriter.Tests.Import;

/// <summary>Models that were read and written back, or rewritten and exported, are the same models.</summary>
public sealed class RoundTripTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>
    /// Operators are brought to a later operator set, with the same arithmetic: only the order of float32 sums may
    /// differ.
    /// </summary>
    [Theory]
    [InlineData("digits-mlp.onnx")]
    [InlineData("digits-cnn.onnx")]
    [InlineData("fashion-cnn.onnx")]
    [InlineData("shared/pytorch-models/mlp/ts_train_op13.onnx")]
    [InlineData("shared/pytorch-models/mlp_activations/ts_train_op18.onnx")]
    [InlineData("shared/pytorch-models/cnn_variety/dynamo_eval_op20.onnx")]
    [InlineData("shared/pytorch-models/cnn_norms/ts_train_op17.onnx")] // An If, and a reduction over all axes.
    [InlineData("shared/pytorch-models/cnn_norms/dynamo_eval_op21.onnx")]
    [InlineData("shared/pytorch-models/lstm/ts_train_op17.onnx")]
    [InlineData("shared/pytorch-models/siamese/ts_train_op17.onnx")]
    [InlineData("shared/pytorch-models/spatial_transformer/ts_train_op20.onnx")]
    [InlineData("shared/pytorch-models/bert/ts_eval_op17.onnx")]
    [InlineData("shared/pytorch-models/resnet_basic/dynamo_raw_op20.onnx")]
    public void ReadAndWrittenBackAModelComputesTheSame(string name)
    {
        var path = Repository.Model(name);
        var original = File.ReadAllBytes(path);
        var model = ModelReader.Read(path);
        ModelReader.Normalize(model, path);
        var written = ModelWriter.ToBytes(GraphImporter.Import(model, path));
        var inputs = Onnx.Inputs(original);
        Onnx.Equal(Onnx.Run(original, inputs), Onnx.Run(written, inputs), 1e-6);
    }

    [Fact]
    public void NamesDocStringsAndMetadataSurvive()
    {
        var node = Onnx.Node("Relu", ["x"], ["y"]);
        node.DocString = "from line 7";
        node.MetadataProps.Add(new StringStringEntryProto { Key = "scope", Value = "layer1" });
        var model = Onnx.Model(
            Onnx.Graph([node], [Onnx.Info("x", ElementType.Float, -1, 3)], [Onnx.Info("y", ElementType.Float, -1, 3)])
        );
        model.Graph.Input[0].DocString = "pixels";
        var written = ModelWriter.ToProto(GraphImporter.Import(model, "m.onnx"));
        Assert.Equal(model.Graph.Node[0], written.Graph.Node[0]);
        Assert.Equal(model.Graph.Input[0], written.Graph.Input[0]);
        Assert.Equal(model.Graph.Output[0], written.Graph.Output[0]);
    }

    /// <summary>A model in inference mode comes out as the same file, up to how tensors are stored.</summary>
    [Theory]
    [InlineData("digits-mlp.onnx", LossKind.CrossEntropy)]
    [InlineData("shared/pytorch-models/mlp_tabular/ts_eval_op17.onnx", LossKind.Mse)]
    [InlineData("shared/pytorch-models/cnn_variety/ts_eval_op14.onnx", LossKind.CrossEntropy)]
    [InlineData("shared/pytorch-models/cnn_variety/dynamo_eval_op20.onnx", LossKind.CrossEntropy)]
    [InlineData("shared/pytorch-models/siamese/dynamo_eval_op20.onnx", LossKind.Output)]
    public void ExportedWithoutTrainingAModelIsItself(string name, LossKind loss)
    {
        var path = Repository.Model(name);
        var (package, _) = Rewriter.Rewrite(path, new() { Loss = loss });
        package.ExportInferenceModel(_folder.File("trained.onnx"), package.Weights);
        var (original, exported) = (ModelReader.Read(path), ModelReader.Read(_folder.File("trained.onnx")));
        foreach (var (was, now) in Tensors(original).Zip(Tensors(exported), (a, b) => (a, b)))
        {
            Assert.Equal(was.Name, now.Name);
            Assert.Equal(TensorFormat.FromProto(was).Data.ToArray(), TensorFormat.FromProto(now).Data.ToArray());
            now.ClearRawData();
            was.ClearRawData();
            was.FloatData.Clear();
        }

        Assert.Equal(original, exported);
    }

    /// <summary>
    /// A model in training mode is exported in inference mode: as the evaluation graph, made on another way, computes
    /// it.
    /// </summary>
    [Theory]
    [InlineData("digits-cnn.onnx", LossKind.CrossEntropy)]
    [InlineData("shared/pytorch-models/cnn_variety/ts_train_op17.onnx", LossKind.CrossEntropy)]
    [InlineData("shared/pytorch-models/mlp_tabular/ts_train_op15.onnx", LossKind.Mse)]
    [InlineData("shared/mac-vectors/cnn_op14_dyn.onnx", LossKind.CrossEntropy)]
    public void ExportLeavesTrainingMode(string name, LossKind loss)
    {
        var path = Repository.Model(name);
        var (package, _) = Rewriter.Rewrite(path, new() { Loss = loss });
        package.ExportInferenceModel(_folder.File("trained.onnx"), package.Weights);
        var (original, exported) = (ModelReader.Read(path), ModelReader.Read(_folder.File("trained.onnx")));
        Assert.Equal(original.OpsetImport, exported.OpsetImport);
        Assert.Equal(original.Graph.Input, exported.Graph.Input);
        Assert.Equal(original.Graph.Output, exported.Graph.Output);
        Assert.Equal(original.Graph.Node.Select(n => n.Name), exported.Graph.Node.Select(n => n.Name));
        Assert.Equal(original.MetadataProps, exported.MetadataProps);
        var bytes = exported.ToByteArray();
        var inputs = Onnx.Inputs(bytes);
        var found = Onnx.Run(bytes, inputs);
        var evaluation = ModelReader.Read(_folder.File("eval.onnx", package.Model(PackageFiles.Evaluation).ToArray()));
        foreach (var output in evaluation.Graph.Output.Where(o => !found.ContainsKey(o.Name)).ToArray())
        {
            evaluation.Graph.Output.Remove(output);
        }

        Onnx.Equal(
            Onnx.Run(
                evaluation.ToByteArray(),
                inputs.Concat(package.Weights).Append(new("labels", Labels(package))).ToDictionary()
            ),
            found,
            1e-6
        );
    }

    private static Tensor Labels(TrainingPackage package)
    {
        long[] dims = [.. package.Manifest.Target!.Dims.Select(d => d < 0 ? 4 : d)];
        return package.Manifest.Target.Type == ElementType.Int64
            ? Tensor.From<long>(dims, new long[Tensor.CountOf(dims)])
            : Onnx.Floats(dims);
    }

    private static IEnumerable<TensorProto> Tensors(ModelProto model) =>
        model.Graph.Initializer.Concat(
            model.Graph.Node.SelectMany(n => n.Attribute).Where(a => a.T is not null).Select(a => a.T)
        );
}
