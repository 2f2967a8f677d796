using MacOnnx.GraphRewriter.Ir;

namespace MacOnnx.GraphRewriter.Curvature;

/// <summary>A place in a matrix: of a layer's output, the token and the unit.</summary>
internal readonly record struct Place(int Row, int Unit)
{
    public static Place operator +(Place a, Place b) => new(a.Row + b.Row, a.Unit + b.Unit);

    public static Place operator -(Place a, Place b) => new(a.Row - b.Row, a.Unit - b.Unit);
}

/// <summary>
/// Which element of a matrix arrives at each element of a tensor that layouts, such as Transpose and Slice, made of it.
/// </summary>
/// <remarks>
/// The place that is at [i, j, ...] is a sum: an origin and one term for each axis, since layouts move whole axes or
/// parts of them. So a map has an entry for each index of each axis, not for each element. A layout that mixes axes
/// otherwise has no map.
/// </remarks>
internal sealed class ElementMap
{
    /// <summary>An axis with more indices than this is not followed.</summary>
    private const long MostEntries = 1 << 22;

    private readonly Place _origin;

    /// <summary>
    /// The terms of each axis; null where no element of the matrix is. The first that is there is zero.
    /// </summary>
    private readonly Place?[][] _axes;

    private ElementMap(Place origin, Place?[][] axes) => (_origin, _axes) = (origin, axes);

    /// <summary>Gets the dimensions.</summary>
    public long[] Dims => [.. _axes.Select(a => (long)a.Length)];

    /// <summary>Gets whether an element of the matrix is everywhere.</summary>
    public bool IsWhole => _axes.All(a => a.All(p => p is not null));

    /// <summary>Gives the map of a tensor to itself: one axis numbers units, the others together rows.</summary>
    /// <param name="dims">The dimensions; -1 for one that is not known.</param>
    /// <param name="unitAxis">The axis of the units, the last one where negative.</param>
    /// <returns>The map; null where the tensor is empty or too large.</returns>
    public static ElementMap? Of(ReadOnlySpan<long> dims, int unitAxis = -1)
    {
        var units = unitAxis < 0 ? dims.Length - 1 : unitAxis;
        if (!IsSmall(dims) || !IsSmall([Tensor.CountOf(dims) / dims[units]]))
        {
            return null;
        }

        var axes = new Place?[dims.Length][];
        var stride = 1;
        for (var a = dims.Length - 1; a >= 0; a--)
        {
            var isUnits = a == units;
            var step = stride;
            axes[a] = [.. Range(dims[a]).Select(i => (Place?)(isUnits ? new(0, i) : new(i * step, 0)))];
            stride *= isUnits ? 1 : (int)dims[a];
        }

        return new(default, axes);
    }

    /// <summary>Gives the map behind a layout.</summary>
    /// <param name="node">The node.</param>
    /// <param name="output">The output to follow to.</param>
    /// <param name="inputs">The maps of its inputs; null for those that hold no element of the matrix.</param>
    /// <param name="dims">Gives the dimensions of a value; -1 for one that is not known.</param>
    /// <param name="integers">Gives the elements of an integer input; null where they are not known.</param>
    /// <returns>The map; null where there is none.</returns>
    public static ElementMap? Through(
        Node node,
        Value output,
        ElementMap?[] inputs,
        Func<Value, long[]> dims,
        Func<Value, long[]?> integers
    )
    {
        if (node.Is("Concat"))
        {
            return Concat((int)node.Attributes.Int("axis", 0), node.Inputs, inputs, dims);
        }

        if (node.Domain.Length > 0 || inputs[0] is not { } map || output.Shape is null || !IsSmall(dims(output)))
        {
            return null;
        }

        var to = dims(output);
        int Axis(string name) => (int)node.Attributes.Int(name, 0) is var a && a < 0 ? a + map._axes.Length : a;
        switch (node.OpType)
        {
            case "Identity":
                return map;
            case "Transpose":
                var perm = node.Attributes.Ints("perm") ?? [.. Range(to.Length).Select(a => (long)(to.Length - 1 - a))];
                return new(map._origin, [.. perm.Select(a => map._axes[a])]);
            case "Reshape" or "Squeeze" or "Unsqueeze" or "Flatten":
                return map.Reshape(to);
            case "Expand":
                Place?[][] before = [.. Enumerable.Repeat(Zero(1), to.Length - map._axes.Length), .. map._axes];
                return new(map._origin, [.. before.Select((a, i) => a.Length == to[i] ? a : Zero((int)to[i]))]);
            case "Tile":
                return new(
                    map._origin,
                    [.. map._axes.Select((a, i) => Range(to[i]).Select(n => a[n % a.Length]).ToArray())]
                );
            case "Split":
                var split = Axis("axis");
                var earlier = node.Outputs.TakeWhile(o => o != output).ToArray();
                return earlier.All(o => o.Shape is not null && dims(o)[split] >= 0)
                    ? map.Taken(split, [.. Range(to[split]).Select(i => i + (int)earlier.Sum(o => dims(o)[split]))])
                    : null;
            case "Gather" when integers(node.Inputs[1]!) is { } indices:
                var gathered = Axis("axis");
                var length = map._axes[gathered].Length;
                return map.Taken(gathered, [.. indices.Select(i => (int)(i < 0 ? i + length : i))])?.Reshape(to);
            case "Slice":
                return map.Slice(node, integers);
            default:
                return null;
        }
    }

