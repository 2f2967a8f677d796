using Google.Protobuf.Collections;
using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Import.Proto;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>Replaces calls of model-local functions by their bodies, nested ones too.</summary>
internal static class FunctionInliner
{
    private const int DeepestNesting = 64;
    private const int MostNodes = 500_000;
    private const long MostBytes = 1 << 29;

    public static void Apply(ModelProto model, string path)
    {
        if (model.Functions.Count == 0)
        {
            return;
        }

        var inlining = new Inlining(model.Functions, path);
        inlining.Apply(model.Graph.Node);
        foreach (var opset in model.Functions.SelectMany(f => f.OpsetImport))
        {
            if (opset.Domain is not ("" or "ai.onnx") && model.OpsetImport.All(o => o.Domain != opset.Domain))
            {
                model.OpsetImport.Add(opset);
            }
        }

        model.Functions.Clear();
    }

    /// <summary>Inlines, after it has counted what that gives, so that nothing large is made to be refused.</summary>
    private sealed class Inlining(IEnumerable<FunctionProto> functions, string path)
    {
        private readonly Dictionary<(string, string, string), FunctionProto> _functions = functions
            .GroupBy(f => (f.Domain, f.Name, f.Overload))
            .ToDictionary(g => g.Key, g => g.First());

        private readonly Dictionary<FunctionProto, Size> _sizes = [];
        private int _calls;

        public void Apply(RepeatedField<NodeProto> nodes)
        {
            _ = Measure(nodes, 0);
            Expand(nodes);
        }

        private void Expand(RepeatedField<NodeProto> nodes)
        {
            var result = new List<NodeProto>(nodes.Count);
            foreach (var node in nodes)
            {
                foreach (var graph in node.Attribute.SelectMany(OpsetUpgrade.Subgraphs))
                {
                    Expand(graph.Node);
                }

                if (Called(node) is { } function)
                {
                    var body = Body(node, function);
                    Expand(body);
                    result.AddRange(body);
                }
                else
                {
                    result.Add(node);
                }
            }

            nodes.Clear();
            nodes.AddRange(result);
        }

        /// <summary>Gives what inlining makes of some nodes; each function is measured once.</summary>
        private Size Measure(RepeatedField<NodeProto> nodes, int depth)
        {
            var sum = new Size(0, 0, 0, 0);
            foreach (var node in nodes)
            {
                var own = node.CalculateSize();
                var size = new Size(1, 1 + node.Input.Count + node.Output.Count, own, 0);
                foreach (var graph in node.Attribute.SelectMany(OpsetUpgrade.Subgraphs))
                {
                    size += Deeper(graph.Node);
                }

                if (Called(node) is { } function)
                {
                    if (!_sizes.TryGetValue(function, out var body))
                    {
                        _sizes[function] = body = Deeper(function.Node);
                    }

                    // The call's name stands before every name of the body, its attributes perhaps in every node.
                    size += body with
                    {
                        Bytes = body.Bytes + (body.Names * own),
                    };
                }

                sum += size;
                if (sum is { Nodes: > MostNodes } or { Bytes: > MostBytes })
                {
                    throw Bad($"Inlining the functions gives more than {MostNodes} nodes or {MostBytes >> 20} MB.");
                }

                if (depth + sum.Depth > DeepestNesting)
                {
                    throw Bad($"Functions are nested more than {DeepestNesting} deep, or call themselves.");
                }
            }

            return sum;

            Size Deeper(RepeatedField<NodeProto> inner)
            {
                var size = depth < DeepestNesting ? Measure(inner, depth + 1) : new(0, 0, 0, 0);
                return size with { Depth = size.Depth + 1 };
            }
        }

        private FunctionProto? Called(NodeProto node) =>
            _functions.GetValueOrDefault((node.Domain, node.OpType, node.Overload));

        private RepeatedField<NodeProto> Body(NodeProto call, FunctionProto function)
        {
            var prefix = $"{(call.Name.Length > 0 ? call.Name : call.OpType)}/{_calls++}/";
            var names = new Dictionary<string, string>(StringComparer.Ordinal) { [""] = "" };
            for (var i = 0; i < function.Input.Count; i++)
            {
                names[function.Input[i]] = i < call.Input.Count ? call.Input[i] : "";
            }

            for (var i = 0; i < function.Output.Count; i++)
            {
                var name =
                    i < call.Output.Count && call.Output[i].Length > 0 ? call.Output[i] : prefix + function.Output[i];
                if (!names.TryAdd(function.Output[i], name))
                {
                    throw Bad($"Function '{function.Name}' returns its input '{function.Output[i]}'.");
                }
            }

            var attributes = function.AttributeProto.ToDictionary(a => a.Name, StringComparer.Ordinal);
            foreach (var attribute in call.Attribute)
            {
                attributes[attribute.Name] = attribute;
            }

            var body = new RepeatedField<NodeProto>();
            foreach (var node in function.Node)
            {
                var copy = node.Clone();
                copy.Name = prefix + copy.Name;
                Rename(copy, names, prefix, attributes);
                body.Add(copy);
            }

            return body;
        }

        /// <summary>Gives a copied node, and the subgraphs in it, the caller's names and attribute values.</summary>
        private static void Rename(
            NodeProto node,
            Dictionary<string, string> names,
            string prefix,
            Dictionary<string, AttributeProto> attributes
        )
        {
            string New(string name)
            {
                if (!names.TryGetValue(name, out var renamed))
                {
                    names[name] = renamed = prefix + name;
                }

                return renamed;
            }

            for (var i = 0; i < node.Input.Count; i++)
            {
                node.Input[i] = New(node.Input[i]);
            }

            for (var i = 0; i < node.Output.Count; i++)
            {
                node.Output[i] = New(node.Output[i]);
            }

            for (var i = node.Attribute.Count - 1; i >= 0; i--)
            {
                if (node.Attribute[i].RefAttrName is { Length: > 0 } reference)
                {
                    if (attributes.TryGetValue(reference, out var value))
                    {
                        var name = node.Attribute[i].Name;
                        node.Attribute[i] = value.Clone();
                        node.Attribute[i].Name = name;
                    }
                    else
                    {
                        node.Attribute.RemoveAt(i);
                    }
                }
                else
                {
                    foreach (var graph in OpsetUpgrade.Subgraphs(node.Attribute[i]))
                    {
                        foreach (var info in graph.Input.Concat(graph.Output))
                        {
                            info.Name = New(info.Name);
                        }

                        foreach (var tensor in graph.Initializer)
                        {
                            tensor.Name = New(tensor.Name);
                        }

                        foreach (var inner in graph.Node)
                        {
                            Rename(inner, names, prefix, attributes);
                        }
                    }
                }
            }
        }

        private readonly record struct Size(long Nodes, long Names, long Bytes, int Depth)
        {
            public static Size operator +(Size a, Size b) =>
                new(a.Nodes + b.Nodes, a.Names + b.Names, a.Bytes + b.Bytes, Math.Max(a.Depth, b.Depth));
        }

        private MacOnnxException Bad(string what) => new("MAC0006", path, what, "Export the model without functions.");
    }
}
