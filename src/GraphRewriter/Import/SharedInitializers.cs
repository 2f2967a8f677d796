using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Import.Proto;
using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>An initializer that stood for several parameters.</summary>
/// <param name="Name">The initializer.</param>
/// <param name="Parameters">How many it was split into, itself counted; 2 or more.</param>
internal sealed record SplitInitializer(string Name, int Parameters);

/// <summary>
/// Takes apart what an exporter merged: PyTorch's stores equal initializers once, so that in a network that was not
/// trained yet one scale of ones and one bias of zeros serve all layers, and would train as one.
/// </summary>
/// <remarks>
/// Only a vector of equal numbers is split, and only where several normalizations take it as scale, bias or statistic,
/// or several layers as bias: those numbers are equal by initialization, others are shared on purpose. Uses that belong
/// to one module (layers with one weight, normalizations in one scope of the exporter's) keep one parameter.
/// </remarks>
internal static partial class SharedInitializers
{
    /// <summary>The key under which torch.onnx's exporter (dynamo) notes the modules around a node.</summary>
    private const string ScopesKey = "pkg.torch.onnx.name_scopes";

    /// <summary>The most Identity, Cast and Transpose nodes that are looked through.</summary>
    private const int LongestWay = 16;

    /// <summary>Splits shared initializers; changes <paramref name="model"/>.</summary>
    /// <param name="model">The model as it was read.</param>
    /// <returns>What was split, in the order of the file.</returns>
    public static IReadOnlyList<SplitInitializer> Split(ModelProto model)
    {
        var graph = model.Graph;
        var producers = new Dictionary<string, NodeProto>(StringComparer.Ordinal);
        foreach (var node in graph.Node)
        {
            foreach (var output in node.Output)
            {
                producers[output] = node;
            }
        }

        var uses = graph
            .Node.SelectMany(n => n.Input.Select((name, i) => (Name: name, Use: new Use(n, i))))
            .ToLookup(u => u.Name, u => u.Use, StringComparer.Ordinal);
        var taken = new Lazy<HashSet<string>>(() => Names(graph).ToHashSet(StringComparer.Ordinal));
        var elsewhere = graph
            .Node.SelectMany(n => n.Attribute)
            .SelectMany(OpsetUpgrade.Subgraphs)
            .SelectMany(GraphImporter.OuterNames)
            .Concat(graph.Output.Select(o => o.Name))
            .ToHashSet(StringComparer.Ordinal);
        var split = new List<SplitInitializer>();
        foreach (var tensor in graph.Initializer.Where(t => t.Dims.Count == 1).ToArray())
        {
            var roles = uses[tensor.Name].Select(u => (Use: u, Role: RoleOf(u, producers))).ToArray();
            var owners = roles.Where(u => u.Role is not null).GroupBy(u => u.Role!.Value.Owner).ToArray();
            if (
                owners.Length < 2
                || !((ElementType)tensor.DataType).IsFloatingPoint()
                || !TensorFormat.FromProto(tensor).IsUniform
            )
            {
                continue;
            }

            var hasOthers = elsewhere.Contains(tensor.Name) || roles.Any(u => u.Role is null);
            var first = hasOthers
                ? null
                : owners.FirstOrDefault(o => o.First().Role!.Value.Name == tensor.Name) ?? owners[0];
            foreach (var owner in owners.Where(o => o != first))
            {
                var name = Fresh(owner.First().Role!.Value.Name, taken.Value);
                Copy(graph, tensor, name);
                foreach (var (use, _) in owner)
                {
                    use.Node.Input[use.Input] = name;
                }
            }

            split.Add(new SplitInitializer(tensor.Name, owners.Length + (hasOthers ? 1 : 0)));
        }

        return split;
    }