    /// <summary>Gives the map with other dimensions and the elements in their order.</summary>
    public ElementMap? Reshape(params long[] dims)
    {
        if (!IsSmall(dims))
        {
            return null;
        }

        // Axes belong together up to where both shapes have as many elements.
        var axes = new List<Place?[]>();
        var (from, to) = (0, 0);
        while (from < _axes.Length || to < dims.Length)
        {
            var (parts, sizes) = (new List<Place?[]>(), new List<int>());
            var (left, right) = (1L, 1L);
            do
            {
                if (left <= right && from < _axes.Length)
                {
                    left *= _axes[from].Length;
                    parts.Add(_axes[from++]);
                }
                else if (to < dims.Length)
                {
                    right *= dims[to];
                    sizes.Add((int)dims[to++]);
                }
                else
                {
                    return null;
                }

                if (Math.Max(left, right) > MostEntries)
                {
                    return null;
                }
            } while (left != right);

            if (Merge(parts) is not { } merged || Split(merged, sizes) is not { } split)
            {
                return null;
            }

            axes.AddRange(split);
        }

        return new(_origin, [.. axes]);
    }

    /// <summary>Gives the places along axes, the last of which changes fastest, at the origin of all others.</summary>
    /// <returns>The places, null where no element of the matrix is; null where they are too many.</returns>
    public Place?[]? Along(params IEnumerable<int> axes) =>
        Merge([.. axes.Select(a => _axes[a])]) is { } terms ? [.. terms.Select(t => t + _origin)] : null;

    /// <summary>Gives the rows, or units, that are somewhere in the tensor, in no order.</summary>
    /// <param name="part">Gives the row or the unit of a place.</param>
    /// <param name="fixedAxis">An axis of which only the first index counts that holds anything; or null.</param>
    public HashSet<int> Distinct(Func<Place, int> part, int? fixedAxis = null)
    {
        var found = new HashSet<int> { part(_origin) };
        for (var a = 0; a < _axes.Length; a++)
        {
            var terms = _axes[a].OfType<Place>().Select(part).ToHashSet();
            if (a != fixedAxis && terms.Count > 1)
            {
                found = [.. found.SelectMany(f => terms.Select(t => f + t))];
            }
        }

        return found;
    }

    private static ElementMap? Concat(
        int at,
        IReadOnlyList<Value?> values,
        ElementMap?[] maps,
        Func<Value, long[]> dims
    )
    {
        var first = maps.OfType<ElementMap>().First();
        var axis = at < 0 ? at + first._axes.Length : at;
        var joined = new List<Place?>();
        foreach (var (value, map) in values.Zip(maps))
        {
            var size = dims(value!);
            if (map is null)
            {
                if (!IsSmall(size) || size.Length != first._axes.Length)
                {
                    return null;
                }

                joined.AddRange(new Place?[size[axis]]);
            }
            else if (Range(first._axes.Length).All(a => a == axis || map._axes[a].SequenceEqual(first._axes[a])))
            {
                joined.AddRange(map._axes[axis].Select(p => p + (map._origin - first._origin)));
            }
            else
            {
                return null;
            }
        }

        return first.With(axis, [.. joined]);
    }

