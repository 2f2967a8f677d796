using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>
/// A model with quantized numbers while <see cref="Dequantization"/> changes it: its constants, what its integers stand
/// for, and the nodes that take the place of others.
/// </summary>
internal sealed class QuantizedModel
{
    public const string Contrib = "com.microsoft";

    /// <summary>The ending that ONNX Runtime's quantizer gives to the names of weights.</summary>
    private const string Ending = "_quantized";

    private readonly GraphProto _graph;
    private readonly HashSet<string> _taken;
    private readonly Dictionary<string, TensorProto> _tensors = new(StringComparer.Ordinal);
    private readonly Dictionary<string, NodeProto> _producers = new(StringComparer.Ordinal);
    private readonly ILookup<string, NodeProto> _readers;
    private readonly Dictionary<(string, string, string, long, long), string> _folded = [];
    private readonly HashSet<NodeProto> _replaced = [];
    private readonly List<NodeProto> _nodes = [];

    public QuantizedModel(ModelProto model)
    {
        _graph = model.Graph;
        _taken = SharedInitializers.Names(_graph).ToHashSet(StringComparer.Ordinal);
        foreach (var tensor in _graph.Initializer)
        {
            _tensors.TryAdd(tensor.Name, tensor);
        }

        foreach (var node in _graph.Node)
        {
            if (node is { OpType: "Constant", Attribute: [{ Name: "value" } value] } && node.Output.Count == 1)
            {
                _tensors.TryAdd(node.Output[0], value.T);
            }

            foreach (var output in node.Output)
            {
                _producers[output] = node;
            }
        }

        _readers = _graph.Node.SelectMany(n => n.Input.Select(i => (i, n))).ToLookup(p => p.i, p => p.n);
    }

    /// <summary>Gets the scale and the zero point of each value that is quantized.</summary>
    public Dictionary<string, (string Scale, string Zero)> Units { get; } = new(StringComparer.Ordinal);

    /// <summary>Gets the nodes as they were.</summary>
    public NodeProto[] Old => [.. _graph.Node];

    /// <summary>Gives the node that computes a value; null for none.</summary>
    public NodeProto? Producer(string name) => _producers.GetValueOrDefault(name);

    /// <summary>Whether one input of one node is all that reads a value.</summary>
    public bool IsReadOnce(string name) => _readers[name].Count() == 1;

    /// <summary>Adds a node behind those before.</summary>
    public void Add(NodeProto node) => _nodes.Add(node);

    /// <summary>Lets nodes go that nothing else reads.</summary>
    public void Drop(params ReadOnlySpan<NodeProto> nodes) => _replaced.UnionWith(nodes.ToArray());

    /// <summary>Puts the new nodes in the place of the old ones.</summary>
    public void Finish(ModelProto model)
    {
        _graph.Node.Clear();
        _graph.Node.AddRange(_nodes);
        Prune();

        // Dequantization per axis is part of ai.onnx since 13, and of com.microsoft since 1.
        if (_nodes.Any(n => n.Domain == Contrib) && model.OpsetImport.All(o => o.Domain != Contrib))
        {
            model.OpsetImport.Add(new OperatorSetIdProto { Domain = Contrib, Version = 1 });
        }
    }

    /// <summary>Gives what an input stands for: a folded weight, or the value dequantized.</summary>
    public string Real(NodeProto node, int input, int scale, int zero, long axis = 1)
    {
        if (Folded(node, input, scale, zero, axis, 0) is { } weight)
        {
            return weight;
        }

        return Dequantized(node.Input[input], node.Input[scale], Input(node, zero));
    }

    public string Dequantized(string value, string scale, string zero)
    {
        string[] inputs = zero.Length > 0 ? [value, scale, zero] : [value, scale];
        var output = Fresh($"{value}/dequantized");
        _nodes.Add(Node("", "DequantizeLinear", inputs, output));
        return output;
    }

    /// <summary>Gives a value rounded to 8 bits by its own range, and back.</summary>
    public string Rounded(string value)
    {
        var (rounded, scale, zero) = (Fresh($"{value}/rounded"), Fresh($"{value}/scale"), Fresh($"{value}/zero"));
        var node = Node("", "DynamicQuantizeLinear", [value], rounded);
        node.Output.Add([scale, zero]);
        _nodes.Add(node);
        return Dequantized(rounded, scale, zero);
    }

    /// <summary>Gives the initializer of a weight that is stored as integers; null where it is none.</summary>
    public string? Folded(NodeProto node, int input, int scale, int zero, long axis, long block)
    {
        var (name, scaleName, zeroName) = (node.Input[input], node.Input[scale], Input(node, zero));
        if (_folded.TryGetValue((name, scaleName, zeroName, axis, block), out var known))
        {
            return known;
        }

        if (
            Integers(name) is not { } values
            || Floats(scaleName) is not { } scales
            || (zeroName.Length > 0 && Integers(zeroName) is null)
        )
        {
            return null;
        }

        var zeros = zeroName.Length > 0 ? Integers(zeroName)!.Values : null;
        var weight = values.Dequantize(scales, zeros, (int)axis, block, name);
        return _folded[(name, scaleName, zeroName, axis, block)] = AddWeight(name, weight);
    }

    /// <summary>Adds a float weight in the place of integers.</summary>
    public string AddWeight(string name, Tensor weight)
    {
        var fresh = Fresh(name.EndsWith(Ending, StringComparison.Ordinal) ? name[..^Ending.Length] : $"{name}/float");
        _graph.Initializer.Add(TensorFormat.ToProto(weight, fresh));
        return fresh;
    }