    /// <summary>
    /// Gives what a use belongs to, and the name that its parameter has there; null where it is of no such kind.
    /// </summary>
    private static (string Owner, string Name)? RoleOf(Use use, Dictionary<string, NodeProto> producers)
    {
        var (node, input) = use;
        var scope = ScopeOf(node);
        return (node.OpType, input) switch
        {
            (
                "LayerNormalization"
                    or "RMSNormalization"
                    or "SimplifiedLayerNormalization"
                    or "InstanceNormalization"
                    or "GroupNormalization"
                    or "BatchNormalization",
                1
            ) => OfScope("weight"),
            ("LayerNormalization" or "InstanceNormalization" or "GroupNormalization" or "BatchNormalization", 2) =>
                OfScope("bias"),
            ("BatchNormalization", 3) => OfScope("running_mean"),
            ("BatchNormalization", 4) => OfScope("running_var"),
            ("Mul", 0 or 1) when IsNormalized(node.Input[1 - input]) => OfScope("weight"),
            ("Conv" or "ConvTranspose" or "Gemm", 2) => OfWeight(node),
            ("Add", 0 or 1) when Producer(node.Input[1 - input]) is { OpType: "MatMul" or "Gemm" } product => OfWeight(
                product
            ),
            _ => null,
        };

        (string, string) OfScope(string leaf) => ($"{scope ?? node.Output[0]}/{leaf}", Name(leaf));

        // The operand that no node computes is the weight; of two such, or none, the second.
        (string, string) OfWeight(NodeProto product)
        {
            var (left, right) = (Root(product.Input[0]), Root(product.Input[1]));
            return (producers.ContainsKey(right) && !producers.ContainsKey(left) ? left : right, Name("bias"));
        }

        string Name(string leaf) => $"{scope ?? (node.Name.Length > 0 ? node.Name : node.Output[0])}.{leaf}";

        // RMS normalization in parts: x * 1/sqrt(...), or x / sqrt(...).
        bool IsNormalized(string value) =>
            Producer(Root(value)) switch
            {
                { OpType: "Mul" } mul => mul.Input.Any(i =>
                    Producer(i) is { OpType: "Reciprocal" } inverse && Producer(inverse.Input[0]) is { OpType: "Sqrt" }
                ),
                { OpType: "Div" } div => Producer(div.Input[1]) is { OpType: "Sqrt" },
                _ => false,
            };

        NodeProto? Producer(string value) => producers.GetValueOrDefault(value);

        string Root(string value)
        {
            for (
                var i = 0;
                i < LongestWay && Producer(value) is { OpType: "Identity" or "Cast" or "Transpose" } way;
                i++
            )
            {
                value = way.Input[0];
            }

            return value;
        }
    }

    /// <summary>
    /// Gives the innermost module around a node, such as <c>layers.0.norm1</c>; null where none is noted.
    /// </summary>
    private static string? ScopeOf(NodeProto node) =>
        node.MetadataProps.FirstOrDefault(p => p.Key == ScopesKey) is { } scopes
        && Quoted().Matches(scopes.Value) is [.., { } module, _]
        && module.Groups[1].Length > 0
            ? module.Groups[1].Value
            : null;

    /// <summary>Adds an initializer under another name, declared like the one it is a copy of.</summary>
    private static void Copy(GraphProto graph, TensorProto tensor, string name)
    {
        var copy = tensor.Clone();
        copy.Name = name;
        graph.Initializer.Add(copy);
        if (graph.ValueInfo.Concat(graph.Input).FirstOrDefault(i => i.Name == tensor.Name) is { } info)
        {
            var declaration = info.Clone();
            declaration.Name = name;
            graph.ValueInfo.Add(declaration);
        }
    }

    private static string Fresh(string name, HashSet<string> taken)
    {
        var fresh = name;
        for (var i = 2; !taken.Add(fresh); i++)
        {
            fresh = $"{name}_{i}";
        }

        return fresh;
    }

    public static IEnumerable<string> Names(GraphProto graph) =>
        graph
            .Input.Select(i => i.Name)
            .Concat(graph.Initializer.Select(i => i.Name))
            .Concat(graph.Node.SelectMany(n => n.Output))
            .Concat(graph.Node.SelectMany(n => n.Attribute).SelectMany(OpsetUpgrade.Subgraphs).SelectMany(Names));

    [GeneratedRegex("'([^']*)'")]
    private static partial Regex Quoted();

    private sealed record Use(NodeProto Node, int Input);
}
