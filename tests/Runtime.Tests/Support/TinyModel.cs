using Google.Protobuf;
using MacOnnx.GraphRewriter;
using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;
using Microsoft.ML.OnnxRuntime;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.Runtime.Tests.Support;

/// <summary>Models of one layer, three inputs to two outputs.</summary>
internal sealed class TinyModel(ModelProto model, ElementType type, bool isClassifier, bool hasTarget)
{
    /// <summary>Mean squared error, MAC in every step.</summary>
    public static RewriteOptions Options { get; } =
        new()
        {
            Loss = LossKind.Mse,
            Hyperparameters = new()
            {
                LearningRate = 0.05f,
                StatEvery = 1,
                RefreshEvery = 1,
            },
        };

    /// <summary>output = x weight, perhaps behind a Dropout of x.</summary>
    public static TinyModel Dense(
        string weight,
        string output,
        ElementType type = ElementType.Float,
        bool dropout = false
    )
    {
        NodeProto[] nodes = dropout
            ? [Node("Dropout", ["x", "ratio", "training"], "dropped"), Node("MatMul", ["dropped", weight], output)]
            : [Node("MatMul", ["x", weight], output)];
        var model = Model(nodes, Info(output, type, -1, 2), type, (weight, Weights(type)));
        if (dropout)
        {
            model.Graph.Initializer.Add(TensorFormat.ToProto(Tensor.From<float>([], [0.5f]), "ratio"));
            model.Graph.Initializer.Add(TensorFormat.ToProto(Tensor.From<bool>([], [true]), "training"));
        }

        return new(model, type, false, true);
    }

    /// <summary>
    /// y = (x w without half of its elements), or 2 x w where all of x is negative: an If, whose branches the data
    /// choose.
    /// </summary>
    public static TinyModel BranchDropout()
    {
        GraphProto Branch(string name, params NodeProto[] nodes)
        {
            var graph = new GraphProto { Name = name };
            graph.Node.AddRange(nodes);
            graph.Output.Add(
                new ValueInfoProto { Name = nodes[^1].Output[0], Type = Info("y", ElementType.Float, -1, 2).Type }
            );
            return graph;
        }

        AttributeProto Subgraph(string name, GraphProto graph) =>
            new()
            {
                Name = name,
                Type = AttributeProto.Types.AttributeType.Graph,
                G = graph,
            };
        var choice = Node("If", ["positive"], "y");
        choice.Attribute.Add([
            Subgraph("then_branch", Branch("then", Node("Dropout", ["product", "ratio", "training"], "dropped"))),
            Subgraph("else_branch", Branch("else", Node("Add", ["product", "product"], "twice"))),
        ]);
        var largest = Node("ReduceMax", ["x"], "largest");
        largest.Attribute.Add(
            new AttributeProto
            {
                Name = "keepdims",
                I = 0,
                Type = AttributeProto.Types.AttributeType.Int,
            }
        );
        var model = Model(
            [Node("MatMul", ["x", "w"], "product"), largest, Node("Greater", ["largest", "zero"], "positive"), choice],
            Info("y", ElementType.Float, -1, 2),
            ElementType.Float,
            ("w", Weights(ElementType.Float)),
            ("zero", Tensor.From<float>([], [0])),
            ("ratio", Tensor.From<float>([], [0.5f])),
            ("training", Tensor.From<bool>([], [true]))
        );
        return new(model, ElementType.Float, false, true);
    }

    /// <summary>y = x w[:, 2:4] + tanh(x) w[:, 0:2].</summary>
    public static TinyModel Sliced()
    {
        var model = Model(
            [
                Node("Slice", ["w", "two", "four", "one"], "late"),
                Node("Slice", ["w", "zero", "two", "one"], "early"),
                Node("Tanh", ["x"], "bent"),
                Node("MatMul", ["x", "late"], "left"),
                Node("MatMul", ["bent", "early"], "right"),
                Node("Add", ["left", "right"], "y"),
            ],
            Info("y", ElementType.Float, -1, 2),
            ElementType.Float,
            ("w", Tensor.From<float>([3, 4], [.. Enumerable.Range(1, 12).Select(i => 0.1f * i)])),
            ("zero", Tensor.From<long>([1], [0])),
            ("one", Tensor.From<long>([1], [1])),
            ("two", Tensor.From<long>([1], [2])),
            ("four", Tensor.From<long>([1], [4]))
        );
        return new(model, ElementType.Float, false, true);
    }

    /// <summary>y = x w, with another number of inputs.</summary>
    public static TinyModel Wide(int inputs)
    {
        var model = Model(
            [Node("MatMul", ["x", "w"], "y")],
            Info("y", ElementType.Float, -1, 2),
            ElementType.Float,
            ("w", Tensor.From<float>([inputs, 2], new float[2 * inputs]))
        );
        model.Graph.Input[0] = Info("x", ElementType.Float, -1, inputs);
        return new(model, ElementType.Float, false, true);
    }

    /// <summary>y = x w + c for 4 samples, with c of other dimensions than a bias has.</summary>
    public static TinyModel Gemm(long[] c) =>
        new(
            Model(
                [Node("Gemm", ["x", "w", "c"], "y")],
                Info("y", ElementType.Float, 4, 2),
                ElementType.Float,
                ("w", Weights(ElementType.Float)),
                ("c", Tensor.From<float>(c, [.. Enumerable.Range(0, (int)Tensor.CountOf(c)).Select(i => 0.1f * i)]))
            ),
            ElementType.Float,
            false,
            true
        );

