using System.Text.RegularExpressions;
using MacOnnx.GraphRewriter.Import.Proto;

namespace MacOnnx.GraphRewriter.Import;

/// <summary>What an exporter declares a constant to be.</summary>
internal enum DeclaredKind
{
    /// <summary>The file says nothing.</summary>
    Unknown,

    /// <summary>A parameter of the network.</summary>
    Parameter,

    /// <summary>A buffer: state that the optimizer does not see.</summary>
    Buffer,

    /// <summary>A tensor that the network's code holds.</summary>
    ConstantTensor,

    /// <summary>A parameter that does not train.</summary>
    Frozen,
}

/// <summary>What the file says about one constant.</summary>
/// <param name="IsInitializer">Whether it is an initializer; false for a Constant node.</param>
/// <param name="Kind">What its exporter declares it to be.</param>
/// <param name="IsModulePath">Whether it is an initializer whose name is a path of modules, such as
/// <c>layers.0.gamma</c>.</param>
internal sealed record InitializerFact(bool IsInitializer, DeclaredKind Kind, bool IsModulePath)
{
    /// <summary>
    /// Whether a floating-point constant of this rank may train. Nothing but its use and its numbers can rule that out.
    /// </summary>
    public bool MayTrain(int rank) =>
        Kind == DeclaredKind.Parameter || (Kind == DeclaredKind.Unknown && IsInitializer && (rank > 0 || IsModulePath));
}

/// <summary>What the file says about each constant, by name. Never changes once it is made.</summary>
internal sealed partial class InitializerFacts
{
    /// <summary>
    /// The key under which torch.onnx's exporter (dynamo) notes the kind of each input of the program.
    /// </summary>
    private const string KindKey = "pkg.torch.export.graph_signature.InputSpec.kind";

    private readonly Dictionary<string, InitializerFact> _facts;

    private InitializerFacts(Dictionary<string, InitializerFact> facts) => _facts = facts;

    /// <summary>
    /// Gets what the file says; null where a constant is not in the file, but was computed from shapes.
    /// </summary>
    public InitializerFact? this[string name] => _facts.TryGetValue(name, out var fact) ? fact : null;

    /// <summary>Reads a model, its functions inlined.</summary>
    /// <param name="model">The model.</param>
    /// <param name="declared">What other files say about initializers, by name; null for nothing.</param>
    public static InitializerFacts Of(ModelProto model, IReadOnlyDictionary<string, DeclaredKind>? declared = null)
    {
        var kinds = new Dictionary<string, DeclaredKind>(declared ?? new Dictionary<string, DeclaredKind>());
        foreach (var info in model.Graph.ValueInfo.Concat(model.Graph.Input))
        {
            if (KindOf(info) is not DeclaredKind.Unknown and var kind)
            {
                kinds[info.Name] = kind;
            }
        }

        var facts = model
            .Graph.Node.Where(n => n.OpType == "Constant")
            .SelectMany(n => n.Output)
            .Distinct(StringComparer.Ordinal)
            .ToDictionary(
                n => n,
                n => new InitializerFact(false, kinds.GetValueOrDefault(n), false),
                StringComparer.Ordinal
            );
        foreach (var name in model.Graph.Initializer.Select(i => i.Name))
        {
            facts[name] = new InitializerFact(true, kinds.GetValueOrDefault(name), ModulePath().IsMatch(name));
        }

        return new InitializerFacts(facts);
    }

    private static DeclaredKind KindOf(ValueInfoProto info) =>
        info.MetadataProps.FirstOrDefault(p => p.Key == KindKey)?.Value switch
        {
            "PARAMETER" => DeclaredKind.Parameter,
            "BUFFER" => DeclaredKind.Buffer,
            "CONSTANT_TENSOR" => DeclaredKind.ConstantTensor,
            _ => DeclaredKind.Unknown,
        };

    [GeneratedRegex(@"^\w+(\.\w+)+$", RegexOptions.CultureInvariant)]
    private static partial Regex ModulePath();
}
