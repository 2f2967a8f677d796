using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Bindings;

/// <summary>
/// The buffers of a package while it is built. Names are unique: what the model calls its own comes first.
/// </summary>
internal sealed class BufferTable
{
    private readonly OrderedDictionary<string, BufferInfo> _buffers = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _scalars = new(StringComparer.Ordinal);

    public IEnumerable<BufferInfo> All => _buffers.Values;

    public BufferInfo this[string name] => _buffers[name];

    /// <summary>Adds a buffer under a name that starts with <paramref name="stem"/>; gives the name.</summary>
    public string Add(
        string stem,
        BufferRole role,
        ElementType type,
        ReadOnlySpan<long> dims,
        BufferPlace place = BufferPlace.Device,
        string? formula = null
    )
    {
        var name = stem;
        for (var n = 1; _buffers.ContainsKey(name); n++)
        {
            name = $"{stem}_{n}";
        }

        _buffers.Add(name, new(name, role, type, [.. dims], place, formula));
        return name;
    }

    /// <summary>Gives the only buffer of a role; adds a scalar of it where there is none yet.</summary>
    public string Single(BufferRole role, string stem, ElementType type = ElementType.Float) =>
        _buffers.Values.FirstOrDefault(b => b.Role == role)?.Name ?? Add(stem, role, type, [], BufferPlace.Host);

    /// <summary>Gives the scalar that a formula computes.</summary>
    public string Scalar(string name, string formula) =>
        _scalars.TryGetValue(formula, out var known)
            ? known
            : _scalars[formula] = Add(name, BufferRole.Scalar, ElementType.Float, [], BufferPlace.Host, formula);
}