    private ElementMap? Slice(Node node, Func<Value, long[]?> integers)
    {
        long[]? Given(int input, Func<IEnumerable<long>> otherwise) =>
            node.Input(input) is { } v ? integers(v) : [.. otherwise()];
        if (
            integers(node.Inputs[1]!) is not { } starts
            || integers(node.Inputs[2]!) is not { } ends
            || Given(3, () => Range(starts.Length).Select(a => (long)a)) is not { } axes
            || Given(4, () => Enumerable.Repeat(1L, starts.Length)) is not { } steps
            || new[] { ends, axes, steps }.Any(g => g.Length != starts.Length)
        )
        {
            return null;
        }

        var map = this;
        for (var s = 0; s < starts.Length && map is not null; s++)
        {
            var axis = axes[s] < 0 ? axes[s] + _axes.Length : axes[s];
            map =
                axis >= 0 && axis < _axes.Length && steps[s] != 0
                    ? map.Taken((int)axis, Indices(starts[s], ends[s], steps[s], map._axes[axis].Length))
                    : null;
        }

        return map;
    }

    /// <summary>Gives the indices that a slice takes of an axis.</summary>
    private static List<int> Indices(long start, long end, long step, int size)
    {
        var (least, most) = step > 0 ? (0, size) : (-1, size - 1);
        long Bound(long at, int least) => Math.Clamp(at < 0 ? at + size : at, least, most);
        var (at, last) = (Bound(start, 0), Bound(end, least));
        var indices = new List<int>();
        while (step > 0 ? at < last : at > last)
        {
            indices.Add((int)at);
            at = step > size ? last : Math.Max(at + step, -1);
        }

        return indices;
    }

    /// <summary>Takes some indices of an axis; null where one is out of range.</summary>
    private ElementMap? Taken(int axis, IReadOnlyList<int> indices) =>
        indices.Any(i => (uint)i >= (uint)_axes[axis].Length)
            ? null
            : With(axis, [.. indices.Select(i => _axes[axis][i])]);

    /// <summary>Puts other terms in the place of an axis; null where none of them is there.</summary>
    private ElementMap? With(int axis, Place?[] terms)
    {
        if (terms.OfType<Place>().Cast<Place?>().FirstOrDefault() is not { } first)
        {
            return null;
        }

        Place?[] zeroed = [.. terms.Select(p => p - first)];
        return new(_origin + first, [.. _axes.Select((a, i) => i == axis ? zeroed : a)]);
    }

    /// <summary>Makes one axis of several, the last of which changes fastest.</summary>
    private static Place?[]? Merge(List<Place?[]> axes)
    {
        Place?[] merged = [default(Place)];
        foreach (var axis in axes)
        {
            if ((long)merged.Length * axis.Length > MostEntries)
            {
                return null;
            }

            merged =
                axis.Length == 1 ? merged
                : merged.Length == 1 ? axis
                : [.. merged.SelectMany(m => axis.Select(p => m + p))];
        }

        return merged;
    }

    /// <summary>Makes several axes of one; null where its terms are not sums of theirs.</summary>
    private static List<Place?[]>? Split(Place?[] merged, List<int> sizes)
    {
        if (sizes.Count(s => s > 1) <= 1)
        {
            return [.. sizes.Select(s => s > 1 ? merged : Zero(1))];
        }

        var origin = Array.FindIndex(merged, p => p is not null);
        var axes = new List<Place?[]>();
        var stride = merged.Length;
        foreach (var size in sizes)
        {
            stride /= size;
            var (step, first) = (stride, origin - (origin / stride % size * stride));
            axes.Add([.. Range(size).Select(i => merged[first + (i * step)])]);
        }

        return Merge(axes) is { } again && again.SequenceEqual(merged) ? axes : null;
    }

    private static bool IsSmall(ReadOnlySpan<long> dims) =>
        dims.Length > 0 && !dims.ContainsAnyExceptInRange(1, MostEntries);

    private static Place?[] Zero(int size) => [.. Enumerable.Repeat<Place?>(default(Place), size)];

    private static IEnumerable<int> Range(long count) => Enumerable.Range(0, (int)count);
}
