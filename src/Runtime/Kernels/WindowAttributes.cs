namespace MacOnnx.Runtime.Kernels;

/// <summary>
/// How windows lie along one axis: window o covers the positions o * stride - begin + t * dilation of the big tensor, t
/// = 0 .. kernel - 1. All numbers are below 2^28, so that the product of two of them is far from overflowing.
/// </summary>
/// <param name="Size">The number of positions of the big tensor.</param>
/// <param name="Outputs">The number of windows.</param>
/// <param name="Kernel">The positions of a window.</param>
/// <param name="Stride">From window to window.</param>
/// <param name="Dilation">From position to position of a window.</param>
/// <param name="Begin">The padding before the first position.</param>
internal readonly record struct WindowAxis(long Size, long Outputs, long Kernel, long Stride, long Dilation, long Begin)
{
    /// <summary>Gets an axis of length 1.</summary>
    public static WindowAxis One => new(1, 1, 1, 1, 1, 0);

    /// <summary>
    /// Gives the first position of a window, and its first and last place, exclusive, inside the tensor.
    /// </summary>
    public (long Start, long From, long To) Window(long output)
    {
        var start = (output * Stride) - Begin;
        return start >= 0 && start + ((Kernel - 1) * Dilation) < Size
            ? (start, 0, Kernel)
            : (
                start,
                start < 0 ? (Dilation - 1 - start) / Dilation : 0,
                Math.Min(Kernel, (Size - start + Dilation - 1) / Dilation)
            );
    }
}

/// <summary>The attributes that say how windows lie on one or two axes, checked.</summary>
internal sealed class WindowAttributes
{
    private const long Limit = 1 << 28,
        PadLimit = 1 << 20;

    private readonly long[] _kernel,
        _strides,
        _dilations,
        _pads;

    public WindowAttributes(KernelInfo info)
    {
        long[] Read(string name) =>
            info.Ints(name) ?? throw new InvalidOperationException($"The attribute {name} is missing.");
        (_kernel, _strides, _dilations, _pads) = (
            Read("kernel_shape"),
            Read("strides"),
            Read("dilations"),
            Read("pads")
        );
        var rank = _kernel.Length;
        if (
            rank is < 1 or > 2
            || _strides.Length != rank
            || _dilations.Length != rank
            || _pads.Length != 2 * rank
            || _strides.Concat(_dilations).Concat(_kernel).Any(n => n is < 1 or >= Limit)
            || _pads.Any(n => n is < 0 or >= PadLimit)
        )
        {
            throw new InvalidOperationException("The attributes are not those of windows over one or two axes.");
        }
    }

    /// <summary>Gets the number of spatial axes, 1 or 2.</summary>
    public int Rank => _kernel.Length;

    /// <summary>Gets the window's size; do not write to it.</summary>
    public ReadOnlySpan<long> Kernel => _kernel;

    /// <summary>
    /// Gives how windows lie on a tensor, [samples, channels, sizes...], one for each element of another.
    /// </summary>
    /// <exception cref="InvalidOperationException">The tensors cannot belong together.</exception>
    public (WindowAxis Row, WindowAxis Column) Axes(ReadOnlySpan<long> big, ReadOnlySpan<long> small)
    {
        if (
            big.Length != 2 + Rank
            || small.Length != big.Length
            || big[0] != small[0]
            || big.ContainsAnyExceptInRange(0, Limit - 1)
            || small.ContainsAnyExceptInRange(0, Limit - 1)
        )
        {
            throw new InvalidOperationException("The windows do not fit the tensors.");
        }

        return (Rank == 2 ? Axis(0, big, small) : WindowAxis.One, Axis(Rank - 1, big, small));
    }

    /// <summary>Gives the number of windows along an axis.</summary>
    public long OutputsOf(int axis, long size)
    {
        var reach = size + _pads[axis] + _pads[Rank + axis] - ((_kernel[axis] - 1) * _dilations[axis]) - 1;
        return reach >= 0
            ? (reach / _strides[axis]) + 1
            : throw new InvalidOperationException("A window is larger than the tensor.");
    }

    private WindowAxis Axis(int axis, ReadOnlySpan<long> big, ReadOnlySpan<long> small) =>
        new(big[2 + axis], small[2 + axis], _kernel[axis], _strides[axis], _dilations[axis], _pads[axis]);
}