    /// <summary>Gives the bias of a convolution: integers in units of the scales of input and weight.</summary>
    public string[] Bias(NodeProto node, int input)
    {
        if (Input(node, input) is not { Length: > 0 } name)
        {
            return [];
        }

        return [Bias(name, node.Input[1], node.Input[4], 1)];
    }

    public string Bias(string name, string firstScale, string secondScale, double factor)
    {
        if (Integers(name) is { } bias && Floats(firstScale) is { } first && Floats(secondScale) is { } second)
        {
            double[] units = [.. second.ToDouble().Select(s => s * first.ToDouble()[0] * factor)];
            float[] values =
            [
                .. bias.Values.Select((v, i) => (float)(v * units[units.Length == 1 ? 0 : i % units.Length])),
            ];
            return AddWeight(name, Ir.Tensor.From<float>(bias.Dims, values));
        }

        var scale = Fresh($"{name}/scale");
        _nodes.Add(Node("", "Mul", [firstScale, secondScale], scale));
        return Dequantized(name, scale, "");
    }

    /// <summary>Emits the quantization of a float result to the node's own output.</summary>
    public void Quantize(NodeProto node, string result, int scale, int zero)
    {
        var (scaleName, zeroName) = (node.Input[scale], Input(node, zero));
        string[] inputs = zeroName.Length > 0 ? [result, scaleName, zeroName] : [result, scaleName];
        _nodes.Add(Node("", "QuantizeLinear", inputs, node.Output[0]));
        Units[node.Output[0]] = (scaleName, zeroName);
    }

    /// <summary>Emits the sum of a result and an optional bias to the node's own output.</summary>
    public void Sum(NodeProto node, string result, int bias) =>
        _nodes.Add(
            Input(node, bias) is { Length: > 0 } added
                ? Node("", "Add", [result, added], node.Output[0])
                : Node("", "Identity", [result], node.Output[0])
        );

    /// <summary>Makes a node's readers read another value.</summary>
    public bool Rename(NodeProto node, string value)
    {
        if (_graph.Output.Any(o => o.Name == node.Output[0]))
        {
            _nodes.Add(Node("", "Identity", [value], node.Output[0]));
            return true;
        }

        foreach (var reader in _readers[node.Output[0]])
        {
            for (var i = 0; i < reader.Input.Count; i++)
            {
                reader.Input[i] = reader.Input[i] == node.Output[0] ? value : reader.Input[i];
            }
        }

        // Subgraphs read the value by its name.
        if (Captured().Contains(node.Output[0]))
        {
            _nodes.Add(Node("", "Identity", [value], node.Output[0]));
        }

        return true;
    }

    /// <summary>Emits a float operator in the place of a node, with the attributes that both have.</summary>
    public string Emit(string domain, string op, NodeProto? node, string[] inputs)
    {
        var output = Fresh($"{node?.Output[0] ?? inputs[^1]}/real");
        var made = Node(domain, op, inputs, output);
        if (node is not null)
        {
            made.Name = node.Name;
            made.Attribute.Add(node.Attribute.Where(a => a.Name is not ("channels_last" or "opset")));
        }

        _nodes.Add(made);
        return output;
    }

    public QuantizedTensor? Integers(string name) =>
        _tensors.TryGetValue(name, out var tensor) ? QuantizedTensor.Read(tensor) : null;

    public Tensor? Floats(string name) =>
        _tensors.TryGetValue(name, out var tensor) && ((ElementType)tensor.DataType).IsFloatingPoint()
            ? TensorFormat.FromProto(tensor)
            : null;

    /// <summary>Gives the last axis of a constant matrix: its columns have a scale each.</summary>
    public long Columns(NodeProto node, int input) =>
        _tensors.TryGetValue(node.Input[input], out var tensor) ? Math.Max(tensor.Dims.Count - 1, 0) : 0;

    /// <summary>Removes the nodes that were replaced, and the tensors and factors that only they read.</summary>
    private void Prune()
    {
        var kept = _graph.Output.Select(o => o.Name).Concat(Captured()).ToHashSet(StringComparer.Ordinal);
        HashSet<string> used;
        NodeProto[] dead;
        do
        {
            used = _graph.Node.SelectMany(n => n.Input).Concat(kept).ToHashSet(StringComparer.Ordinal);
            dead =
            [
                .. _graph.Node.Where(n =>
                    (_replaced.Contains(n) || n.OpType == "Constant") && !n.Output.Any(used.Contains)
                ),
            ];
            Array.ForEach(dead, n => _graph.Node.Remove(n));
        } while (dead.Length > 0);

        foreach (var tensor in _graph.Initializer.Where(t => !used.Contains(t.Name)).ToArray())
        {
            _graph.Initializer.Remove(tensor);
        }
    }

    private IEnumerable<string> Captured() =>
        _graph
            .Node.SelectMany(n => n.Attribute)
            .SelectMany(OpsetUpgrade.Subgraphs)
            .SelectMany(GraphImporter.OuterNames);

    public static long Number(NodeProto node, string attribute, long fallback) =>
        node.Attribute.FirstOrDefault(a => a.Name == attribute)?.I ?? fallback;

    public static string Input(NodeProto node, int index) => index < node.Input.Count ? node.Input[index] : "";

    public string Fresh(string name)
    {
        var fresh = name;
        for (var i = 2; !_taken.Add(fresh); i++)
        {
            fresh = $"{name}_{i}";
        }

        return fresh;
    }

    public static NodeProto Node(string domain, string op, string[] inputs, string output)
    {
        var node = new NodeProto
        {
            Domain = domain,
            OpType = op,
            Name = output,
        };
        node.Input.AddRange(inputs);
        node.Output.Add(output);
        return node;
    }
}
