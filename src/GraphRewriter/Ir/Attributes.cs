using System.Globalization;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>
/// An attribute of a node. The factories are made for <c>using static Attr; b.Op("Concat", [x, y], Int("axis", 0))</c>.
/// </summary>
/// <param name="Name">The name.</param>
/// <param name="Value">
/// A <see cref="long"/>, <see cref="float"/>, <see cref="string"/>, <see cref="Ir.Tensor"/> or <see cref="Ir.Graph"/>,
/// or an array of one of these; every other object is kept as it is, for the exporter.
/// </param>
internal sealed record Attr(string Name, object Value)
{
    public string DocString { get; init; } = "";

    /// <summary>Gets the graphs that the attribute holds.</summary>
    public IReadOnlyList<Graph> Graphs =>
        Value switch
        {
            Graph graph => [graph],
            Graph[] graphs => graphs,
            _ => [],
        };

    public static Attr Int(string name, long value) => new(name, value);

    public static Attr Int(string name, bool value) => Int(name, value ? 1 : 0);

    public static Attr Float(string name, double value) => new(name, (float)value);

    public static Attr Text(string name, string value) => new(name, value);

    public static Attr Ints(string name, params ReadOnlySpan<long> values) => new(name, values.ToArray());

    public static Attr Floats(string name, params ReadOnlySpan<float> values) => new(name, values.ToArray());

    public static Attr Strings(string name, params ReadOnlySpan<string> values) => new(name, values.ToArray());

    public static Attr Tensor(string name, Tensor value) => new(name, value);

    public static Attr Graph(string name, Graph value) => new(name, value);

    public override string ToString() =>
        Value switch
        {
            long[] values => $"{Name}=[{string.Join(',', values)}]",
            float[] values => $"{Name}=[{string.Join(',', values.Select(Show))}]",
            string[] values => $"{Name}=[{string.Join(',', values)}]",
            float value => $"{Name}={Show(value)}",
            _ => $"{Name}={Value}",
        };

    private static string Show(float value) => value.ToString(CultureInfo.InvariantCulture);
}

/// <summary>The attributes of a node, by name.</summary>
internal sealed class Attributes
{
    private readonly OrderedDictionary<string, Attr> _byName = new(StringComparer.Ordinal);

    public Attributes(IEnumerable<Attr> attributes)
    {
        foreach (var attribute in attributes)
        {
            _byName.Add(attribute.Name, attribute);
        }
    }

    /// <summary>Gets the attributes, ordered by name.</summary>
    public IEnumerable<Attr> All => _byName.Values.OrderBy(a => a.Name, StringComparer.Ordinal);

    /// <summary>Gets the graphs that attributes hold, in the order in which they were given.</summary>
    public IEnumerable<Graph> Graphs => _byName.Values.SelectMany(a => a.Graphs);

    public bool Has(string name) => _byName.ContainsKey(name);

    public Attr? Find(string name) => _byName.GetValueOrDefault(name);

    public long Int(string name, long fallback) => Find(name)?.Value is long value ? value : fallback;

    public float Float(string name, float fallback) => Find(name)?.Value is float value ? value : fallback;

    public string Text(string name, string fallback) => Find(name)?.Value is string value ? value : fallback;

    /// <summary>Gives a copy of a list of integers; null where there is none.</summary>
    public long[]? Ints(string name) => Find(name)?.Value is long[] values ? [.. values] : null;

    public float[]? Floats(string name) => Find(name)?.Value is float[] values ? [.. values] : null;

    public string[]? Strings(string name) => Find(name)?.Value is string[] values ? [.. values] : null;

    public Tensor? Tensor(string name) => Find(name)?.Value as Tensor;

    public void Set(Attr attribute) => _byName[attribute.Name] = attribute;

    public void Remove(string name) => _byName.Remove(name);
}
