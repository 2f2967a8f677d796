using MacOnnx.GraphRewriter.Import;
using MacOnnx.GraphRewriter.Import.Proto;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Tensor = MacOnnx.GraphRewriter.Ir.Tensor;

namespace MacOnnx.GraphRewriter.Tests.Support;

/// <summary>Makes small models and runs models on ONNX Runtime.</summary>
internal static class Onnx
{
    public static NodeProto Node(string op, string[] inputs, string[] outputs, params Attr[] attributes) =>
        Node("", op, inputs, outputs, attributes);

    public static NodeProto Node(string domain, string op, string[] inputs, string[] outputs, params Attr[] attributes)
    {
        var node = new NodeProto
        {
            OpType = op,
            Name = $"{op}_{string.Join('_', outputs)}",
            Domain = domain,
        };
        node.Input.AddRange(inputs);
        node.Output.AddRange(outputs);
        node.Attribute.AddRange(attributes.Select(AttributeFormat.ToProto));
        return node;
    }

    /// <summary>Declares a value; a negative size is a dimension called by its number, such as D1.</summary>
    public static ValueInfoProto Info(string name, ElementType type, params long[] dims)
    {
        var shape = new TensorShapeProto();
        shape.Dim.AddRange(
            dims.Select(d =>
                d < 0
                    ? new TensorShapeProto.Types.Dimension { DimParam = $"D{-d}" }
                    : new TensorShapeProto.Types.Dimension { DimValue = d }
            )
        );
        return new ValueInfoProto
        {
            Name = name,
            Type = new TypeProto
            {
                TensorType = new TypeProto.Types.Tensor { ElemType = (int)type, Shape = shape },
            },
        };
    }

    public static GraphProto Graph(
        NodeProto[] nodes,
        ValueInfoProto[] inputs,
        ValueInfoProto[] outputs,
        params (string Name, Tensor Tensor)[] constants
    )
    {
        var graph = new GraphProto { Name = "g" };
        graph.Node.AddRange(nodes);
        graph.Input.AddRange(inputs);
        graph.Output.AddRange(outputs);
        graph.Initializer.AddRange(constants.Select(c => TensorFormat.ToProto(c.Tensor, c.Name)));
        return graph;
    }

    /// <summary>Makes an attribute of a graph that is not read yet.</summary>
    public static Attr Subgraph(string name, GraphProto graph) =>
        new(
            name,
            new AttributeProto
            {
                Name = name,
                Type = AttributeProto.Types.AttributeType.Graph,
                G = graph,
            }
        );

    public static ModelProto Model(GraphProto graph, long opset = 21, params FunctionProto[] functions)
    {
        var model = new ModelProto { IrVersion = 10, Graph = graph };
        model.OpsetImport.Add(new OperatorSetIdProto { Domain = "", Version = opset });
        model.OpsetImport.AddRange(
            graph
                .Node.Select(n => n.Domain)
                .Concat(functions.Select(f => f.Domain))
                .Where(d => d.Length > 0)
                .Distinct()
                .Select(d => new OperatorSetIdProto { Domain = d, Version = 1 })
        );
        model.Functions.AddRange(functions);
        return model;
    }

    /// <summary>Gives numbers that look random and are the same in every run.</summary>
    public static Tensor Floats(params long[] dims) =>
        Tensor.From<float>(
            dims,
            [.. Enumerable.Range(0, (int)Tensor.CountOf(dims)).Select(i => MathF.Sin((i * 1.7f) + (i * i * 0.1f)))]
        );

    public static Tensor Ints(params long[] values) => Tensor.From<long>([values.Length], values);

    /// <summary>Runs a model without optimization.</summary>
    /// <returns>The outputs by name.</returns>
    public static Dictionary<string, Tensor> Run(byte[] model, IReadOnlyDictionary<string, Tensor> inputs)
    {
        using var options = Options();
        using var session = new InferenceSession(model, options);
        return Run(session, inputs);
    }

    /// <summary>Loads a model to be run without optimization.</summary>
    public static InferenceSession Session(byte[] model)
    {
        using var options = Options();
        return new InferenceSession(model, options);
    }

    /// <summary>Runs a model file without optimization; external data are found beside it.</summary>
    public static Dictionary<string, Tensor> Run(string path, IReadOnlyDictionary<string, Tensor> inputs)
    {
        using var options = Options();
        using var session = new InferenceSession(path, options);
        return Run(session, inputs);
    }

    /// <summary>Makes inputs for a model: floats, or integers from 0 to 1; dynamic sizes are 4.</summary>
    public static Dictionary<string, Tensor> Inputs(byte[] model)
    {
        using var options = Options();
        using var session = new InferenceSession(model, options);
        return session.InputMetadata.ToDictionary(
            i => i.Key,
            i =>
            {
                long[] dims = [.. i.Value.Dimensions.Select(d => d < 0 ? 4L : d)];
                var count = (int)Tensor.CountOf(dims);
                return i.Value.ElementDataType switch
                {
                    TensorElementType.Float => Floats(dims),
                    TensorElementType.Int64 => Tensor.From<long>(
                        dims,
                        [.. Enumerable.Range(0, count).Select(n => (long)(n % 2))]
                    ),
                    var type => throw new NotSupportedException($"{type}"),
                };
            }
        );
    }

    public static void Equal(
        IReadOnlyDictionary<string, Tensor> expected,
        IReadOnlyDictionary<string, Tensor> found,
        double tolerance
    )
    {
        Assert.Equal(expected.Keys.Order(), found.Keys.Order());
        foreach (var (name, tensor) in expected)
        {
            Assert.Equal(tensor.ToString(), found[name].ToString());
            if (!tensor.Type.IsFloatingPoint())
            {
                Assert.Equal(tensor.Data.ToArray(), found[name].Data.ToArray());
                continue;
            }

            var scale = Math.Max(1, tensor.ToDouble().Select(Math.Abs).DefaultIfEmpty().Max());
            Assert.All(
                tensor.ToDouble().Zip(found[name].ToDouble()),
                p => Assert.Equal(p.First, p.Second, tolerance * scale)
            );
        }
    }

    public static SessionOptions Options() =>
        new()
        {
            GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
            LogSeverityLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL,
            IntraOpNumThreads = 1,
        };

    /// <summary>Runs a session.</summary>
    public static Dictionary<string, Tensor> Run(InferenceSession session, IReadOnlyDictionary<string, Tensor> inputs)
    {
        var feeds = inputs
            .Where(i => session.InputMetadata.ContainsKey(i.Key))
            .ToDictionary(i => i.Key, i => OrtValues.Of(i.Value));
        try
        {
            using var run = new RunOptions();
            using var results = session.Run(run, feeds, session.OutputNames);
            return session
                .OutputNames.Zip(results)
                .ToDictionary(
                    r => r.First,
                    r =>
                    {
                        var info = r.Second.GetTensorTypeAndShape();
                        return new Tensor(
                            (ElementType)(int)info.ElementDataType,
                            [.. info.Shape],
                            r.Second.GetTensorMutableRawData().ToArray()
                        );
                    }
                );
        }
        finally
        {
            foreach (var value in feeds.Values)
            {
                value.Dispose();
            }
        }
    }
}
