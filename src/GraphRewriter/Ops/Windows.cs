using MacOnnx.GraphRewriter.Diagnostics;
using MacOnnx.GraphRewriter.Ir;
using static MacOnnx.GraphRewriter.Ir.Attr;

namespace MacOnnx.GraphRewriter.Ops;

/// <summary>
/// How the windows of a convolution or a pool lie on a tensor; arrays have one element a spatial axis.
/// </summary>
/// <remarks>
/// Two tensors are related: the big one that windows slide over (input of Conv and of pools, output of ConvTranspose)
/// and the small
/// one with an element a window. Window o covers the positions o * stride - begin + t * dilation of the big one, t = 0
/// .. kernel - 1.
/// </remarks>
internal sealed record Windows(long[] Kernel, long[] Strides, long[] Dilations, long[] Begin, long[] End)
{
    public int Rank => Kernel.Length;

    /// <summary>Gets the number of positions of a window.</summary>
    public long Taps => Kernel.Aggregate(1L, (n, k) => checked(n * k));

    public bool IsStrided => Strides.Any(s => s > 1);

    public bool IsPadded => Begin.Concat(End).Any(p => p != 0);

    /// <summary>Gets whether every window is one position and none lies in the padding.</summary>
    public bool IsPointwise => Taps == 1 && !IsPadded;

    /// <summary>Reads the attributes that Conv, ConvTranspose, the pools and their gradient operators share.</summary>
    /// <param name="node">The node.</param>
    /// <param name="kernel">The kernel's size where the attribute is left out.</param>
    public static Windows Of(Node node, long[]? kernel = null)
    {
        if (node.Attributes.Text("auto_pad", "NOTSET") != "NOTSET" || node.Attributes.Has("output_shape"))
        {
            throw new MacOnnxException(
                "MAC0110",
                node.ToString(),
                "Its padding depends on a size that is known only at run time.",
                "Fix the model's dynamic dimensions with RewriteOptions.Dimensions (NAME=SIZE)."
            );
        }

        kernel =
            node.Attributes.Ints("kernel_shape")
            ?? kernel
            ?? throw new MacOnnxException(
                "MAC0111",
                node.ToString(),
                "It says no kernel_shape.",
                "Export the model again."
            );
        var ones = Enumerable.Repeat(1L, kernel.Length).ToArray();
        var pads = node.Attributes.Ints("pads") ?? new long[2 * kernel.Length];
        return new(
            kernel,
            node.Attributes.Ints("strides") ?? ones,
            node.Attributes.Ints("dilations") ?? ones,
            pads[..kernel.Length],
            pads[kernel.Length..]
        );
    }

    /// <summary>Gives the attributes that <see cref="Of"/> reads, and others.</summary>
    public Attr[] Attributes(params ReadOnlySpan<Attr> others) =>
        [
            Ints("kernel_shape", Kernel),
            Ints("strides", Strides),
            Ints("dilations", Dilations),
            Ints("pads", [.. Begin, .. End]),
            .. others,
        ];

    /// <summary>Gives the positions from the first to the last of a window.</summary>
    public long Extent(int axis) => ((Kernel[axis] - 1) * Dilations[axis]) + 1;

    /// <summary>
    /// Gives how many positions of the padded big tensor lie behind the last window; negative where the last window
    /// reaches beyond
    /// the padding (ceil_mode). Null where that depends on a dynamic size.
    /// </summary>
    public long? Rest(int axis, Shape big, Shape small)
    {
        var (from, to) = (big[axis + 2], small[axis + 2]);
        if (from.IsKnown && to.IsKnown && ((from.IsStatic && to.IsStatic) || Strides[axis] == 1))
        {
            return from.First + Begin[axis] + End[axis] - (((to.First - 1) * Strides[axis]) + Extent(axis));
        }

        return Strides[axis] == 1 ? 0 : null;
    }

    /// <summary>
    /// Gives, for each window and each of its taps (row major), the flat index of the position in the big tensor; -1 in
    /// the padding.
    /// </summary>
    public long[] Positions(ReadOnlySpan<long> big, ReadOnlySpan<long> small)
    {
        var result = new long[] { 0 };
        var inside = new[] { true };
        var (windows, taps) = (1L, 1L);
        for (var axis = 0; axis < Rank; axis++)
        {
            var next = new long[checked(result.Length * small[axis] * Kernel[axis])];
            var nextInside = new bool[next.Length];
            for (var (w, at) = (0L, 0L); w < windows; w++)
            {
                for (var o = 0L; o < small[axis]; o++)
                {
                    for (var t = 0L; t < taps; t++)
                    {
                        for (var k = 0L; k < Kernel[axis]; k++, at++)
                        {
                            var position = (o * Strides[axis]) - Begin[axis] + (k * Dilations[axis]);
                            next[at] = (result[(w * taps) + t] * big[axis]) + position;
                            nextInside[at] = inside[(w * taps) + t] && position >= 0 && position < big[axis];
                        }
                    }
                }
            }

            (result, inside, windows, taps) = (next, nextInside, windows * small[axis], taps * Kernel[axis]);
        }

        return [.. result.Zip(inside, (position, isInside) => isInside ? position : -1)];
    }
}