    /// <summary>loss = mean of (x w)^2, with given dimensions.</summary>
    public static TinyModel OwnLoss(long[] dims)
    {
        var model = Model(
            [
                Node("MatMul", ["x", "w"], "y"),
                Node("Mul", ["y", "y"], "square"),
                Node("ReduceMean", ["square"], "mean"),
                Node("Reshape", ["mean", "dims"], "loss"),
            ],
            Info("loss", ElementType.Float, dims),
            ElementType.Float,
            ("w", Weights(ElementType.Float))
        );
        model.Graph.Initializer.Add(TensorFormat.ToProto(Tensor.From<long>([dims.Length], dims), "dims"));
        return new(model, ElementType.Float, false, false);
    }

    /// <summary>y = x w sin(x w), by an operator of domain com.example.</summary>
    public static TinyModel Swirl()
    {
        var swirl = Node("Swirl", ["h"], "y");
        swirl.Domain = "com.example";
        var model = Model(
            [Node("MatMul", ["x", "w"], "h"), swirl],
            Info("y", ElementType.Float, -1, 2),
            ElementType.Float,
            ("w", Weights(ElementType.Float))
        );
        model.OpsetImport.Add(new OperatorSetIdProto { Domain = "com.example", Version = 1 });
        return new(model, ElementType.Float, false, true);
    }

    /// <summary>logits = x w.</summary>
    public static TinyModel Classifier()
    {
        var dense = Dense("w", "logits");
        return new(dense.Proto, ElementType.Float, true, true);
    }

    private ModelProto Proto { get; } = model;

    /// <summary>Writes the model; gives the file.</summary>
    public string Save(TempFolder folder)
    {
        var path = folder.File($"tiny-{Guid.NewGuid():N}.onnx");
        File.WriteAllBytes(path, Proto.ToByteArray());
        return path;
    }

    /// <summary>Makes a batch: the model's input, then the target.</summary>
    public TinyBatch Batch(int samples, long[]? labels = null, int from = 0, float scale = 1)
    {
        double[] x = [.. Enumerable.Range(from * 3, samples * 3).Select(i => scale * (0.4 + Math.Sin((i * 1.7) + 1)))];
        double[] target = [.. Enumerable.Range(from * 2, samples * 2).Select(i => scale * Math.Cos(i * 0.9))];
        var input = Numbers([samples, 3], x, type);
        Tensor[] tensors =
            !hasTarget ? [input]
            : isClassifier ? [input, Tensor.From<long>([samples], labels ?? [.. Enumerable.Repeat(0L, samples)])]
            : [input, Numbers([samples, 2], target, ElementType.Float)];
        return new([.. tensors.Select(OrtValues.Of)], input.ToDouble(), [.. target.Select(t => (double)(float)t)]);
    }

    private static Tensor Weights(ElementType type) => Numbers([3, 2], [0.3, -0.2, 0.5, 0.1, -0.4, 0.7], type);

    private static Tensor Numbers(long[] dims, double[] values, ElementType type) =>
        type switch
        {
            ElementType.Float16 => Tensor.From<Half>(dims, [.. values.Select(v => (Half)v)]),
            ElementType.Double => Tensor.From<double>(dims, values),
            _ => Tensor.From<float>(dims, [.. values.Select(v => (float)v)]),
        };

    private static ModelProto Model(
        NodeProto[] nodes,
        ValueInfoProto output,
        ElementType type,
        params (string Name, Tensor Tensor)[] weights
    )
    {
        var graph = new GraphProto { Name = "tiny" };
        graph.Node.AddRange(nodes);
        graph.Input.Add(Info("x", type, output.Type.TensorType.Shape.Dim is [{ DimValue: 4 }, ..] ? 4 : -1, 3));
        graph.Output.Add(output);
        graph.Initializer.AddRange(weights.Select(w => TensorFormat.ToProto(w.Tensor, w.Name)));
        var model = new ModelProto { IrVersion = 10, Graph = graph };
        model.OpsetImport.Add(new OperatorSetIdProto { Version = 21 });
        return model;
    }

    private static NodeProto Node(string op, string[] inputs, string output)
    {
        var node = new NodeProto { OpType = op, Name = $"{op}_{output}" };
        node.Input.AddRange(inputs);
        node.Output.Add(output);
        if (op == "ReduceMean")
        {
            node.Attribute.Add(
                new AttributeProto
                {
                    Name = "keepdims",
                    Type = AttributeProto.Types.AttributeType.Int,
                    I = 0,
                }
            );
        }

        return node;
    }

    private static ValueInfoProto Info(string name, ElementType type, params long[] dims)
    {
        var shape = new TensorShapeProto();
        shape.Dim.AddRange(
            dims.Select(d =>
                d < 0
                    ? new TensorShapeProto.Types.Dimension { DimParam = "batch" }
                    : new TensorShapeProto.Types.Dimension { DimValue = d }
            )
        );
        var tensor = new TypeProto.Types.Tensor { ElemType = (int)type, Shape = shape };
        return new ValueInfoProto
        {
            Name = name,
            Type = new TypeProto { TensorType = tensor },
        };
    }
}

/// <summary>A batch for a <see cref="TinyModel"/>; owns its native values.</summary>
/// <param name="Values">The values, in the order of a session's inputs.</param>
/// <param name="X">The input's elements.</param>
/// <param name="Target">The target's elements.</param>
internal sealed record TinyBatch(OrtValue[] Values, double[] X, double[] Target) : IDisposable
{
    public void Dispose() => Array.ForEach(Values, v => v.Dispose());
}
