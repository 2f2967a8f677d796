using System.Globalization;

namespace MacOnnx.GraphRewriter.Ir;

/// <summary>
/// An attribute of a node. The factories are made for <c>using static Attr; b.Op("Concat", [x, y], Int("axis", 0))</c>.
/// </summary>
/// <param name="Name">The name.</param>
/// <param name="Value">
/// A <see cref="long"/>, <see cref="float"/>, <see cref="string"/>, <see cref="Ir.Tensor"/> or a graph, or an array
/// </param>
public sealed record Attr(string Name, object Value)
{
    internal string DocString { get; init; } = "";

    /// <summary>Gets the graphs that the attribute holds.</summary>
    internal IReadOnlyList<Graph> Graphs =>
        Value switch
        {
            Graph graph => [graph],
            Graph[] graphs => graphs,
            _ => [],
        };

    /// <summary>Makes an attribute that is an integer.</summary>
    /// <param name="name">The name.</param>
    /// <param name="value">The value.</param>
    public static Attr Int(string name, long value) => new(name, value);

    /// <summary>Makes an attribute that is a flag, as 1 or 0.</summary>
    /// <param name="name">The name.</param>
    /// <param name="value">The value.</param>
    public static Attr Int(string name, bool value) => Int(name, value ? 1 : 0);

    /// <summary>Makes an attribute that is a float.</summary>
    /// <param name="name">The name.</param>
    /// <param name="value">The value.</param>
    public static Attr Float(string name, double value) => new(name, (float)value);

    /// <summary>Makes an attribute that is a string.</summary>
    /// <param name="name">The name.</param>
    /// <param name="value">The value.</param>
    public static Attr Text(string name, string value) => new(name, value);

    /// <summary>Makes an attribute that is a list of integers.</summary>
    /// <param name="name">The name.</param>
    /// <param name="values">The values.</param>
    public static Attr Ints(string name, params ReadOnlySpan<long> values) => new(name, values.ToArray());

    /// <summary>Makes an attribute that is a list of floats.</summary>
    /// <param name="name">The name.</param>
    /// <param name="values">The values.</param>
    public static Attr Floats(string name, params ReadOnlySpan<float> values) => new(name, values.ToArray());

    /// <summary>Makes an attribute that is a tensor.</summary>
    /// <param name="name">The name.</param>
    /// <param name="value">The value.</param>
    public static Attr Tensor(string name, Tensor value) => new(name, value);

    internal static Attr Graph(string name, Graph value) => new(name, value);

    /// <inheritdoc/>
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
public sealed class Attributes
{
    private readonly OrderedDictionary<string, Attr> _byName = new(StringComparer.Ordinal);

    internal Attributes(IEnumerable<Attr> attributes)
    {
        foreach (var attribute in attributes)
        {
            _byName.Add(attribute.Name, attribute);
        }
    }

    /// <summary>Gets the attributes, ordered by name.</summary>
    public IEnumerable<Attr> All => _byName.Values.OrderBy(a => a.Name, StringComparer.Ordinal);

    /// <summary>Gets the graphs that attributes hold, in the order in which they were given.</summary>
    internal IEnumerable<Graph> Graphs => _byName.Values.SelectMany(a => a.Graphs);

    /// <summary>Whether there is an attribute.</summary>
    /// <param name="name">The attribute.</param>
    public bool Has(string name) => _byName.ContainsKey(name);

    internal Attr? Find(string name) => _byName.GetValueOrDefault(name);

    /// <summary>Gives an integer.</summary>
    /// <param name="name">The attribute.</param>
    /// <param name="fallback">What is given where there is none.</param>
    public long Int(string name, long fallback) => Find(name)?.Value is long value ? value : fallback;

    /// <summary>Gives a float.</summary>
    /// <param name="name">The attribute.</param>
    /// <param name="fallback">What is given where there is none.</param>
    public float Float(string name, float fallback) => Find(name)?.Value is float value ? value : fallback;

    /// <summary>Gives a string.</summary>
    /// <param name="name">The attribute.</param>
    /// <param name="fallback">What is given where there is none.</param>
    public string Text(string name, string fallback) => Find(name)?.Value is string value ? value : fallback;

    /// <summary>Gives a copy of a list of integers; null where there is none.</summary>
    /// <param name="name">The attribute.</param>
    public long[]? Ints(string name) => Find(name)?.Value is long[] values ? [.. values] : null;

    /// <summary>Gives a copy of a list of floats; null where there is none.</summary>
    /// <param name="name">The attribute.</param>
    public float[]? Floats(string name) => Find(name)?.Value is float[] values ? [.. values] : null;

    /// <summary>Gives a tensor; null where there is none.</summary>
    /// <param name="name">The attribute.</param>
    public Tensor? Tensor(string name) => Find(name)?.Value as Tensor;

    internal void Set(Attr attribute) => _byName[attribute.Name] = attribute;

    internal void Remove(string name) => _byName.Remove(name);
}
